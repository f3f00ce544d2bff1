"""Writes that must reach the database although nobody waits for them."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar

from service.core.clock import Clock

log = logging.getLogger(__name__)

RETRY_FIRST = timedelta(milliseconds=250)
RETRY_LONGEST = timedelta(seconds=2)
LATE_COMMIT = timedelta(seconds=5)
"""By then a database that did not answer has done what it was asked, or never will."""

T = TypeVar("T")


async def until_stored(store: Callable[[], Awaitable[T]], clock: Clock, what: str) -> T:
    """Repeat *store* until the database takes it; each repetition must be harmless. *what* it is goes to the log."""
    pause, complained = RETRY_FIRST, ""
    while True:
        try:
            return await store()
        except Exception as failure:  # whatever the database says: this may be the only copy of a refresh token
            if complained != (complained := type(failure).__name__):
                log.warning("something waits for the database", extra={"what": what, "failure": complained})
            await clock.sleep(pause)
            pause = min(pause * 2, RETRY_LONGEST)


class Errands:
    """Runs them until they are done, or until the process ends."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tasks: set[asyncio.Task[Any]] = set()

    def run(self, what: str, store: Callable[[], Awaitable[object]]) -> None:
        """Repeat *store* in the background until the database takes it."""
        task = asyncio.ensure_future(until_stored(store, self._clock, what))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def run_twice(self, what: str, store: Callable[[], Awaitable[object]]) -> None:
        """As `run`, and once more when a database that did not answer has had the time to do what it was asked.

        For undoing what may have been done, or may yet be, without our knowing.
        """

        async def both() -> None:
            await store()
            await self._clock.sleep(LATE_COMMIT)
            await store()

        self.run(what, both)

    async def drain(self, timeout: timedelta) -> int:
        """Wait for all errands and what they give rise to, at most *timeout*; returns how many are left."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout.total_seconds()):
                while self._tasks:
                    await asyncio.wait(self._tasks)
        return len(self._tasks)
