"""How a process is made to die or to stop at a moment, and what its callers do meanwhile."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from service.core.redeeming.steps import Step
from tests.crash.matrix import GONE, IN_FLIGHT, PAUSED, PAUSED_LONG, PAUSED_PAST_LEASE, RECONNECTED, RESTARTED, Cell
from tests.crash.stage import Stage, Victim
from tests.support.brokers import Broker
from tests.support.crashing import until_dead, until_stopped
from tests.support.crashing_broker import Deed

SHORTLY_SECONDS = 0.3
PAST_DEADLINE_SECONDS = 1.1
"""A pause in flight outlasts the deadline: the answer waits in the socket when the process wakes up."""
ANSWER_DELAY_SECONDS = 0.7
IMPATIENT_SECONDS = 1.0
LATEST_SECONDS = 5.0

T = TypeVar("T")
Ask = Callable[[Broker, float], Awaitable[T | None]]
"""One request of the caller to a broker, within so many seconds; None when there was no answer."""

IS_MORTAL = frozenset({GONE, RESTARTED})
OUTLASTS_CALLERS = frozenset({PAUSED_LONG, PAUSED_PAST_LEASE, RECONNECTED})


def deeds_of(cell: Cell, *, database_lost_at: Step | None = None) -> list[Deed]:
    """What the victim has to do to itself; it stops for us to take the database away."""
    lost = [Deed(database_lost_at, signal.SIGSTOP)] if database_lost_at else []
    if cell.moment == IN_FLIGHT:
        return lost
    return [*lost, Deed(cell.moment, signal.SIGKILL if cell.fault in IS_MORTAL else signal.SIGSTOP)]


class Strike:
    """One fault that befalls one victim while a caller asks it."""

    def __init__(self, stage: Stage, cell: Cell, victim: Victim, *, database_lost: bool = False) -> None:
        self._stage, self._cell, self._victim, self._database_lost = stage, cell, victim, database_lost

    async def during(self, ask: Ask[T], until_in_flight: Callable[[], Awaitable[None]]) -> T:
        """Strike while the caller asks; returns its first whole answer, be it another replica's."""
        patience = IMPATIENT_SECONDS if self._cell.fault in OUTLASTS_CALLERS else 10.0
        asking = asyncio.ensure_future(ask(self._victim.broker, patience))
        if self._database_lost:
            await until_stopped(self._victim.broker)
            self._stage.postgres.kill()
            self._victim.broker.go_on()
            if self._cell.moment == Step.CLEARED:
                await asyncio.wait({asking})
                await self._database_back()
        if self._cell.moment == IN_FLIGHT:
            await until_in_flight()
            self._victim.broker.send(signal.SIGKILL if self._cell.fault in IS_MORTAL else signal.SIGSTOP)
        await self._befallen_or(asking)
        first = await asking
        if first is None:
            first = await ask(self._stage.steady, 10.0)
        assert first is not None, "the steady replica did not answer"
        await self._database_back()
        return first

    async def _befallen_or(self, asking: "asyncio.Future[T | None]") -> None:
        """Wait for the fault, but not for one that cannot come any more because the caller was answered."""
        striking = asyncio.ensure_future(self.befallen())
        await asyncio.wait([asking])
        await asyncio.wait([striking], timeout=LATEST_SECONDS)
        if not striking.done():
            striking.cancel()
            raise AssertionError(f"the step was never reached; the caller was told {asking.result()}")
        striking.result()

    async def befallen(self) -> None:
        """Return once the fault has happened; a short pause is over by then."""
        if self._cell.fault in IS_MORTAL:
            await until_dead(self._victim.broker)
            return
        await until_stopped(self._victim.broker)
        if self._cell.fault == PAUSED:
            await asyncio.sleep(PAST_DEADLINE_SECONDS if self._cell.moment == IN_FLIGHT else SHORTLY_SECONDS)
            self._victim.broker.go_on()

    async def survivors(self) -> Sequence[Broker]:
        """Who can be asked from now on: the process that came in its place, or itself."""
        if self._cell.fault == GONE:
            return [self._stage.steady]
        if self._cell.fault == RESTARTED:
            return [self._stage.steady, await self._victim.restart()]
        if self._cell.fault in OUTLASTS_CALLERS:
            self._victim.broker.go_on()
        return [self._stage.steady, self._victim.broker]

    async def _database_back(self) -> None:
        if self._database_lost and self._stage.postgres.process.poll() is not None:
            await asyncio.to_thread(self._stage.postgres.start)
