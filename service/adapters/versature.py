"""The provider over HTTP: four POSTs, one careful reader, one total deadline."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx

from service.core import tracing
from service.core.clock import Clock
from service.core.model import Application, TokenAnswer
from service.core.redeeming.upstream import MAX_BODY_BYTES, Ambiguous, NotSent, Outcome, read_answer

KEEPALIVE = timedelta(seconds=1)
AFTERTHOUGHT = timedelta(milliseconds=100)
_FIRST_BYTES_LEAVE = "http11.send_request_headers.started"

Observe = Callable[[str, str, float], None]
"""Told of every request: the grant type (or `revocation`), its outcome's label, and the seconds it took."""

NoteSkew = Callable[[str, timedelta], None]
"""Told how far the provider's clock is ahead of ours, with the application's name, whenever an answer tells."""


@dataclass(slots=True)
class _Exchange:
    """How far a request and its answer have come; `sent` once the first byte has left, as the transport says.

    None leaves after `latest` on *clock*: who was stopped just before it may wake up when it is another's turn.
    """

    clock: Clock
    latest: float
    sent: bool = False
    status: int = 0
    retry_after: str | None = None
    body: bytes = field(default=b"", repr=False)

    async def trace(self, event: str, info: dict[str, Any]) -> None:
        # A proxy is first asked for a tunnel, and of that the provider hears nothing.
        if event == _FIRST_BYTES_LEAVE and info["request"].method != b"CONNECT":
            if self.clock.monotonic() > self.latest:
                raise TimeoutError
            self.sent = True


class VersatureServer:
    """An `AuthorizationServer` that speaks `client_secret_post` (RFC 6749 section 2.3.1).

    Idle connections are dropped early: one that the provider closes just as a request leaves on it would make that
    request's outcome ambiguous, which costs far more than a new connection. Cookies are never kept: every request
    stands for another user.
    """

    def __init__(
        self,
        *,
        deadline: timedelta,
        max_connections: int,
        clock: Clock,
        observe: Observe,
        note_skew: NoteSkew = lambda _application, _skew: None,
    ) -> None:
        self._note_skew = note_skew
        self._deadline, self._clock, self._observe = deadline.total_seconds(), clock, observe
        self._client = httpx.AsyncClient(
            follow_redirects=False,
            # One total deadline, for httpx's own timeouts are per operation. Connecting gets less, or the deadline
            # would cut a hung handshake off without closing its socket.
            timeout=httpx.Timeout(None, connect=self._deadline / 2),
            limits=httpx.Limits(max_connections=max_connections, keepalive_expiry=KEEPALIVE.total_seconds()),
            cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
            headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "token-broker"},
            event_hooks={"response": [_lead_nowhere]},
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
            answer = read_answer(status, body, sent_at, retry_after)
        if answer.clock_skew is not None:
            self._note_skew(application.name, answer.clock_skew)
        return answer

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

        Where the status says it all, a body that breaks off takes nothing away; of a 2xx it leaves it ambiguous.
        """
        sent_at, exchange = self._clock.now(), _Exchange(self._clock, self._clock.monotonic() + self._deadline)
        fields = {**form, **_client(application, client_secret)}
        task = asyncio.create_task(self._converse(exchange, url or "", fields))
        try:
            if not await _ended(task, self._deadline):
                raise TimeoutError
            task.result()
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, ssl.SSLError, OSError, TimeoutError):
            if exchange.status < 300:
                raise _sort(exchange) from None
            exchange.body = b""
        finally:
            task.cancel()
        return exchange.status, exchange.body, exchange.retry_after, sent_at

    async def _converse(self, exchange: _Exchange, url: str, fields: dict[str, str]) -> None:
        trace = tracing.current.get()
        headers = {} if trace is None else {tracing.HEADER: trace.next_header()}
        request = self._client.stream("POST", url, data=fields, headers=headers, extensions={"trace": exchange.trace})
        async with request as response:
            exchange.status, exchange.retry_after = response.status_code, response.headers.get("Retry-After")
            async for chunk in response.aiter_bytes():
                exchange.body += chunk
                if len(exchange.body) > MAX_BODY_BYTES:
                    break


async def _lead_nowhere(response: httpx.Response) -> None:
    """Take away what httpx makes a next request of, though it sends none: on a malformed `Location` it fails."""
    response.headers.pop("Location", None)


async def _ended(task: asyncio.Task[None], deadline: float) -> bool:
    """Whether *task* ended within *deadline*, or at once after it.

    A process that was stopped wakes up with the deadline long over and the answer long there: it is read first.
    """
    done, _ = await asyncio.wait({task}, timeout=deadline)
    if not done:
        done, _ = await asyncio.wait({task}, timeout=AFTERTHOUGHT.total_seconds())
    return bool(done)


def _sort(exchange: _Exchange) -> Outcome:
    if not exchange.sent:
        return NotSent("The provider could not be reached.")
    if 200 <= exchange.status < 300:
        return Ambiguous("The provider's answer broke off.", unreadable=True)
    return Ambiguous("The provider did not answer in time, or its answer broke off.")


def _client(application: Application, client_secret: str) -> dict[str, str]:
    fields = {"client_id": application.client_id, "client_secret": client_secret}
    if application.vendor_id:
        fields["vendor_id"] = application.vendor_id
    return fields
