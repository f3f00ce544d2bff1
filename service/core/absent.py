"""What stands in for parts that this deployment does without."""

from service.core.model import AccessToken, GrantId, SealedTokens


class NoTokenCache:
    """A `TokenCache` for a single machine: every process has its local cache and the database."""

    async def put(self, grant: GrantId, token: AccessToken) -> None:
        """Remembers nothing."""

    async def bury(self, grant: GrantId, generation: int) -> None:
        """Has nothing to bury."""


class NoEscrow:
    """An `Escrow` that keeps nothing: an unsaved answer then lives in the memory of this process alone."""

    async def put(self, grant: GrantId, generation: int, attempt_id: str, tokens: SealedTokens) -> None:
        """Keeps nothing."""
