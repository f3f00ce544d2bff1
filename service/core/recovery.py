"""Finds the answers that failures left behind, before a refresh token is used that they have spent."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime, timedelta

from service.core.clock import Clock
from service.core.custody import Custody
from service.core.directory import Directory
from service.core.errands import Errands
from service.core.errors import ApplicationNotFound, GrantNotFound, KeyUnavailable, StoreUnavailable
from service.core.health import READY, PartHealth, Readiness
from service.core.model import Application, Grant, GrantId, WaitingAnswer
from service.core.ports import GrantStore, TokenCache
from service.core.records import EscrowEntry
from service.core.saving import Saver, Settlement, Verdict
from service.core.steps import Step, Witness, nobody
from service.core.vault import Vault

log = logging.getLogger(__name__)

AT_ONCE = 10
ALARM_LASTS = timedelta(minutes=10)


class Recovery:
    """Replays escrow, and notices a database that went back in time."""

    def __init__(
        self,
        grants: GrantStore,
        custody: Custody,
        saver: Saver,
        directory: Directory,
        shared: TokenCache,
        vault: Vault,
        errands: Errands,
        clock: Clock,
        witness: Witness = nobody,
    ) -> None:
        self._grants, self._custody, self._saver, self._directory = grants, custody, saver, directory
        self._shared, self._vault, self._errands, self._clock = shared, vault, errands, clock
        self._witness = witness
        self._alarms: dict[GrantId, datetime] = {}

    @property
    def alarms(self) -> int:
        """How many grants were found older in the database than elsewhere, of late."""
        now = self._clock.now()
        self._alarms = {grant: at for grant, at in self._alarms.items() if now - at < ALARM_LASTS}
        return len(self._alarms)

    async def before_claim(self, grant: Grant) -> Grant:
        """*grant* as it stands once every answer that waits for it is in.

        Raises:
            StoreUnavailable: an answer waits that cannot be read or stored now, or something newer than the database
                shows that it went back in time: the refresh token in it is spent.
        """
        if grant.id.is_company:  # it has nothing that could be spent
            return grant
        if not self._custody.holds(grant.id) and not await self._something_is_newer(grant):
            self._alarms.pop(grant.id, None)
            return grant
        settlements = await self._settle(await self._custody.look(grant.id))
        current = await self._grants.get(grant.id)
        if current is None:
            raise GrantNotFound(grant.id)
        if _behind(settlements) or await self._something_is_newer(current):
            raise self._alarm(grant.id)
        self._alarms.pop(grant.id, None)
        return current

    async def after_claim(self, claimed: Grant) -> Grant | None:
        """The grant as it is by now, if an answer in escrow shows that it went on since it was claimed; else None.

        Raises:
            StoreUnavailable: escrow could not be looked into, or something else forbids to go on. The claim has been
                given back.
        """
        if claimed.claim is None or claimed.unfinished_generation != claimed.generation or claimed.id.is_company:
            return None
        attempt_id = claimed.claim.attempt_id
        try:
            settlements = await self._settle(await self._custody.look(claimed.id))
            if _behind(settlements):
                raise self._alarm(claimed.id)
        except (StoreUnavailable, KeyUnavailable):
            self._errands.run("a claim", lambda: self._grants.release(claimed.id, attempt_id=attempt_id))
            raise
        self._witness(Step.LOOKED_INTO_ESCROW)
        moved = [found.grant for found in settlements if found.grant and found.grant.generation > claimed.generation]
        return moved[-1] if moved else None

    async def replay(self) -> None:
        """Bring in everything that waits in any escrow that can be read.

        Raises:
            StoreUnavailable: the database does not take it; nothing is lost.
        """
        waiting = [
            entry for entry in await self._custody.entries() if not self._saver.carries(entry.grant, entry.attempt_id)
        ]
        for start in range(0, len(waiting), AT_ONCE):
            await asyncio.gather(*(self._replay(entry) for entry in waiting[start : start + AT_ONCE]))

    async def _replay(self, entry: EscrowEntry) -> None:
        answer = self._custody.open(entry)
        if answer is not None and _behind(await self._settle([answer])):
            self._alarm(entry.grant)

    async def _settle(self, answers: Sequence[WaitingAnswer]) -> Sequence[Settlement]:
        settlements = []
        for answer in answers:
            asked_at, current = self._clock.now(), await self._grants.get(answer.grant)
            if current is not None and current.is_another_than(answer):
                settlement = Settlement(Verdict.SUPERSEDED, asked_at, current)
            else:
                settlement = await self._saver.settle(answer)
            await self._saver.conclude(self._application(answer, settlement), answer, settlement)
            settlements.append(settlement)
        return settlements

    def _application(self, answer: WaitingAnswer, settlement: Settlement) -> Application | None:
        """To hand the answer back for; None when it is gone, which nobody knows before the applications were read."""
        if settlement.verdict is Verdict.REVOKED and not self._directory.is_loaded:
            raise StoreUnavailable("The applications have not been read yet.")
        try:
            return self._directory.application(answer.grant.application)
        except ApplicationNotFound:
            return None

    async def _something_is_newer(self, grant: Grant) -> bool:
        cached = await self._shared.get(grant.id)
        if cached is None or cached.generation <= grant.generation:
            return False
        token = self._vault.open_cached(grant.id, cached)
        return token is not None and grant.is_older_than(token)

    def _alarm(self, grant: GrantId) -> StoreUnavailable:
        if grant not in self._alarms:
            log.critical("the database is older than what has been handed out: was it restored from a backup?")
        self._alarms[grant] = self._clock.now()
        return StoreUnavailable("The database is older than what it was seen to hold; its refresh token is spent.")

    async def health(self) -> PartHealth:
        """A database that went back in time is for a person to judge."""
        if self.alarms:
            return PartHealth(Readiness.DEGRADED, f"{self.alarms} grants are older than what has been handed out")
        return READY


def _behind(settlements: Sequence[Settlement]) -> bool:
    return any(found.verdict is Verdict.DATABASE_BEHIND for found in settlements)
