"""What is remembered of tokens here and by all replicas together: both caches, told the same."""

from datetime import datetime, timedelta

from service.core.clock import Clock
from service.core.lifetimes import usable_until
from service.core.local_cache import LocalCache
from service.core.model import AccessToken, Grant, GrantId, GrantState
from service.core.ports import TokenCache
from service.core.redeeming.steps import Step, Witness
from service.core.sealing.vault import Vault


class Caches:
    """This process's cache over the one that replicas share. Neither is the truth, and neither is an obstacle."""

    def __init__(self, local: LocalCache, shared: TokenCache, vault: Vault, clock: Clock, witness: Witness) -> None:
        self._local, self._shared, self._vault, self._clock, self._witness = local, shared, vault, clock, witness

    async def publish(self, grant: GrantId, token: AccessToken, confirmed_at: datetime) -> None:
        """Let everybody have *token*, which the database confirmed at *confirmed_at*, while it may be handed out."""
        self._local.put(grant, token, confirmed_at)
        ttl = usable_until(token) - self._clock.now()
        if ttl > timedelta(0):
            await self._shared.put(grant, token.generation, self._vault.seal_cached(grant, token), ttl)
            self._witness(Step.SHARED)

    async def shared_token(self, grant: GrantId) -> AccessToken | None:
        """What some replica published, unless this process knows that it was revoked or replaced."""
        cached = await self._shared.get(grant)
        if cached is None or self._local.has_buried(grant, cached.generation):
            return None
        return self._vault.open_cached(grant, cached)

    async def bury(self, grant: GrantId, generation: int) -> None:
        """Nothing up to *generation* is handed out any more: that much was revoked, or is dead and rejected."""
        self._local.bury(grant, generation, self._clock.now())
        await self._shared.bury(grant, generation)

    async def withdraw(self, row: Grant) -> None:
        """Whatever is there is wrong, for *row* has just been read: only what it holds, or newer, may come in again."""
        up_to = row.generation if row.state is GrantState.REVOKED else row.generation - 1
        self._local.bury(row.id, up_to, self._clock.now())
        await self._shared.forget(row.id, up_to=up_to)

    async def are_ahead_of(self, grant: GrantId, token: AccessToken) -> bool:
        """Whether a revocation that *token* comes too late for is remembered, or something newer than it."""
        if self._local.is_ahead_of(grant, token.generation):
            return True
        shared = await self._shared.get(grant)
        return shared is not None and (shared.generation, shared.sealed is None) > (token.generation, False)
