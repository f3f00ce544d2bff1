"""One attempt to renew one claimed grant: open, send, and sort what comes of it."""

import logging
from collections.abc import Callable
from datetime import timedelta

from service.core.breaker import Breaker
from service.core.clock import Clock
from service.core.errors import (
    BrokerError,
    ClientRejected,
    InvalidUpstreamAnswer,
    ReauthorizationRequired,
    RenewalInProgress,
    StoreUnavailable,
    UpstreamError,
    UpstreamUnavailable,
)
from service.core.lifetimes import next_retry
from service.core.model import AccessToken, Application, Claim, Grant, GrantType, Reason, TokenAnswer
from service.core.policy import Policy
from service.core.ports import AuthorizationServer, GrantStore
from service.core.records import Setback
from service.core.saving import Saver
from service.core.upstream import Ambiguous, ClientRefused, InvalidGrant, NotSent, Outcome, RateLimited
from service.core.vault import Vault

log = logging.getLogger(__name__)


class Redeemer:
    """Redeems what a claimed grant holds for a new access token."""

    def __init__(
        self,
        grants: GrantStore,
        server: AuthorizationServer,
        vault: Vault,
        saver: Saver,
        breaker: Breaker,
        clock: Clock,
        policy: Policy,
        jitter: Callable[[], float],
    ) -> None:
        self._grants, self._server, self._vault, self._saver = grants, server, vault, saver
        self._breaker, self._clock, self._policy, self._jitter = breaker, clock, policy, jitter

    async def redeem(self, application: Application, grant: Grant, claim: Claim, began: float) -> AccessToken:
        """The new token of *grant*, whose *claim* was asked for at *began* on the monotonic clock.

        The refresh token leaves us at most once. Whatever happens is written into the row before this ends, and when
        even that fails the claim stays as it is: unfinished.

        Raises:
            BrokerError: what callers without a valid token have to be told.
        """
        try:
            answer = await self._send(application, grant, began)
        except InvalidGrant:
            self._breaker.close(application, _grant_type(grant))  # the client itself was accepted
            raise await self._refused_grant(grant, claim) from None
        except Outcome as outcome:
            raise await self._failed(application, grant, claim, outcome) from None
        except BrokerError:
            await self._grants.release(grant.id, attempt_id=claim.attempt_id)
            raise
        self._breaker.close(application, _grant_type(grant))
        return await self._saver.save(application, grant, claim.attempt_id, answer)

    async def _send(self, application: Application, grant: Grant, began: float) -> TokenAnswer:
        secret = self._vault.open_client_secret(application)
        refresh_token = None if grant.id.is_company else self._vault.open_refresh(grant)
        left = self._policy.lease - timedelta(seconds=self._clock.monotonic() - began)
        if left < self._policy.upstream_deadline:
            raise RenewalInProgress("The claim ran out before anything was sent.", retry_after=timedelta(seconds=1))
        if refresh_token is None:
            return await self._server.client_credentials(application, secret)
        return await self._server.refresh(application, secret, refresh_token)

    async def _refused_grant(self, grant: Grant, claim: Claim) -> BrokerError:
        """`invalid_grant`: the grant is dead, if its refresh token is still the one that was refused."""
        if grant.id.is_company:
            return await self._set_back(grant, claim, InvalidUpstreamAnswer("The provider says invalid_grant."))
        reason = _reason_of_death(grant, self._clock)
        died = await self._grants.declare_dead(
            grant.id,
            generation=grant.generation,
            attempt_id=claim.attempt_id,
            reason=reason,
            code=InvalidGrant.label,
            at=self._clock.now(),
        )
        if died:
            return ReauthorizationRequired(grant.id, reason)
        return RenewalInProgress("Somebody else has just renewed this grant.", retry_after=timedelta(seconds=1))

    async def _failed(self, application: Application, grant: Grant, claim: Claim, outcome: Outcome) -> BrokerError:
        log.warning("a renewal failed", extra={"application": application.name, "outcome": outcome.label})
        match outcome:
            case ClientRefused() | RateLimited():
                return await self._trouble_of_application(application, grant, claim, outcome)
            case Ambiguous() if not grant.id.is_company:
                return await self._left_unfinished(grant, claim, outcome)
            case NotSent() | Ambiguous(unreadable=False):
                return await self._set_back(grant, claim, UpstreamUnavailable(outcome.detail))
            case _:
                return await self._set_back(grant, claim, InvalidUpstreamAnswer(outcome.detail))

    async def _trouble_of_application(
        self, application: Application, grant: Grant, claim: Claim, outcome: Outcome
    ) -> BrokerError:
        error: UpstreamError
        if isinstance(outcome, ClientRefused):
            error = ClientRejected(outcome.detail)
        else:
            error = UpstreamUnavailable(outcome.detail)
        error.retry_after = self._breaker.trip(application, _grant_type(grant), error, outcome.retry_after)
        await self._grants.release(grant.id, attempt_id=claim.attempt_id)
        return error

    async def _left_unfinished(self, grant: Grant, claim: Claim, outcome: Ambiguous) -> BrokerError:
        """The refresh token may be spent: nobody may redeem over this claim before its takeover."""
        error: UpstreamError
        error = InvalidUpstreamAnswer(outcome.detail) if outcome.unreadable else UpstreamUnavailable(outcome.detail)
        now, retry_at = self._clock.now(), claim.lease_until + self._policy.takeover
        setback = Setback(code=error.code, at=now, retry_at=retry_at, finished=False)
        await self._note(grant, claim, setback)
        error.retry_after = retry_at - now
        return error

    async def _set_back(self, grant: Grant, claim: Claim, error: UpstreamError) -> BrokerError:
        now = self._clock.now()
        error.retry_after = next_retry(grant.failures + 1, self._policy, self._jitter())
        setback = Setback(code=error.code, at=now, retry_at=now + error.retry_after, finished=True)
        await self._note(grant, claim, setback)
        return error

    async def _note(self, grant: Grant, claim: Claim, setback: Setback) -> None:
        try:
            await self._grants.note_setback(grant.id, attempt_id=claim.attempt_id, setback=setback)
        except StoreUnavailable:
            log.warning("a failed renewal could not be noted; its claim stays unfinished")


def _grant_type(grant: Grant) -> GrantType:
    return GrantType.CLIENT_CREDENTIALS if grant.id.is_company else GrantType.AUTHORIZATION_CODE


def _reason_of_death(grant: Grant, clock: Clock) -> Reason:
    if grant.unfinished_generation is not None:
        return Reason.LOST_IN_TRANSIT
    if grant.refresh_expires_at is not None and clock.now() >= grant.refresh_expires_at:
        return Reason.REFRESH_TOKEN_EXPIRED
    return Reason.REVOKED
