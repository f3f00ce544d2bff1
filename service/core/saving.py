"""Brings a provider's answer into the database, whatever the database does, and tells the caches."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

from service.core.clock import Clock
from service.core.errors import ReauthorizationRequired, RenewalInProgress
from service.core.lifetimes import usable_until
from service.core.local_cache import LocalCache
from service.core.model import AccessToken, Application, Grant, GrantId, GrantState, Reason, SealedTokens, TokenAnswer
from service.core.policy import Policy
from service.core.ports import Escrow, GrantStore, TokenCache
from service.core.revocation import Revoker
from service.core.singleflight import wait_for_flight
from service.core.vault import Vault

log = logging.getLogger(__name__)

SAVE_RETRY = timedelta(milliseconds=250)


T = TypeVar("T")


async def until_stored(store: Callable[[], Awaitable[T]], clock: Clock) -> T:
    """Repeat *store* until the database takes it; each repetition must be harmless."""
    while True:
        try:
            return await store()
        except Exception as failure:  # whatever the database says: this may be the only copy of a refresh token
            log.warning("an answer of the provider waits for the database", extra={"failure": type(failure).__name__})
            await clock.sleep(SAVE_RETRY)


class Saver:
    """Saves answers and publishes their tokens; what the database cannot take at once is tried until it does."""

    def __init__(
        self,
        grants: GrantStore,
        vault: Vault,
        escrow: Escrow,
        shared: TokenCache,
        local: LocalCache,
        revoker: Revoker,
        clock: Clock,
        policy: Policy,
    ) -> None:
        self._grants, self._vault, self._escrow = grants, vault, escrow
        self._shared, self._local, self._revoker = shared, local, revoker
        self._clock, self._policy = clock, policy
        self._pending: dict[GrantId, asyncio.Task[Grant]] = {}

    def pending(self, grant: GrantId) -> bool:
        """Whether an answer for *grant* is published and not yet in the database."""
        return grant in self._pending

    async def save(self, application: Application, claimed: Grant, attempt_id: str, answer: TokenAnswer) -> AccessToken:
        """Put *answer* in as the next generation and return the token to hand out.

        That is the answer's own token, or the one of whoever won meanwhile. When the database does not commit within
        `save_patience` the answer goes to escrow and to the callers, and saving goes on without them.

        Raises:
            ReauthorizationRequired: the grant was revoked meanwhile; the answer has been revoked upstream.
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
        saving = asyncio.create_task(self._until_saved(application, claimed, attempt_id, sealed, answer))
        try:
            saved = await wait_for_flight(saving, self._policy.save_patience)
        except TimeoutError:
            self._pending[claimed.id] = saving
            saving.add_done_callback(lambda task: self._settled(claimed.id, task))
            await self._escrow.put(claimed.id, claimed.generation, attempt_id, sealed)
        else:
            if saved.saved_attempt_id != attempt_id:
                token = self._adopt(saved)
        self._local.put(claimed.id, token, self._clock.now())
        await self.publish(claimed.id, token)
        return token

    async def publish(self, grant: GrantId, token: AccessToken) -> None:
        """Let the other replicas have *token*, for as long as it may be handed out."""
        ttl = usable_until(token) - self._clock.now()
        if ttl > timedelta(0):
            await self._shared.put(grant, token.generation, self._vault.seal_cached(grant, token), ttl)

    def _adopt(self, winner: Grant) -> AccessToken:
        token = self._vault.open_access(winner)
        if token is None:
            raise RenewalInProgress("Somebody else has just renewed this grant.", retry_after=SAVE_RETRY)
        return token

    async def _until_saved(
        self, application: Application, claimed: Grant, attempt_id: str, tokens: SealedTokens, answer: TokenAnswer
    ) -> Grant:
        current = await until_stored(lambda: self._save_once(claimed, attempt_id, tokens), self._clock)
        if current is None or current.saved_attempt_id != attempt_id:
            self._local.drop(claimed.id)
            await self._shared.forget(claimed.id)
        if current is None or current.state is GrantState.REVOKED:
            await self._shared.bury(claimed.id, claimed.generation + 1)
            await self._revoker.revoke_answer(application, answer)
            raise ReauthorizationRequired(claimed.id, Reason.REVOKED, by_us=True)
        return current

    async def _save_once(self, claimed: Grant, attempt_id: str, tokens: SealedTokens) -> Grant | None:
        await self._grants.save(
            claimed.id, generation=claimed.generation, attempt_id=attempt_id, tokens=tokens, at=self._clock.now()
        )
        return await self._grants.get(claimed.id)

    def _settled(self, grant: GrantId, task: asyncio.Task[Grant]) -> None:
        self._pending.pop(grant, None)
        if not task.cancelled():
            task.exception()

    async def drain(self, timeout: timedelta) -> int:
        """Wait for what is still unsaved, at most *timeout*; returns how many answers are then still pending."""
        if self._pending:
            await asyncio.wait(self._pending.values(), timeout=timeout.total_seconds())
        return len(self._pending)
