"""The only module that knows what time it is."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Time as the core sees it; tests inject their own."""

    def now(self) -> datetime:
        """The present instant, aware, in UTC."""
        ...

    def timestamp(self) -> float:
        """The present instant as seconds since 1970: `now`, for those who ask thousands of times a second."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards; only differences mean anything."""
        ...

    async def sleep(self, duration: timedelta) -> None:
        """Return once *duration* has passed."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    timestamp = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    async def sleep(self, duration: timedelta) -> None:
        await asyncio.sleep(duration.total_seconds())
