"""Ends grants: unusable here at once, at the provider as soon as it can be told."""

import logging
from datetime import datetime, timedelta

from service.core.caches import Caches
from service.core.clock import Clock
from service.core.directory import Directory
from service.core.errors import ApplicationNotFound, BrokerError, ClientRejected, GrantNotFound
from service.core.model import Application, Grant, GrantId, SealedTokens, UpstreamRevocation, WaitingAnswer
from service.core.ports import AuthorizationServer, GrantStore, RenewalQueue
from service.core.redeeming.upstream import Outcome
from service.core.sealing.digests import fingerprint
from service.core.sealing.vault import Vault

log = logging.getLogger(__name__)

TOLD_AGAIN_AFTER = timedelta(seconds=30)
TOLD_AT_ONCE = 20


class Revoker:
    """Revokes grants, and answers that came too late for a grant already revoked."""

    def __init__(
        self,
        grants: GrantStore,
        server: AuthorizationServer,
        vault: Vault,
        caches: Caches,
        queue: RenewalQueue,
        directory: Directory,
        clock: Clock,
    ) -> None:
        self._grants, self._server, self._vault = grants, server, vault
        self._caches, self._clock = caches, clock
        self._queue, self._directory = queue, directory

    async def revoke(self, application: Application, grant: GrantId) -> UpstreamRevocation:
        """Make *grant* unusable and tell the provider (RFC 7009); says how far that came. Repeating it tries again.

        Raises:
            GrantNotFound: there is nothing to revoke.
            StoreUnavailable: nothing was revoked.
        """
        wanted = UpstreamRevocation.PENDING if application.revocation_url else UpstreamRevocation.NOT_CONFIGURED
        now = self._clock.now()
        revoked = await self._grants.revoke(grant, upstream=wanted, at=now, retry_at=now + TOLD_AGAIN_AFTER)
        if revoked is None:
            raise GrantNotFound(grant)
        await self._caches.bury(grant, revoked.generation)
        if revoked.upstream_revocation is UpstreamRevocation.PENDING:
            return await self._tell_provider(application, revoked)
        return revoked.upstream_revocation or UpstreamRevocation.NOT_CONFIGURED

    async def tell_again(self) -> None:
        """Tell the provider of those revocations that it has not heard of; each is left to one replica at a time.

        Raises:
            StoreUnavailable: they are not known at the moment.
        """
        for revoked in await self._queue.claim_revocations(limit=TOLD_AT_ONCE, pause=TOLD_AGAIN_AFTER):
            try:
                application = self._directory.application(revoked.id.application)
            except ApplicationNotFound:
                continue  # it may come back, and the token is of no use to anybody until then
            await self._tell_provider(application, revoked)

    async def revoke_answer(self, application: Application, answer: WaitingAnswer) -> bool:
        """Hand back what the provider issued for a grant that nobody wants any more; whether that is done with."""
        try:
            token = self._vault.open_answer(answer.grant, answer.tokens)
            if token is None or application.revocation_url is None or not _issued(application, answer.tokens):
                return True
            secret = self._vault.open_client_secret(application)
            await self._server.revoke(application, secret, token[0], hint=_hint(token[1]))
        except (Outcome, BrokerError) as failure:
            log.warning("a late answer could not be revoked upstream", extra={"outcome": type(failure).__name__})
            return False
        return True

    async def _tell_provider(self, application: Application, grant: Grant) -> UpstreamRevocation:
        try:
            told = await self._hand_back(application, grant)
            await self._grants.finish_revocation(grant.id, generation=grant.generation, upstream=told)
        except (Outcome, BrokerError) as failure:
            log.warning("the provider could not be told of a revocation", extra={"outcome": type(failure).__name__})
            return UpstreamRevocation.PENDING
        return told

    async def _hand_back(self, application: Application, grant: Grant) -> UpstreamRevocation:
        if application.revocation_url is None:
            return UpstreamRevocation.NOT_CONFIGURED
        if not _issued(application, grant):
            raise ClientRejected("It was issued to another client id or by another token URL; those may come back.")
        token, hint = self._what_to_revoke(grant)
        if token is not None:
            secret = self._vault.open_client_secret(application)
            await self._server.revoke(application, secret, token, hint=hint)
        return UpstreamRevocation.REVOKED

    def _what_to_revoke(self, grant: Grant) -> tuple[str | None, str]:
        """The refresh token while it lives, else the access token.

        Raises:
            ReauthorizationRequired: the refresh token's seal is broken; perhaps an older backup of the keys helps.
            KeyUnavailable: it is sealed with a key that we do not have.
        """
        if grant.refresh_sealed is not None and not _is_over(grant.refresh_expires_at, self._clock):
            return self._vault.open_refresh(grant), _hint(refresh=True)
        access = self._vault.open_access(grant)
        return (access.value if access else None), _hint(refresh=False)


def _issued(application: Application, held: Grant | SealedTokens) -> bool:
    """Whether *application*, as it now is, issued what is held: nobody else is sent it."""
    return held.fingerprint == fingerprint(application)


def _is_over(end: datetime | None, clock: Clock) -> bool:
    return end is not None and clock.now() >= end


def _hint(refresh: bool) -> str:
    return "refresh_token" if refresh else "access_token"
