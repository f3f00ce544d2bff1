"""Goes around a part that is in trouble: its timeout is paid once, then only a probe in the background asks it."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

from service.core.clock import Clock

PROBE_EVERY = timedelta(seconds=1)


class Bypass:
    """Whether to ask a part at all; while it is in trouble, *probe* is asked once a second whether it is well again."""

    def __init__(self, clock: Clock, probe: Callable[[], Awaitable[bool]]) -> None:
        self._clock, self._probe = clock, probe
        self._probing: asyncio.Task[None] | None = None

    @property
    def is_down(self) -> bool:
        return self._probing is not None

    def failed(self) -> None:
        """The part did not answer, or not in time: leave it alone until it does."""
        if self._probing is None:
            self._probing = asyncio.create_task(self._until_well())

    async def _until_well(self) -> None:
        try:
            await self._clock.sleep(PROBE_EVERY)
            while not await self._probe():
                await self._clock.sleep(PROBE_EVERY)
        finally:
            self._probing = None

    async def close(self) -> None:
        """Stop probing."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait({self._probing})
