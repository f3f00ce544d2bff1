"""The provider over HTTP: four POSTs, one careful reader, one total deadline."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

from service.core.clock import Clock
from service.core.model import Application, TokenAnswer
from service.core.upstream import MAX_BODY_BYTES, Ambiguous, NotSent, Outcome, read_answer

KEEPALIVE = timedelta(seconds=1)
_FIRST_BYTES_LEAVE = frozenset({"http11.send_request_headers.started", "http2.send_request_headers.started"})

Observe = Callable[[str, str, float], None]
"""Told of every request: the grant type (or `revocation`), its outcome's label, and the seconds it took."""


class _Progress:
    """Whether a request's first byte has left us, as the transport itself reports."""

    def __init__(self) -> None:
        self.sent = False

    async def trace(self, event: str, _info: object) -> None:
        if event in _FIRST_BYTES_LEAVE:
            self.sent = True


class VersatureServer:
    """An `AuthorizationServer` that speaks `client_secret_post` (RFC 6749 section 2.3.1).

    Idle connections are dropped early: one that the provider closes just as a request leaves on it would make that
    request's outcome ambiguous, which costs far more than a new connection. Cookies are never kept: every request
    stands for another user.
    """

    def __init__(self, *, deadline: timedelta, max_connections: int, clock: Clock, observe: Observe) -> None:
        self._deadline, self._clock, self._observe = deadline.total_seconds(), clock, observe
        self._client = httpx.AsyncClient(
            follow_redirects=False,
            # Less for connecting, or the deadline would cut a hung handshake off without closing its socket.
            timeout=httpx.Timeout(self._deadline, connect=self._deadline / 2),
            limits=httpx.Limits(max_connections=max_connections, keepalive_expiry=KEEPALIVE.total_seconds()),
            cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
            headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "token-broker"},
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def refresh(self, application: Application, client_secret: str, refresh_token: str) -> TokenAnswer:
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        return await self._ask(application, client_secret, form)

    async def client_credentials(self, application: Application, client_secret: str) -> TokenAnswer:
        form = {"grant_type": "client_credentials"}
        if application.oauth_scope:
            form["scope"] = application.oauth_scope
        return await self._ask(application, client_secret, form)

    async def exchange_code(
        self, application: Application, client_secret: str, *, code: str, redirect_uri: str, verifier: str | None
    ) -> TokenAnswer:
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri}
        if verifier is not None:
            form["code_verifier"] = verifier
        return await self._ask(application, client_secret, form)

    async def revoke(self, application: Application, client_secret: str, token: str, *, hint: str) -> None:
        form = {"token": token, "token_type_hint": hint}
        async with self._observed("revocation"):
            status, body, _, sent_at = await self._post(application, client_secret, application.revocation_url, form)
            if not 200 <= status < 300:
                read_answer(status, body, sent_at)

    async def _ask(self, application: Application, client_secret: str, form: dict[str, str]) -> TokenAnswer:
        async with self._observed(form["grant_type"]):
            status, body, retry_after, sent_at = await self._post(
                application, client_secret, application.token_url, form
            )
            return read_answer(status, body, sent_at, retry_after)

    @contextlib.asynccontextmanager
    async def _observed(self, kind: str) -> AsyncIterator[None]:
        began, label = self._clock.monotonic(), "given_up"
        try:
            yield
            label = "ok"
        except Outcome as outcome:
            label = outcome.label
            raise
        finally:
            self._observe(kind, label, self._clock.monotonic() - began)

    async def _post(
        self, application: Application, client_secret: str, url: str | None, form: dict[str, str]
    ) -> tuple[int, bytes, str | None, datetime]:
        """Status, body (cut off beyond what any answer needs), `Retry-After`, and when it was sent.

        The body of a refusal that breaks off still is a refusal; of anything else it is ambiguous.
        """
        progress, sent_at = _Progress(), self._clock.now()
        status, body, retry_after = 0, b"", None
        fields = {**form, **_client(application, client_secret)}
        try:
            async with asyncio.timeout(self._deadline):
                request = self._client.stream("POST", url or "", data=fields, extensions={"trace": progress.trace})
                async with request as response:
                    status, retry_after = response.status_code, response.headers.get("Retry-After")
                    async for chunk in response.aiter_bytes():
                        body += chunk
                        if len(body) > MAX_BODY_BYTES:
                            break
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError, TimeoutError):
            if not 300 <= status < 500:
                raise _sort(progress.sent, status) from None
            body = b""
        return status, body, retry_after, sent_at


def _sort(sent: bool, status: int) -> Outcome:
    if not sent:
        return NotSent("The provider could not be reached.")
    if 200 <= status < 300:
        return Ambiguous("The provider's answer broke off.", unreadable=True)
    return Ambiguous("The provider did not answer in time, or its answer broke off.")


def _client(application: Application, client_secret: str) -> dict[str, str]:
    fields = {"client_id": application.client_id, "client_secret": client_secret}
    if application.vendor_id:
        fields["vendor_id"] = application.vendor_id
    return fields
