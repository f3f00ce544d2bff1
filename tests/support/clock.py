"""Time that stands still until a test moves it."""

import asyncio
from datetime import UTC, datetime, timedelta


class FakeClock:
    """A `Clock` for tests. Sleeping moves it, so that waiting costs no time; everybody shares the same instant."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = self._now = start

    def now(self) -> datetime:
        return self._now

    def timestamp(self) -> float:
        return self.now().timestamp()

    def monotonic(self) -> float:
        return (self._now - self._start).total_seconds()

    async def sleep(self, duration: timedelta) -> None:
        self.advance(duration)
        await asyncio.sleep(0)

    def advance(self, duration: timedelta | float) -> None:
        """Move on by *duration*, a timedelta or seconds."""
        self._now += duration if isinstance(duration, timedelta) else timedelta(seconds=duration)
