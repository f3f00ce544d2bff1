"""Finds the answers that failures left behind, before a refresh token is used that they have spent."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from service.core.clock import Clock
from service.core.condition.health import READY, PartHealth, Readiness
from service.core.directory import Directory
from service.core.errors import ApplicationNotFound, BrokerError, GrantNotFound, KeyUnavailable, StoreUnavailable
from service.core.escrow.custody import Custody
from service.core.lifetimes import next_retry
from service.core.model import Application, Claim, Grant, GrantId, WaitingAnswer
from service.core.policy import Policy
from service.core.ports import GrantStore, TokenCache
from service.core.records import EscrowEntry, Setback
from service.core.redeeming.saving import Saver
from service.core.redeeming.settlements import Settlement, Verdict
from service.core.redeeming.steps import Step, Witness
from service.core.sealing.vault import Vault
from service.core.upkeep.errands import Errands

log = logging.getLogger(__name__)

AT_ONCE = 10
PAUSE_FIRST = timedelta(seconds=30)
PAUSE_LONGEST = timedelta(hours=1)
ALARM_LASTS = timedelta(minutes=10)


class _WentBack(StoreUnavailable):
    """The database went back in time: what the row holds as the grant's refresh token is spent."""

    def __init__(self) -> None:
        super().__init__("The database is older than what it was seen to hold; its refresh token is spent.")


@dataclass(frozen=True, slots=True)
class _Later:
    until: datetime
    pause: timedelta


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
        policy: Policy,
        witness: Witness,
    ) -> None:
        self._grants, self._custody, self._saver, self._directory = grants, custody, saver, directory
        self._shared, self._vault, self._errands, self._clock = shared, vault, errands, clock
        self._policy, self._witness = policy, witness
        self._later: dict[tuple[GrantId, str], _Later] = {}
        self._alarms: dict[GrantId, datetime] = {}

    @property
    def alarms(self) -> int:
        """How many grants were found older in the database than elsewhere, of late."""
        now = self._clock.now()
        self._alarms = {grant: at for grant, at in self._alarms.items() if now - at < ALARM_LASTS}
        return len(self._alarms)

    async def before_claim(self, grant: Grant) -> Grant:
        """*grant* as it stands once every answer that is known to wait for it is in.

        Raises:
            StoreUnavailable: as `after_claim`.
        """
        if grant.id.is_company or not self._custody.holds(grant.id):  # the company has nothing that could be spent
            return grant
        await self._bring_in(grant)
        return await self._reread(grant.id)

    async def after_claim(self, claimed: Grant) -> Grant | None:
        """The grant as it is by now, if something shows that it went on since it was claimed; else None.

        Asked by whoever is about to send its refresh token, and looks wherever an answer may be that has spent it.

        Raises:
            StoreUnavailable: an answer waits that cannot be read or stored now, escrow could not be looked into, or
                something newer than the database shows that it went back in time. The claim has been given back, and
                the grant is left alone for a while.
            KeyUnavailable: the same, for want of a sealing key.
        """
        if claimed.claim is None or claimed.id.is_company:
            return None
        unfinished, current = claimed.unfinished_generation == claimed.generation, claimed
        try:
            newer = await self._something_is_newer(claimed)
            if unfinished or newer or self._custody.holds(claimed.id):
                found = await self._bring_in(claimed)
                self._witness(Step.LOOKED_INTO_ESCROW)
                if found or newer:
                    current = await self._reread(claimed.id)
                    if await self._something_is_newer(current):
                        raise self._alarm(claimed.id)
        except (StoreUnavailable, KeyUnavailable) as hindrance:
            self._give_back(claimed, claimed.claim, hindrance)
            raise
        self._alarms.pop(claimed.id, None)
        return current if current.generation > claimed.generation else None

    async def _bring_in(self, grant: Grant) -> int:
        """How many answers waited for *grant* and have been brought in."""
        settlements = await self._settle(await self._custody.look(grant))
        if _behind(settlements):
            raise self._alarm(grant.id)
        return len(settlements)

    def _give_back(self, claimed: Grant, claim: Claim, hindrance: BrokerError) -> None:
        """Nothing was sent. Noted like a setback, so that nobody tries the same again at once and for ever.

        A spent refresh token is noted as well: what shows it, a cached token, does not outlive that token, and a
        refusal after that would look like the user's own will.
        """
        now = self._clock.now()
        retry_at = now + next_retry(claimed.failures + 1, self._policy, jitter=0.0)
        spent = isinstance(hindrance, _WentBack)
        setback = Setback(hindrance.code, now, retry_at=retry_at, finished=True, spent=spent)
        self._errands.run(
            "a claim",
            lambda: self._grants.note_setback(claimed.id, attempt_id=claim.attempt_id, setback=setback),
        )

    async def _reread(self, grant: GrantId) -> Grant:
        current = await self._grants.get(grant)
        if current is None:
            raise GrantNotFound(grant)
        return current

    async def replay(self) -> None:
        """Bring in everything that waits in any escrow that can be read; what cannot come in hinders nothing else.

        Raises:
            StoreUnavailable: the database does not take it; nothing is lost.
        """
        waiting = [entry for entry in await self._custody.entries() if self._is_worth_a_try(entry)]
        for start in range(0, len(waiting), AT_ONCE):
            batch = waiting[start : start + AT_ONCE]
            ends = await asyncio.gather(*(self._replay(entry) for entry in batch), return_exceptions=True)
            for end in ends:
                if isinstance(end, StoreUnavailable):
                    raise end
                if isinstance(end, BaseException):
                    log.error("an answer in escrow could not be brought in", exc_info=end)

    def _is_worth_a_try(self, entry: EscrowEntry) -> bool:
        if self._saver.carries(entry.grant, entry.attempt_id):
            return False
        later = self._later.get((entry.grant, entry.attempt_id))
        return later is None or self._clock.now() >= later.until

    async def _replay(self, entry: EscrowEntry) -> None:
        answer, key = self._custody.open(entry), (entry.grant, entry.attempt_id)
        if answer is None:
            return
        (settlement,) = await self._settle([answer])
        if settlement.verdict is Verdict.DATABASE_BEHIND:
            self._alarm(entry.grant)
        if self._custody.knows(answer):  # somebody else has to do something first: the operator, or the provider
            last = self._later.get(key)
            pause = PAUSE_FIRST if last is None else min(last.pause * 2, PAUSE_LONGEST)
            self._later[key] = _Later(self._clock.now() + pause, pause)
        else:
            self._later.pop(key, None)

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

    def _alarm(self, grant: GrantId) -> _WentBack:
        if grant not in self._alarms:
            log.critical("the database is older than what has been handed out: was it restored from a backup?")
        self._alarms[grant] = self._clock.now()
        return _WentBack()

    async def health(self) -> PartHealth:
        """A database that went back in time is for a person to judge."""
        if self.alarms:
            return PartHealth(Readiness.DEGRADED, f"{self.alarms} grants are older than what has been handed out")
        return READY


def _behind(settlements: Sequence[Settlement]) -> bool:
    return any(found.verdict is Verdict.DATABASE_BEHIND for found in settlements)
