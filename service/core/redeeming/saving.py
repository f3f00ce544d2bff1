"""Brings a provider's answer into the database, whatever the database does, and tells the caches."""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta

from service.core.caches import Caches
from service.core.clock import Clock
from service.core.errors import ReauthorizationRequired, RenewalInProgress, StoreUnavailable
from service.core.escrow.custody import Custody
from service.core.model import (
    AccessToken,
    Application,
    Grant,
    GrantId,
    GrantState,
    Reason,
    TokenAnswer,
    WaitingAnswer,
)
from service.core.policy import Policy
from service.core.ports import AuthorizationStore, GrantStore
from service.core.redeeming.attempts import Attempt, Ending
from service.core.redeeming.settlements import Settlement, Verdict
from service.core.redeeming.steps import Step, Witness
from service.core.sealing.vault import Vault
from service.core.singleflight import wait_for_flight
from service.core.upkeep.errands import RETRY_FIRST, until_stored
from service.core.upkeep.revocation import Revoker

LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
"""When the database last confirmed what it has not seen yet."""

_ENDINGS = {
    Verdict.SAVED: Ending.SAVED,
    Verdict.SUPERSEDED: Ending.ADOPTED,
    Verdict.REVOKED: Ending.REVOKED_MEANWHILE,
    Verdict.DATABASE_BEHIND: Ending.DATABASE_BEHIND,
    Verdict.IN_ESCROW: Ending.ESCROWED,
    Verdict.IN_MEMORY: Ending.IN_MEMORY,
}
_UNSETTLED = {Verdict.IN_ESCROW, Verdict.IN_MEMORY}


class Saver:
    """Saves answers and publishes their tokens; what the database cannot take at once is tried until it does."""

    def __init__(
        self,
        grants: GrantStore,
        requests: AuthorizationStore,
        vault: Vault,
        custody: Custody,
        caches: Caches,
        revoker: Revoker,
        clock: Clock,
        policy: Policy,
        witness: Witness,
    ) -> None:
        self._grants, self._requests, self._vault, self._custody = grants, requests, vault, custody
        self._caches, self._revoker = caches, revoker
        self._clock, self._policy, self._witness = clock, policy, witness
        self._carried: dict[tuple[GrantId, str], asyncio.Task[Settlement]] = {}
        self._looking: set[asyncio.Task[Settlement | None]] = set()

    def carries(self, grant: GrantId, attempt_id: str) -> bool:
        """Whether this process is bringing in the answer of *attempt_id* right now."""
        return (grant, attempt_id) in self._carried

    async def save(
        self, application: Application, claimed: Grant, attempt_id: str, answer: TokenAnswer, attempt: Attempt
    ) -> AccessToken:
        """Put *answer* in as the next generation and return the token to hand out.

        That is the answer's own token, or the one of whoever won meanwhile. When the database does not commit within
        `save_patience` the answer goes to escrow and to the callers, and saving goes on without them: unless the row,
        or what the caches remember, shows that the grant was revoked or replaced meanwhile.

        Raises:
            ReauthorizationRequired: the grant was revoked meanwhile.
            RenewalInProgress: whoever won brought no token.
            StoreUnavailable: it was revoked or replaced meanwhile, and the database does not say which.
        """
        token = self._vault.date(answer, generation=claimed.generation + 1, scope=answer.scope or claimed.scope)
        sealed = self._vault.seal(
            claimed.id,
            application,
            access=token,
            refresh_token=answer.refresh_token,
            scope=token.scope,
            at=answer.sent_at,
        )
        waiting = WaitingAnswer(
            claimed.id, claimed.generation, attempt_id, self._clock.now(), sealed, based_on=claimed.issued_at
        )
        settlement = await self.bring_in(application, waiting)
        if settlement.verdict in _UNSETTLED and await self._caches.are_ahead_of(claimed.id, token):
            settlement = await self.until_settled(waiting) or await self._judge(waiting)
        attempt.ends_as(_ENDINGS[settlement.verdict])
        if settlement.verdict is Verdict.REVOKED:
            raise ReauthorizationRequired(claimed.id, Reason.REVOKED, by_us=True)
        if settlement.verdict is Verdict.SUPERSEDED:
            token = self._adopt(settlement.grant)
        await self._caches.publish(claimed.id, token, settlement.asked_at)
        self._witness(Step.PUBLISHED)
        return token

    async def bring_in(self, application: Application, answer: WaitingAnswer) -> Settlement:
        """Store *answer*; what became of it by the time it is stored or safe, whichever comes first.

        When it is not stored within `save_patience` it is put into escrow, and storing goes on in the background.
        """
        kept: asyncio.Future[Settlement] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._carry(application, answer, kept))
        key = answer.grant, answer.attempt_id
        self._carried[key] = task
        task.add_done_callback(lambda done: self._landed(key, done))
        await asyncio.wait({task, kept}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else kept.result()

    async def until_settled(self, answer: WaitingAnswer) -> Settlement | None:
        """What becomes of *answer*, however long that takes; None when it has been settled already."""
        task = self._carried.get((answer.grant, answer.attempt_id))
        return None if task is None else await asyncio.shield(task)

    async def _carry(
        self, application: Application, answer: WaitingAnswer, kept: asyncio.Future[Settlement]
    ) -> Settlement:
        tries, patience = itertools.count(), self._policy.save_patience.total_seconds()
        storing = asyncio.create_task(
            until_stored(lambda: self.settle(answer, late=next(tries) > 0), self._clock, "an answer")
        )
        try:
            settlement = await wait_for_flight(storing, self._policy.save_patience)
        except TimeoutError:
            safe = await self._custody.keep(answer)
            looking = asyncio.create_task(self._look(answer))
            self._looking.add(looking)  # and never cancelled: that would cost a slow database a connection
            looking.add_done_callback(self._looking.discard)
            await asyncio.wait({looking, storing}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if not storing.done():
                seen = looking.result() if looking.done() else None
                kept.set_result(seen or Settlement(Verdict.IN_ESCROW if safe else Verdict.IN_MEMORY, LONG_AGO))
            settlement = await storing
        await self.conclude(application, answer, settlement)
        return settlement

    async def _look(self, answer: WaitingAnswer) -> Settlement | None:
        """What a row that cannot be written may yet say of a renewal's *answer*; a login wins whatever it says."""
        if answer.ticket_digest is not None:
            return None
        try:
            return await self._judge(answer)
        except Exception:  # whatever the database says: it must not cost the callers their answer
            return None

    async def settle(self, answer: WaitingAnswer, *, late: bool = True) -> Settlement:
        """Try once to store *answer*; repeating it is harmless, whoever does. Every try but the very first is *late*.

        Raises:
            StoreUnavailable: it is not known whether it is stored.
        """
        asked_at = self._clock.now()
        if answer.ticket_digest is not None:
            stored = await self._connect(answer, answer.ticket_digest, late=late)
        else:
            stored = await self._grants.save(
                answer.grant,
                generation=answer.generation,
                attempt_id=answer.attempt_id,
                tokens=answer.tokens,
                at=asked_at,
            )
        self._witness(Step.SAVED)
        return Settlement(Verdict.SAVED, asked_at) if stored else await self._judge(answer)

    async def _connect(self, answer: WaitingAnswer, ticket_digest: bytes, *, late: bool) -> bool:
        now = self._clock.now()
        connected = await self._grants.connect(
            answer.grant, answer.tokens, at=now, attempt_id=answer.attempt_id, late=late
        )
        if connected is None:
            return False
        self._witness(Step.CONNECTED)
        await self._requests.complete(ticket_digest, at=now)
        self._witness(Step.COMPLETED)
        await self._caches.withdraw(connected)
        return True

    async def _judge(self, answer: WaitingAnswer) -> Settlement:
        """What became of *answer* by its row: stored, or somebody newer won, or the row is older than the answer's.

        Raises:
            StoreUnavailable: the row is the very one that the answer is based on, or cannot be read.
        """
        asked_at, current = self._clock.now(), await self._grants.get(answer.grant)
        if current is not None and current.saved_attempt_id == answer.attempt_id:
            return Settlement(Verdict.SAVED, asked_at, current)
        if current is None or current.predates(answer):
            return Settlement(Verdict.DATABASE_BEHIND, asked_at, current)
        if current.generation == answer.generation and answer.ticket_digest is None:
            raise StoreUnavailable("An answer was refused by the row that it is based on.")
        await self._caches.withdraw(current)
        revoked = current.state is GrantState.REVOKED
        return Settlement(Verdict.REVOKED if revoked else Verdict.SUPERSEDED, asked_at, current)

    async def conclude(self, application: Application | None, answer: WaitingAnswer, settlement: Settlement) -> None:
        """Do what follows from *settlement*: the escrow lets go of *answer*, or keeps it until somebody can help.

        An answer that came after its grant was revoked is handed back to the provider first. An *application* that is
        no longer registered has nobody to hand it back to.
        """
        if settlement.verdict is Verdict.DATABASE_BEHIND:
            await self._custody.keep(answer)
            return
        unwanted_by = application if settlement.verdict is Verdict.REVOKED else None
        if unwanted_by is not None and not await self._revoker.revoke_answer(unwanted_by, answer):
            await self._custody.keep(answer)
            return
        await self._custody.clear(answer)

    def _adopt(self, winner: Grant | None) -> AccessToken:
        token = self._vault.open_access(winner) if winner is not None else None
        if token is None:
            raise RenewalInProgress("Somebody else has just renewed this grant.", retry_after=RETRY_FIRST)
        return token

    def _landed(self, key: tuple[GrantId, str], task: asyncio.Task[Settlement]) -> None:
        del self._carried[key]
        if not task.cancelled():
            task.exception()

    async def drain(self, timeout: timedelta) -> int:
        """Wait for what is still unsaved, at most *timeout*; returns how many answers are then still on their way."""
        if self._carried:
            await asyncio.wait(self._carried.values(), timeout=timeout.total_seconds())
        return len(self._carried)
