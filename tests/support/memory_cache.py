"""A `TokenCache` in a dictionary."""

from datetime import datetime, timedelta

from service.core.clock import Clock
from service.core.model import GrantId
from service.core.ports import CachedToken


class MemoryTokenCache:
    """Behaves like Redis as long as nothing fails."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: dict[GrantId, tuple[CachedToken, datetime]] = {}

    async def get(self, grant: GrantId) -> CachedToken | None:
        entry = self._entries.get(grant)
        return entry[0] if entry and self._clock.now() < entry[1] else None

    async def put(self, grant: GrantId, generation: int, sealed: bytes, ttl: timedelta) -> None:
        if ttl > timedelta(0):
            await self._write(grant, CachedToken(generation, sealed), ttl)

    async def bury(self, grant: GrantId, generation: int) -> None:
        await self._write(grant, CachedToken(generation, None), timedelta(days=1))

    async def forget(self, grant: GrantId) -> None:
        self._entries.pop(grant, None)

    async def _write(self, grant: GrantId, entry: CachedToken, ttl: timedelta) -> None:
        known = await self.get(grant)
        if known is None or known.generation < entry.generation:
            self._entries[grant] = (entry, self._clock.now() + ttl)
