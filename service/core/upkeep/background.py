"""Renews before anybody has to wait: what callers use, and what would otherwise end unused."""

import asyncio
import secrets
from collections.abc import Sequence
from datetime import timedelta

from service.core.clock import Clock
from service.core.condition.shutdown import Shutdown
from service.core.directory import Directory
from service.core.errors import StoreUnavailable
from service.core.model import AccessToken, Application, Grant, GrantType
from service.core.policy import Policy
from service.core.ports import RenewalQueue
from service.core.records import Due
from service.core.redeeming.breaker import Breaker
from service.core.renewal import Renewer
from service.core.sealing import digests
from service.core.upkeep.errands import Errands
from service.core.upkeep.interest import Interest

MOST_UNHEARD = 100


class BackgroundRenewer:
    """Claims due grants in batches and flies them; every replica does, and no grant is claimed twice."""

    def __init__(
        self,
        queue: RenewalQueue,
        renewer: Renewer,
        directory: Directory,
        breaker: Breaker,
        interest: Interest,
        errands: Errands,
        shutdown: Shutdown,
        clock: Clock,
        policy: Policy,
    ) -> None:
        self._queue, self._renewer, self._directory, self._breaker = queue, renewer, directory, breaker
        self._interest, self._errands, self._shutdown = interest, errands, shutdown
        self._clock, self._policy = clock, policy
        self._unheard: dict[str, list[str]] = {}
        self._flights: set[asyncio.Task[AccessToken]] = set()
        self._rounds = 0

    async def tick(self) -> None:
        """Note who was asked for, then claim as much as the pace and this process's share allow.

        Raises:
            StoreUnavailable: the database cannot be asked; the next tick goes on.
        """
        await self._interest.flush()
        if self._shutdown.left < self._policy.upstream_deadline:
            return
        for application, grant_type in self._in_turn():
            if (room := self._room(application, grant_type)) > 0:
                await self._claim(application, grant_type, room)

    def _in_turn(self) -> Sequence[tuple[Application, GrantType]]:
        """All there is to renew for; every round another one begins, for the first may leave no room to the others."""
        ways = [(each, grant_type) for each in self._directory.applications for grant_type in sorted(each.grant_types)]
        self._rounds += 1
        first = self._rounds % max(len(ways), 1)
        return ways[first:] + ways[:first]

    def _room(self, application: Application, grant_type: GrantType) -> int:
        """How many more flights may start; while the application is in trouble just the one that probes it."""
        free, passing = (
            self._policy.background_at_once - len(self._flights),
            self._breaker.room(application, grant_type),
        )
        return free if passing is None else min(free, passing)

    async def _claim(self, application: Application, grant_type: GrantType, limit: int) -> None:
        now, began, attempt_id = self._clock.now(), self._clock.monotonic(), secrets.token_hex(16)
        active = self._policy.renew_active
        due = Due(
            application=application.name,
            grant_type=grant_type,
            fingerprint=digests.fingerprint(application),
            active_since=now - active if active > timedelta(0) else None,
            idle_since=now - self._policy.keep_alive,
            limit=limit,
            per_second=self._policy.renew_per_second,
        )
        claiming = asyncio.ensure_future(
            self._queue.claim_due(due, attempt_id=attempt_id, lease=self._policy.lease, takeover=self._policy.takeover)
        )
        try:
            claimed = await asyncio.shield(claiming)
        except asyncio.CancelledError:
            self._errands.run("claims", lambda: self._undo(application.name, attempt_id, claiming))
            raise
        except StoreUnavailable as unheard:
            if unheard.asked:
                self._give_back(application.name, attempt_id)
            raise
        for grant in claimed:
            task = self._renewer.fly_claimed(application, grant, began)
            self._flights.add(task)
            task.add_done_callback(self._flights.discard)

    async def _undo(self, application: str, attempt_id: str, claiming: asyncio.Future[Sequence[Grant]]) -> None:
        """This process ends. Cut off, the claim might be made or not: in a moment that is known."""
        await asyncio.wait({claiming})
        match claiming.exception():
            case None:
                await self._queue.release_all(application, attempt_id=attempt_id)
            case StoreUnavailable(asked=False):
                pass
            case _:
                self._give_back(application, attempt_id)

    def _give_back(self, application: str, attempt_id: str) -> None:
        """Perhaps claimed, without our hearing of it. While the database is away attempts gather in one errand."""
        unheard = self._unheard.get(application)
        if unheard is None:
            unheard = self._unheard[application] = []
            self._errands.run_twice("claims", lambda: self._release_all(application, unheard))
        unheard.append(attempt_id)
        del unheard[:-MOST_UNHEARD]

    async def _release_all(self, application: str, unheard: list[str]) -> None:
        for attempt_id in list(unheard):
            await self._queue.release_all(application, attempt_id=attempt_id)
        if self._unheard.get(application) is unheard:  # who is lost from now on gets an errand of its own
            del self._unheard[application]
