"""Redeems an authorization code: once, and on its own even if the browser goes away."""

import logging
import secrets
from datetime import timedelta

from service.core.clock import Clock
from service.core.errors import (
    AuthorizationExpired,
    BrokerError,
    ClientRejected,
    InvalidUpstreamAnswer,
    KeyUnavailable,
    StoreUnavailable,
    UpstreamUnavailable,
)
from service.core.model import Application, TokenAnswer, WaitingAnswer
from service.core.policy import Policy
from service.core.ports import AuthorizationServer, Keyring, SealBroken
from service.core.records import AuthorizationRequest
from service.core.redeeming.refusals import RefusalGuard
from service.core.redeeming.saving import Saver
from service.core.redeeming.settlements import Settlement, Verdict
from service.core.redeeming.steps import Step, Witness
from service.core.redeeming.upstream import Ambiguous, ClientRefused, InvalidGrant, NotSent, Outcome, RateLimited
from service.core.sealing.vault import Vault, verifier_place
from service.core.singleflight import Flights, wait_for_flight

log = logging.getLogger(__name__)


class CodeExchange:
    """Turns codes into grants. A code leaves us at most once; its answer is saved however long that takes."""

    def __init__(
        self,
        server: AuthorizationServer,
        vault: Vault,
        keyring: Keyring,
        saver: Saver,
        guard: RefusalGuard,
        clock: Clock,
        policy: Policy,
        witness: Witness,
    ) -> None:
        self._server, self._vault, self._keyring = server, vault, keyring
        self._saver, self._guard = saver, guard
        self._clock, self._policy, self._witness = clock, policy, witness
        self._flights: Flights[str, None] = Flights()

    async def redeem(
        self, application: Application, request: AuthorizationRequest, code: str, redirect_uri: str
    ) -> None:
        """Exchange *code* and store what it brings as the grant's new contents.

        Raises:
            AuthorizationExpired: the provider no longer takes the code.
            UpstreamError: the provider is in trouble.
            StoreUnavailable: the answer is neither in the database nor in escrow yet; saving goes on.
        """
        attempt_id = secrets.token_hex(16)
        task, _ = self._flights.join(
            attempt_id, lambda: self._redeem(application, request, code, redirect_uri, attempt_id)
        )
        try:
            await wait_for_flight(task, self._policy.upstream_deadline + self._policy.wait)
        except TimeoutError:
            raise StoreUnavailable from None

    async def drain(self, timeout: timedelta) -> int:
        """Wait for all exchanges, at most *timeout*; returns how many are still under way."""
        return await self._flights.drain(timeout)

    async def _redeem(
        self, application: Application, request: AuthorizationRequest, code: str, redirect_uri: str, attempt_id: str
    ) -> None:
        verifier = self._open_verifier(request)
        secret = self._vault.open_client_secret(application)
        try:
            answer = await self._server.exchange_code(
                application, secret, code=code, redirect_uri=redirect_uri, verifier=verifier
            )
        except Outcome as outcome:
            log.warning("a code exchange failed", extra={"application": application.name, "outcome": outcome.label})
            raise _problem(outcome) from None
        self._witness(Step.CODE_ANSWERED)
        self._guard.succeeded(application)
        await self._save(application, request, answer, attempt_id)

    async def _save(
        self, application: Application, request: AuthorizationRequest, answer: TokenAnswer, attempt_id: str
    ) -> None:
        """The person at the browser has done enough once the answer is safe, be it in escrow."""
        access = self._vault.date(answer, generation=0, scope=answer.scope)
        sealed = self._vault.seal(
            request.grant,
            application,
            access=access,
            refresh_token=answer.refresh_token,
            scope=answer.scope,
            at=answer.sent_at,
        )
        waiting = WaitingAnswer(
            request.grant, 0, attempt_id, self._clock.now(), sealed, ticket_digest=request.ticket_digest
        )
        settlement: Settlement | None = await self._saver.bring_in(application, waiting)
        if settlement is not None and settlement.verdict is Verdict.IN_MEMORY:
            settlement = await self._saver.until_settled(waiting)
        if settlement is not None and settlement.verdict in {Verdict.REVOKED, Verdict.SUPERSEDED}:
            raise AuthorizationExpired("Somebody has ended or renewed this connection meanwhile. Start again.")

    def _open_verifier(self, request: AuthorizationRequest) -> str | None:
        if request.sealed_verifier is None:
            return None
        try:
            return self._keyring.open(request.sealed_verifier, verifier_place(request.grant))
        except SealBroken:
            raise KeyUnavailable from None


def _problem(outcome: Outcome) -> BrokerError:
    """What a failed exchange means to the person at the browser."""
    match outcome:
        case InvalidGrant():
            return AuthorizationExpired("The provider no longer accepts this login. Start again.")
        case ClientRefused():
            return ClientRejected(outcome.detail)
        case NotSent() | RateLimited() | Ambiguous(unreadable=False):
            return UpstreamUnavailable(outcome.detail, retry_after=outcome.retry_after or timedelta(seconds=1))
        case _:
            return InvalidUpstreamAnswer(outcome.detail)
