"""The main job: a token that works now, or a precise problem."""

import asyncio
import hmac
from datetime import datetime, timedelta

from service.core import lifetimes
from service.core.audit import Audit
from service.core.audit_store import Action
from service.core.caches import Caches
from service.core.clock import Clock
from service.core.errors import (
    BrokerError,
    GrantNotFound,
    InvalidRequest,
    InvalidUpstreamAnswer,
    KeyUnavailable,
    ReauthorizationRequired,
    RenewalInProgress,
    StoreUnavailable,
)
from service.core.handout import Handout, Source
from service.core.local_cache import LocalCache
from service.core.model import (
    AccessToken,
    Application,
    Grant,
    GrantId,
    GrantState,
    Reason,
    TokenAnswer,
    UpstreamRevocation,
)
from service.core.policy import Policy
from service.core.ports import GrantStore
from service.core.redeeming.objections import raise_if_dead
from service.core.renewal import Renewer
from service.core.sealing.vault import Vault
from service.core.singleflight import wait_for_flight
from service.core.upkeep.interest import Interest
from service.core.upkeep.revalidation import Confirmer
from service.core.upkeep.revocation import Revoker


class TokenBroker:
    """Hands out tokens, hears of rejected ones, takes over and ends grants."""

    def __init__(
        self,
        grants: GrantStore,
        renewer: Renewer,
        revoker: Revoker,
        vault: Vault,
        caches: Caches,
        local: LocalCache,
        confirmer: Confirmer,
        interest: Interest,
        audit: Audit,
        clock: Clock,
        policy: Policy,
    ) -> None:
        self._grants, self._renewer, self._revoker = grants, renewer, revoker
        self._vault, self._caches, self._local, self._confirmer = vault, caches, local, confirmer
        self._interest, self._audit, self._clock, self._policy = interest, audit, clock, policy

    async def get(self, application: Application, grant_id: GrantId, min_ttl: timedelta | None = None) -> Handout:
        """A token that lasts at least *min_ttl* (see `lifetimes.satisfies`), renewed if need be.

        When renewal fails the old token is handed out while it is valid, whatever *min_ttl*; never an expired one.

        Raises:
            GrantNotFound: this user was never connected.
            ReauthorizationRequired: only the user can help.
            UpstreamError: the provider is in trouble and there is no valid token.
            HouseError: we are in trouble and there is no valid token.
        """
        now, entry = self._clock.now(), self._local.get(grant_id)
        if (
            entry is not None
            and entry.serves(now.timestamp())
            and lifetimes.satisfies(entry.token, now, min_ttl)
            and not self._renewer.in_flight(grant_id)
        ):
            self._interest.note(grant_id)
            return Handout(entry.token, Source.LOCAL)
        token, source = entry.token if entry is not None else None, Source.LOCAL
        if token is None or not lifetimes.is_usable(token, now):
            token, source = await self._caches.shared_token(grant_id), Source.REDIS
        try:
            worth_asking = source is Source.REDIS or self._policy.local_cache > timedelta(0)
            if token is not None and worth_asking and await self._is_confirmed(grant_id, token, min_ttl):
                self._interest.note(grant_id)
                return Handout(token, source)
            asked_at, grant = self._clock.now(), await self._read(grant_id)
        except StoreUnavailable:
            if token is not None and lifetimes.is_usable(token, self._clock.now()):
                return Handout(token, source)
            raise
        self._interest.note(grant_id)
        ahead = self._ahead(grant, token)
        if ahead is not None:
            return Handout(ahead, source)
        return await self._serve(application, grant, min_ttl, asked_at)

    async def _is_confirmed(self, grant_id: GrantId, token: AccessToken, min_ttl: timedelta | None) -> bool:
        """Whether a cached *token* may be handed out now because the database says that it is the current one."""
        if not lifetimes.is_fresh(token, self._clock.now(), min_ttl) or self._renewer.in_flight(grant_id):
            return False
        confirmed_at, standing = await self._confirmer.confirm(grant_id)
        if standing is None or standing.state is not GrantState.CONNECTED or standing.claimed:
            return False
        if not standing.confirms(token):
            return False
        if not lifetimes.is_fresh(token, self._clock.now(), min_ttl) or self._renewer.in_flight(grant_id):
            return False  # asking took its time
        self._local.put(grant_id, token, confirmed_at)
        return True

    def _ahead(self, grant: Grant, cached: AccessToken | None) -> AccessToken | None:
        """A cached token that is newer than the database: some process has its answer and is still saving it."""
        if cached is None or not grant.is_older_than(cached) or grant.state is GrantState.REVOKED:
            return None
        return cached if lifetimes.is_usable(cached, self._clock.now()) else None

    async def rejected(self, application: Application, grant_id: GrantId, access_token: str) -> Handout:
        """A token other than *access_token*, which the provider answered with 401.

        Renews only if *access_token* is still the current one, so that any number of late reports costs nothing.

        Raises:
            RejectedTooOften: the last renewal upon a rejection is too recent.
            BrokerError: as `get`; the rejected token is never handed out again.
        """
        asked_at, grant = self._clock.now(), await self._read(grant_id)
        entry = self._local.get(grant_id)
        ahead = self._ahead(grant, entry.token if entry else None)
        current = ahead or self._vault.open_access(grant)
        if ahead is not None and not _same(ahead.value, access_token):
            handout = Handout(ahead, Source.LOCAL)
        elif current is None or not _same(current.value, access_token):
            handout = await self._serve(application, grant, None, asked_at)
        else:
            handout = await self._replace_rejected(application, grant, current)
        if _same(handout.token.value, access_token):
            self._local.drop(grant_id)
            raise InvalidUpstreamAnswer("The provider keeps handing out the very token that it rejects.")
        return handout

    async def _replace_rejected(self, application: Application, grant: Grant, rejected: AccessToken) -> Handout:
        """A dead grant still hands out its last token while it is valid, but not one that the provider rejects."""
        try:
            raise_if_dead(grant)
            handout = await self._renew(application, grant, None, instead_of=rejected)
            if handout.collapsed and _same(handout.token.value, rejected.value):  # that flight had brought it
                handout = await self._renew(application, grant, None, instead_of=rejected)
            return handout
        except ReauthorizationRequired:
            try:
                await self._grants.discard_access(grant.id, generation=grant.generation)
            finally:
                await self._caches.bury(grant.id, grant.generation)
            raise

    async def import_(
        self,
        application: Application,
        grant_id: GrantId,
        *,
        refresh_token: str,
        access_token: str | None,
        expires_in: timedelta | None,
        scope: str | None,
    ) -> tuple[Grant, bool]:
        """Take over a grant obtained elsewhere; the flag says whether it was created.

        A refresh token that is already stored, or was spent here, changes nothing: a repeated import restores nothing.

        Raises:
            InvalidRequest: the company has no refresh token.
        """
        if grant_id.is_company:
            raise InvalidRequest("The company's own grant has no refresh token to import.")
        now = self._clock.now()
        answer = TokenAnswer(access_token or "", refresh_token, scope, expires_in, sent_at=now)
        access = self._vault.date(answer, generation=0, scope=scope) if access_token else None
        sealed = self._vault.seal(
            grant_id, application, access=access, refresh_token=refresh_token, scope=scope, at=now
        )
        grant, created = await self._grants.import_(grant_id, sealed, at=now)
        await self._caches.withdraw(grant)
        await self._audit.note(Action.IMPORTED, grant=grant_id)
        return grant, created

    async def revoke(self, application: Application, grant_id: GrantId) -> UpstreamRevocation:
        """End the grant, here at once and at the provider as far as it can be told."""
        upstream = await self._revoker.revoke(application, grant_id)
        await self._audit.note(Action.REVOKED, grant=grant_id, code=upstream)
        return upstream

    def standing(self, grant: Grant) -> tuple[GrantState, Reason | None]:
        """Where *grant* stands: its stored state, or what its contents amount to."""
        if grant.state is not GrantState.CONNECTED or grant.id.is_company:
            return grant.state, grant.reason
        try:
            token = self._vault.open_access(grant)
            if grant.refresh_sealed is not None:
                self._vault.open_refresh(grant)
            elif grant.access_expires_at is None or self._clock.now() >= grant.access_expires_at:
                return GrantState.REAUTHORIZATION_REQUIRED, Reason.NO_REFRESH_TOKEN
            elif token is None:
                return GrantState.REAUTHORIZATION_REQUIRED, Reason.UNDECRYPTABLE
        except ReauthorizationRequired as dead:
            return GrantState.REAUTHORIZATION_REQUIRED, dead.reason
        except KeyUnavailable:
            return grant.state, grant.reason
        return grant.state, grant.reason

    async def _read(self, grant_id: GrantId) -> Grant:
        grant = await self._grants.get(grant_id)
        if grant is None and grant_id.is_company:
            await self._grants.ensure(grant_id)
            grant = await self._grants.get(grant_id)
        if grant is None or not grant.exists:
            raise GrantNotFound(grant_id)
        entry = self._local.get(grant_id)
        if entry is not None and entry.token.generation < grant.generation:
            self._local.drop(grant_id)
        return grant

    async def _serve(
        self, application: Application, grant: Grant, min_ttl: timedelta | None, asked_at: datetime
    ) -> Handout:
        """Hand out what the row holds, as it stood at *asked_at*, or renew it; caches that disagree are mended."""
        if grant.state is GrantState.REVOKED:
            await self._caches.bury(grant.id, grant.generation)
            raise_if_dead(grant)
        now, token = self._clock.now(), self._vault.open_access(grant)
        usable = token if token is not None and lifetimes.is_usable(token, now) else None
        if grant.state is not GrantState.CONNECTED and usable is not None:
            return Handout(usable, Source.RENEWAL_FAILING)
        raise_if_dead(grant)
        if (
            usable is not None
            and lifetimes.is_fresh(usable, now, min_ttl)
            and grant.claim is None
            and not self._renewer.in_flight(grant.id)
        ):
            await self._caches.publish(grant.id, usable, asked_at)
            return Handout(usable, Source.DATABASE)
        return await self._renew(application, grant, usable)

    async def _renew(
        self,
        application: Application,
        grant: Grant,
        old: AccessToken | None,
        *,
        instead_of: AccessToken | None = None,
    ) -> Handout:
        """Wait for a renewal: briefly while *old* is valid, else as long as a caller may be kept waiting."""
        failure: BrokerError
        task, collapsed = self._renewer.fly(application, grant, instead_of=instead_of)
        try:
            token = await self._wait(task, old)
            if lifetimes.is_usable(token, self._clock.now()):
                source = Source.URI_MISS if grant.access_sealed is None else Source.STALE
                return Handout(token, source, collapsed or self._renewer.only_waited(task))
            failure = InvalidUpstreamAnswer("The provider's tokens end before they can be handed out.")
        except TimeoutError:
            again = self._renewer.ask_again_in(task)
            failure = RenewalInProgress("The renewal takes longer than you may wait.", retry_after=again)
        except BrokerError as error:
            failure = error
        ended_by_us = isinstance(failure, ReauthorizationRequired) and failure.by_us
        if old is None or ended_by_us or self._local.has_buried(grant.id, old.generation):
            raise failure
        if lifetimes.is_usable(old, self._clock.now()):
            return Handout(old, Source.RENEWAL_FAILING)
        raise failure

    async def _wait(self, task: asyncio.Task[AccessToken], old: AccessToken | None) -> AccessToken:
        """What the flight brings, or TimeoutError; an *old* token that ends meanwhile shortens no caller's patience."""
        waited = timedelta(0)
        if old is not None:
            waited = self._policy.wait_while_valid
            try:
                return await wait_for_flight(task, waited)
            except TimeoutError:
                if lifetimes.is_usable(old, self._clock.now()):
                    raise
        return await wait_for_flight(task, self._policy.wait - waited)


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode("utf-8", "surrogatepass"))
