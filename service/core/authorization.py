"""Begin and complete an authorization request: one trip of one browser to the provider."""

import base64
import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from urllib.parse import urlencode, urlsplit

from service.core.access.origins import origin_of
from service.core.audit import Audit
from service.core.audit_store import Action
from service.core.clock import Clock
from service.core.directory import Directory
from service.core.errors import (
    AuthorizationDenied,
    AuthorizationExpired,
    BrokerError,
    InvalidAuthorizationRequest,
    InvalidRequest,
)
from service.core.model import Application, Caller, GrantId
from service.core.policy import Policy
from service.core.ports import AuthorizationStore, Keyring
from service.core.records import AuthorizationRequest
from service.core.redeeming.exchange import CodeExchange
from service.core.redeeming.steps import Step, Witness, nobody
from service.core.sealing.digests import secret_digest
from service.core.sealing.vault import verifier_place

log = logging.getLogger(__name__)

_OURS = re.compile(r"[A-Za-z0-9_-]{43}")
"""How cookies of ours look: `secrets.token_urlsafe(32)`."""


@dataclass(frozen=True, slots=True)
class Departure:
    """Where to send the browser, the cookie value that binds the trip to it, and for how long it does."""

    authorize_url: str = field(repr=False)
    cookie: str = field(repr=False)
    bound_for: timedelta


@dataclass(frozen=True, slots=True)
class Arrival:
    """A trip's end: the request it belongs to, and what went wrong, if anything did."""

    request: AuthorizationRequest
    failure: BrokerError | None


class Authorization:
    """The connect flow (RFC 6749 section 4.1, RFC 7636 where the application wants it)."""

    def __init__(
        self,
        requests: AuthorizationStore,
        directory: Directory,
        exchange: CodeExchange,
        keyring: Keyring,
        audit: Audit,
        clock: Clock,
        policy: Policy,
        *,
        redirect_uri: str,
        return_origins: Sequence[str],
        witness: Witness = nobody,
    ) -> None:
        self._requests, self._directory, self._exchange = requests, directory, exchange
        self._keyring, self._audit, self._clock, self._policy = keyring, audit, clock, policy
        self._redirect_uri, self._return_origins = redirect_uri, frozenset(return_origins)
        self._witness = witness

    async def invite(
        self, caller: Caller, application: Application, grant: GrantId, return_to: str | None
    ) -> tuple[str, datetime]:
        """A one-time ticket for *grant*'s user, and until when it can be used.

        Raises:
            InvalidRequest: the company cannot log in, or *return_to* leads where no caller may send people.
        """
        if grant.is_company:
            raise InvalidRequest("The company's own grant needs no login.")
        if return_to is not None and origin_of(return_to) not in self._return_origins:
            raise InvalidRequest("return_to leads to an origin that this broker was not allowed to send people to.")
        ticket = secrets.token_urlsafe(32)
        expires_at = self._clock.now() + self._policy.connect_life
        await self._requests.add(AuthorizationRequest(secret_digest(ticket), grant, caller.name, return_to, expires_at))
        await self._audit.note(Action.INVITED, grant=grant)
        return ticket, expires_at

    async def look_up(self, ticket: str) -> AuthorizationRequest:
        """The request behind *ticket*; changes nothing.

        Raises:
            InvalidAuthorizationRequest: there is none.
            AuthorizationExpired: it was completed, or its time is over.
        """
        request = await self._requests.find(secret_digest(ticket))
        if request is None:
            raise InvalidAuthorizationRequest("This link is not one of ours. Ask for a new one.")
        if request.completed_at is not None or self._clock.now() >= request.expires_at:
            raise AuthorizationExpired("This link has been used or is too old. Ask for a new one.")
        return request

    async def depart(self, ticket: str, cookie: str | None) -> Departure:
        """Start the trip: a new state, which voids the last, bound to the browser.

        A browser that already carries a *cookie* of ours keeps it, so that two tabs do not void each other.
        """
        request = await self.look_up(ticket)
        application = self._directory.application(request.grant.application)
        state = secrets.token_urlsafe(32)
        cookie = cookie if cookie is not None and _OURS.fullmatch(cookie) else secrets.token_urlsafe(32)
        verifier = secrets.token_urlsafe(48) if application.pkce else None
        started = await self._requests.start(
            request.ticket_digest,
            state_digest=secret_digest(state),
            cookie_digest=secret_digest(cookie),
            sealed_verifier=self._keyring.seal(verifier, verifier_place(request.grant)) if verifier else None,
            at=self._clock.now(),
        )
        if not started:
            raise AuthorizationExpired("This link has just been used.")
        return Departure(self._authorize_url(application, state, verifier), cookie, self._policy.connect_life)

    def _authorize_url(self, application: Application, state: str, verifier: str | None) -> str:
        fields = {
            "response_type": "code",
            "client_id": application.client_id,
            "redirect_uri": self._redirect_uri,
            "state": state,
        }
        if application.oauth_scope:
            fields["scope"] = application.oauth_scope
        if verifier:
            digest = hashlib.sha256(verifier.encode()).digest()
            fields["code_challenge"] = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
            fields["code_challenge_method"] = "S256"
        glue = "&" if urlsplit(application.authorize_url).query else "?"
        return f"{application.authorize_url}{glue}{urlencode(fields)}"

    async def arrive(self, *, state: str | None, code: str | None, error: str | None, cookie: str | None) -> Arrival:
        """Complete the trip that *state* belongs to. The state is spent before anything else is believed.

        The redemption outlives the browser's patience. A failed trip changes no grant; its link stays usable.

        Raises:
            InvalidAuthorizationRequest: the state is unknown or used, or this is not the browser that departed.
            StoreUnavailable: nothing was taken yet; the same address works again.
        """
        request = await self._requests.take(secret_digest(state)) if state else None
        if request is None:
            raise InvalidAuthorizationRequest("This login was already used, or was never started here.")
        self._witness(Step.STATE_TAKEN)
        if request.cookie_digest is None or not hmac.compare_digest(request.cookie_digest, secret_digest(cookie or "")):
            self._audit.connect_failed(request.caller, request.grant, InvalidAuthorizationRequest.code)
            raise InvalidAuthorizationRequest("This login was started in another browser. Start again in this one.")
        try:
            await self._complete(request, code, error)
        except BrokerError as failure:
            log.warning("a connect trip failed", extra={"code": failure.code})
            self._audit.connect_failed(request.caller, request.grant, failure.code)
            return Arrival(request, failure)
        await self._audit.note(Action.CONNECTED, grant=request.grant, caller=request.caller)
        return Arrival(request, None)

    async def _complete(self, request: AuthorizationRequest, code: str | None, error: str | None) -> None:
        now = self._clock.now()
        if request.started_at is None or now >= request.started_at + self._policy.connect_life:
            raise AuthorizationExpired("The login took too long. Start again.")
        if error == "access_denied":
            raise AuthorizationDenied("The login was cancelled or access was denied.")
        if error is not None or not code:
            raise InvalidAuthorizationRequest("The provider sent the browser back without a code.")
        application = self._directory.application(request.grant.application)
        await self._exchange.redeem(application, request, code, self._redirect_uri)
