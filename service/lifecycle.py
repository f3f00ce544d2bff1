"""What lives as long as the process: begun and ended in order, with the work it does by itself in between."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from service.adapters.sql_database import Database
from service.adapters.sql_migrations import migrate
from service.core.assembly import Core
from service.core.clock import Clock
from service.core.condition.health import Check, Readiness
from service.core.condition.shutdown import Shutdown
from service.core.errors import StoreUnavailable
from service.core.sealing.rotation import Rotation
from service.core.services import Services
from service.core.upkeep.census import Census
from service.core.upkeep.periodic import every

log = logging.getLogger(__name__)

LAST_CHANCE = timedelta(milliseconds=100)
"""For each part whose time for draining has been used up by others."""

CANCEL_AGAIN, MOST_CANCELS = 1.0, 5
"""Seconds after which a task that was cancelled and goes on is cancelled again, and how often."""


class Closable(Protocol):
    """Something that holds connections."""

    async def close(self) -> None: ...


class Drainable(Protocol):
    """Something that has work under way."""

    async def drain(self, timeout: timedelta) -> int:
        """Wait for it, at most *timeout*; returns how much is left."""
        ...


@dataclass(frozen=True, slots=True)
class Duty:
    """Work that the process does by itself, again and again; `at_once` for the first time when it has started."""

    what: str
    period: timedelta
    work: Callable[[], Awaitable[object]]
    at_once: bool = False


@dataclass(slots=True)
class Container:
    """Everything that lives as long as the process. *works_alone* False leaves periodic work to whoever asks for it."""

    database: Database
    rotation: Rotation
    services: Services
    core: Core
    durability: Check
    census: Census
    clock: Clock
    _duties: tuple[Duty, ...]
    _drains: tuple[Drainable, ...]
    _closes: tuple[Closable, ...]
    _shutdown: Shutdown
    _works_alone: bool
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """Bring SQLite's schema up to date, read the callers, and bring in what an earlier process left in escrow.

        A database that is away may come later; until then no grant is renewed for which an answer waits.
        """
        try:
            if self.database.is_sqlite:
                await migrate(self.database)
            await self.services.directory.check()
        except StoreUnavailable as away:
            log.warning("the database cannot be asked yet; starting without it", extra={"detail": away.detail})
        try:
            await self.core.recovery.replay()
        except StoreUnavailable:
            log.warning("answers in escrow wait for the database")
        except Exception:
            log.exception("escrow could not be replayed")
        durability = await self.durability()
        if durability.readiness is not Readiness.READY and not self.database.is_bypassed:
            log.error("the database is not safe", extra={"detail": durability.detail})
        if self._works_alone:
            self._tasks += [
                asyncio.create_task(every(duty.period, duty.work, self.clock, duty.what, at_once=duty.at_once))
                for duty in self._duties
            ]

    async def close(self) -> None:
        """Let flights land and answers reach the database within the time for draining, then close in reverse order."""
        await _cancel(self._tasks)
        self._shutdown.begin()
        for part in self._drains:
            left = await part.drain(max(self._shutdown.left, LAST_CHANCE))
            if left:
                log.error("closing with unfinished work", extra={"part": type(part).__name__, "count": left})
        for connected in self._closes:
            await connected.close()


async def _cancel(tasks: Collection[asyncio.Task[None]]) -> None:
    """End *tasks*. Python 3.11's `wait_for`, which drivers use, may swallow a cancellation: so it is repeated."""
    left = set(tasks)
    for _ in range(MOST_CANCELS):
        if not left:
            return
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN)
    if left:
        log.error("closing though some work did not stop", extra={"count": len(left)})
