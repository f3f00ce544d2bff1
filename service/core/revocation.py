"""Ends grants: unusable here at once, at the provider as soon as it can be told."""

import logging

from service.core.clock import Clock
from service.core.errors import BrokerError, GrantNotFound
from service.core.local_cache import LocalCache
from service.core.model import Application, Grant, GrantId, TokenAnswer, UpstreamRevocation
from service.core.ports import AuthorizationServer, GrantStore, TokenCache
from service.core.upstream import Outcome
from service.core.vault import Vault

log = logging.getLogger(__name__)


class Revoker:
    """Revokes grants, and answers that came too late for a grant already revoked."""

    def __init__(
        self,
        grants: GrantStore,
        server: AuthorizationServer,
        vault: Vault,
        shared: TokenCache,
        local: LocalCache,
        clock: Clock,
    ) -> None:
        self._grants, self._server, self._vault = grants, server, vault
        self._shared, self._local, self._clock = shared, local, clock

    async def revoke(self, application: Application, grant: GrantId) -> UpstreamRevocation:
        """Make *grant* unusable and tell the provider (RFC 7009); says how far that came. Repeating it tries again.

        Raises:
            GrantNotFound: there is nothing to revoke.
            StoreUnavailable: nothing was revoked.
        """
        wanted = UpstreamRevocation.PENDING if application.revocation_url else UpstreamRevocation.NOT_CONFIGURED
        revoked = await self._grants.revoke(grant, upstream=wanted, at=self._clock.now())
        if revoked is None:
            raise GrantNotFound(grant)
        self._local.drop(grant)
        await self._shared.bury(grant, revoked.generation)
        if revoked.upstream_revocation is UpstreamRevocation.PENDING and application.revocation_url:
            return await self._tell_provider(application, revoked)
        return revoked.upstream_revocation or UpstreamRevocation.NOT_CONFIGURED

    async def revoke_answer(self, application: Application, answer: TokenAnswer) -> None:
        """Hand back what the provider issued for a grant that nobody wants any more."""
        if application.revocation_url is None:
            return
        token, hint = answer.refresh_token or answer.access_token, _hint(answer.refresh_token is not None)
        try:
            secret = self._vault.open_client_secret(application)
            await self._server.revoke(application, secret, token, hint=hint)
        except (Outcome, BrokerError) as failure:
            log.warning("a late answer could not be revoked upstream", extra={"outcome": type(failure).__name__})

    async def _tell_provider(self, application: Application, grant: Grant) -> UpstreamRevocation:
        try:
            token, hint = self._what_to_revoke(grant)
            if token is not None:
                secret = self._vault.open_client_secret(application)
                await self._server.revoke(application, secret, token, hint=hint)
            await self._grants.finish_revocation(grant.id, generation=grant.generation)
        except (Outcome, BrokerError) as failure:
            log.warning("the provider could not be told of a revocation", extra={"outcome": type(failure).__name__})
            return UpstreamRevocation.PENDING
        return UpstreamRevocation.REVOKED

    def _what_to_revoke(self, grant: Grant) -> tuple[str | None, str]:
        if grant.refresh_sealed is not None:
            return self._vault.open_refresh(grant), _hint(refresh=True)
        access = self._vault.open_access(grant)
        return (access.value if access else None), _hint(refresh=False)


def _hint(refresh: bool) -> str:
    return "refresh_token" if refresh else "access_token"
