"""One attempt to renew one claimed grant: open, send, and sort what comes of it."""

import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

from service.core.clock import Clock
from service.core.condition.shutdown import Shutdown
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
from service.core.model import AccessToken, Application, Claim, Grant, Reason, TokenAnswer
from service.core.policy import Policy
from service.core.ports import AuthorizationServer, GrantStore, RenewalQueue
from service.core.records import Setback
from service.core.redeeming.attempts import Attempt, Ending, ending_of_death
from service.core.redeeming.breaker import Breaker
from service.core.redeeming.refusals import RefusalGuard
from service.core.redeeming.saving import Saver
from service.core.redeeming.steps import Step, Witness
from service.core.redeeming.upstream import (
    RETRY_AFTER_MAX,
    Ambiguous,
    ClientRefused,
    InvalidGrant,
    NotSent,
    Outcome,
    RateLimited,
    RefusedWithoutCode,
)
from service.core.sealing.vault import Vault
from service.core.upkeep.errands import Errands

log = logging.getLogger(__name__)

REFUSALS_FOR_GOOD = 5
REFUSED_FOR_GOOD_AFTER = timedelta(hours=1)


class Redeemer:
    """Redeems what a claimed grant holds for a new access token."""

    def __init__(
        self,
        grants: GrantStore,
        queue: RenewalQueue,
        server: AuthorizationServer,
        vault: Vault,
        saver: Saver,
        errands: Errands,
        breaker: Breaker,
        guard: RefusalGuard,
        shutdown: Shutdown,
        clock: Clock,
        policy: Policy,
        jitter: Callable[[], float],
        count_lost: Callable[[str], None],
        witness: Witness,
    ) -> None:
        self._grants, self._queue, self._server, self._vault, self._saver = grants, queue, server, vault, saver
        self._errands, self._breaker, self._guard, self._shutdown = errands, breaker, guard, shutdown
        self._clock, self._policy, self._jitter = clock, policy, jitter
        self._count_lost, self._witness = count_lost, witness

    async def redeem(
        self, application: Application, grant: Grant, claim: Claim, began: float, attempt: Attempt
    ) -> AccessToken:
        """The new token of *grant*, whose *claim* was asked for at *began* on the monotonic clock.

        The refresh token leaves us at most once. Whatever happens is written into the row; when the database does not
        take it at once, in the background until it does.

        Raises:
            BrokerError: what callers without a valid token have to be told.
        """
        try:
            answer = await self._send(application, grant, began)
        except InvalidGrant:
            raise await self._refused_grant(application, grant, claim, attempt) from None
        except Outcome as outcome:
            attempt.ends_as(Ending(outcome.label))
            raise await self._failed(application, grant, claim, outcome, attempt) from None
        except BrokerError as nothing_sent:
            self._breaker.not_sent_after_all(application, grant.id.type)
            await self._release(grant, claim, at_rest=not isinstance(nothing_sent, RenewalInProgress))
            raise
        self._witness(Step.ANSWERED)
        self._breaker.close(application, grant.id.type)
        if not grant.id.is_company:
            self._guard.succeeded(application)
        return await self._saver.save(application, grant, claim.attempt_id, answer, attempt)

    async def _send(self, application: Application, grant: Grant, began: float) -> TokenAnswer:
        secret = self._vault.open_client_secret(application)
        refresh_token = None if grant.id.is_company else self._vault.open_refresh(grant)
        self._witness(Step.OPENED)
        left = self._policy.lease - timedelta(seconds=self._clock.monotonic() - began)
        if min(left, self._shutdown.left) < self._policy.upstream_deadline:
            raise RenewalInProgress("No time was left to wait for an answer.", retry_after=timedelta(seconds=1))
        if refresh_token is None:
            return await self._server.client_credentials(application, secret)
        return await self._server.refresh(application, secret, refresh_token)

    async def _refused_grant(
        self, application: Application, grant: Grant, claim: Claim, attempt: Attempt
    ) -> BrokerError:
        """`invalid_grant`: the grant is dead, if its refresh token is still the one that was refused.

        A refusal that we can explain needs no second opinion; the others must not come in crowds.
        """
        attempt.ends_as(Ending.INVALID_GRANT)
        if grant.id.is_company:
            self._breaker.close(application, grant.id.type)  # the client itself was accepted
            return await self._set_back(application, grant, claim, InvalidUpstreamAnswer("It says invalid_grant."))
        reason = _reason_of_death(grant, self._clock)
        if reason is Reason.REVOKED and not self._guard.believes(grant.id):
            attempt.ends_as(Ending.GUARDED)
            doubt = UpstreamUnavailable("The provider refuses one grant after the other; none of it is believed.")
            pause = self._breaker.trip(application, grant.id.type, doubt, None)
            # The next probes shall be other grants', however often this one is asked for.
            aside = min(pause * 2 ** min(grant.failures + 1, 10), RETRY_AFTER_MAX)
            return await self._set_back(application, grant, claim, doubt, at_least=aside)
        self._breaker.close(application, grant.id.type)
        return await self._declare_dead(grant, claim, reason, InvalidGrant.label, attempt)

    async def _declare_dead(
        self, grant: Grant, claim: Claim, reason: Reason, code: str, attempt: Attempt
    ) -> BrokerError:
        at = self._clock.now()
        attempt.ends_as(ending_of_death(reason))

        async def declare() -> bool:
            return await self._grants.declare_dead(
                grant.id,
                generation=grant.generation,
                attempt_id=claim.attempt_id,
                reason=reason,
                code=code,
                at=at,
            )

        failure: BrokerError = ReauthorizationRequired(grant.id, reason)
        try:
            if not await declare():
                attempt.ends_as(Ending.OVERTAKEN)
                return RenewalInProgress("Somebody else has just renewed this grant.", retry_after=timedelta(seconds=1))
        except StoreUnavailable as away:  # perhaps it is written all the same
            self._errands.run("a dead grant", declare)
            failure = away
        if reason is Reason.LOST_IN_TRANSIT:
            self._count_lost(grant.id.application)
        return failure

    async def _failed(
        self, application: Application, grant: Grant, claim: Claim, outcome: Outcome, attempt: Attempt
    ) -> BrokerError:
        log.warning("a renewal failed", extra={"application": application.name, "outcome": outcome.label})
        error: UpstreamError
        match outcome:
            case ClientRefused() | RateLimited():
                return await self._trouble_of_application(application, grant, claim, outcome)
            case Ambiguous() if not grant.id.is_company:
                return await self._left_unfinished(application, grant, claim, outcome)
            case RefusedWithoutCode() if not grant.id.is_company:
                return await self._refused_without_code(application, grant, claim, outcome, attempt)
            case NotSent() | Ambiguous(unreadable=False):
                error = UpstreamUnavailable(outcome.detail)
            case _:
                error = InvalidUpstreamAnswer(outcome.detail)
        return await self._set_back(application, grant, claim, error, asked_for=outcome.retry_after)

    async def _trouble_of_application(
        self, application: Application, grant: Grant, claim: Claim, outcome: Outcome
    ) -> BrokerError:
        error: UpstreamError
        if isinstance(outcome, ClientRefused):
            error = ClientRejected(outcome.detail)
        else:
            error = UpstreamUnavailable(outcome.detail)
        error.retry_after = self._breaker.trip(application, grant.id.type, error, outcome.retry_after)
        await self._release(grant, claim)
        return error

    async def _left_unfinished(
        self, application: Application, grant: Grant, claim: Claim, outcome: Ambiguous
    ) -> BrokerError:
        """The refresh token may be spent: nobody may redeem over this claim before its takeover."""
        error: UpstreamError
        error = InvalidUpstreamAnswer(outcome.detail) if outcome.unreadable else UpstreamUnavailable(outcome.detail)
        now = self._clock.now()
        error.retry_after = max(claim.lease_until + self._policy.takeover - now, outcome.retry_after or timedelta(0))
        self._breaker.failed(application, grant.id, error, outcome.retry_after)
        setback = Setback(code=error.code, at=now, retry_at=now + error.retry_after, finished=False)
        await self._note(grant, claim, setback)
        return error

    async def _refused_without_code(
        self, application: Application, grant: Grant, claim: Claim, outcome: Outcome, attempt: Attempt
    ) -> BrokerError:
        """Codes decide; but who is refused for an hour, while the others are not, is refused for good."""
        if await self._is_refused_for_good(grant):
            self._breaker.close(application, grant.id.type)
            return await self._declare_dead(grant, claim, Reason.REFUSED, outcome.label, attempt)
        error = InvalidUpstreamAnswer(outcome.detail)
        return await self._set_back(application, grant, claim, error, asked_for=outcome.retry_after, uncoded=True)

    async def _is_refused_for_good(self, grant: Grant) -> bool:
        if grant.refused_since is None or grant.refusals + 1 < REFUSALS_FOR_GOOD:
            return False
        if self._clock.now() - grant.refused_since < REFUSED_FOR_GOOD_AFTER:
            return False
        try:
            return await self._queue.others_succeeded(grant.id, since=grant.refused_since)
        except StoreUnavailable:
            return False

    async def _set_back(
        self,
        application: Application,
        grant: Grant,
        claim: Claim,
        error: UpstreamError,
        *,
        asked_for: timedelta | None = None,
        uncoded: bool = False,
        at_least: timedelta = timedelta(0),
    ) -> BrokerError:
        now = self._clock.now()
        error.retry_after = max(next_retry(grant.failures + 1, self._policy, self._jitter(), asked_for), at_least)
        self._breaker.failed(application, grant.id, error, asked_for)
        setback = Setback(error.code, now, retry_at=now + error.retry_after, finished=True, uncoded=uncoded)
        await self._note(grant, claim, setback)
        return error

    async def _note(self, grant: Grant, claim: Claim, setback: Setback) -> None:
        await self._now_or_later(
            "a failed renewal",
            lambda: self._grants.note_setback(grant.id, attempt_id=claim.attempt_id, setback=setback),
        )

    async def _release(self, grant: Grant, claim: Claim, *, at_rest: bool = False) -> None:
        await self._now_or_later(
            "a claim",
            lambda: self._grants.release(grant.id, attempt_id=claim.attempt_id, at_rest=at_rest),
        )

    async def _now_or_later(self, what: str, store: Callable[[], Awaitable[None]]) -> None:
        """An attempt that is known to have ended must not look unfinished for want of a database."""
        try:
            await store()
        except StoreUnavailable:
            self._errands.run(what, store)


def _reason_of_death(grant: Grant, clock: Clock) -> Reason:
    if grant.unfinished_generation is not None:
        return Reason.LOST_IN_TRANSIT
    if grant.refresh_expires_at is not None and clock.now() >= grant.refresh_expires_at:
        return Reason.REFRESH_TOKEN_EXPIRED
    return Reason.REVOKED
