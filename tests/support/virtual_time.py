"""An event loop whose time jumps to the next timer as soon as nothing else is left to do, and the clock that shows it.

Every timeout and every `sleep` of the code under test then takes its full time, in no time, and always in the same
order.
"""

import asyncio
import math
import selectors
from datetime import UTC, datetime, timedelta

from tests.support.clock import FakeClock


class _JumpingSelector(selectors.DefaultSelector):
    """Where the loop would wait for its next timer, it is that time at once."""

    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise AssertionError("everybody waits for something that will never happen")
        self.loop.elapsed = max(self.loop.elapsed + timeout, math.nextafter(self.loop.elapsed, math.inf))
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """`elapsed` is the time since its start, in seconds."""

    def __init__(self) -> None:
        selector = _JumpingSelector()
        selector.loop = self
        self.elapsed = 0.0
        super().__init__(selector)
        self._clock_resolution = 1e-6  # far from its start a float tells no finer steps apart

    def time(self) -> float:
        return self.elapsed


class VirtualClock(FakeClock):
    """The time of a `VirtualLoop`.

    `advance` moves it while everybody is paused; `asyncio.sleep` lets everybody live through the time.
    """

    def __init__(self, loop: VirtualLoop, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        super().__init__(start)
        self._loop = loop

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._loop.elapsed)

    def monotonic(self) -> float:
        return self._loop.elapsed

    async def sleep(self, duration: timedelta) -> None:
        await asyncio.sleep(duration.total_seconds())

    def advance(self, duration: timedelta | float) -> None:
        self._loop.elapsed += duration.total_seconds() if isinstance(duration, timedelta) else duration

    def ahead(self, duration: timedelta) -> "VirtualClock":
        """The clock of a machine whose time is ahead of this one's."""
        return VirtualClock(self._loop, self._start + duration)
