"""What stands in for parts that this deployment does without."""

from datetime import timedelta

from service.core.model import GrantId
from service.core.records import CachedToken


class NoTokenCache:
    """A `TokenCache` for a single machine: every process has its local cache and the database."""

    async def get(self, grant: GrantId) -> CachedToken | None:
        """Knows nothing."""
        return None

    async def put(self, grant: GrantId, generation: int, sealed: bytes, ttl: timedelta) -> None:
        """Remembers nothing."""

    async def bury(self, grant: GrantId, generation: int) -> None:
        """Has nothing to bury."""

    async def forget(self, grant: GrantId, *, up_to: int) -> None:
        """Has nothing to forget."""
