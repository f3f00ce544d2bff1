"""Pure ASGI layers around everything: request id, counting and logging, a limit on the crowd, and honest paths."""

import logging
import re
import secrets
import time
from urllib.parse import unquote_to_bytes

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import problem_response
from service.core import tracing
from service.core.audit import STRANGER, Actor, acting
from service.core.errors import InternalError, Overloaded
from service.core.sealing.pseudonyms import NameUser, nameless
from service.telemetry import NOWHERE, Metrics

log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ALWAYS_IN = frozenset({"/healthz", "/readyz", "/metrics"})
REFUSED_CHARACTER = "\x00"
"""Stands where a path held what no user may contain; every check of users refuses it."""


class RequestContext:
    """Gives each request its id, follows its trace, measures it, logs it in one line, and makes a crash a problem."""

    def __init__(self, app: ASGIApp, metrics: Metrics, name_user: NameUser = nameless) -> None:
        self._app, self._metrics, self._name_user = app, metrics, name_user

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        began, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        acting.set(Actor(STRANGER, request_id))  # until a key tells who it is
        with structlog.contextvars.bound_contextvars(request_id=request_id, **_enter_trace(scope)):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception:
                log.exception("a request crashed")
                if status == 0:
                    answer = problem_response(InternalError("The log has more under the request id."), request_id)
                    await answer(scope, receive, send_with_id)
            finally:
                self._account(scope, status, time.perf_counter() - began)

    def _account(self, scope: Scope, status: int, seconds: float) -> None:
        """The route's template, never the path: a path may hold users, tickets, codes or states."""
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if route != "none" else "other"
        self._metrics.requests.labels(method, route, str(status)).observe(seconds)
        caller, outcome = scope["state"].get("caller"), scope["state"].get("outcome")
        source = scope["state"].get("source")
        if route.startswith("/tokens/"):
            self._metrics.answered(outcome or InternalError.code, source or NOWHERE, seconds)
        fields = {"method": method, "route": route, "status": status, "seconds": round(seconds, 6)}
        user = scope.get("path_params", {}).get("user")
        told = {"caller": caller, "user": None if user is None else self._name_user(user)}
        log.info("request", extra={**fields, **told, "outcome": outcome, "source": source})


class Crowd:
    """Lets so many requests in at once and tells the others to come back. Probes and metrics always get in."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most, self._inside = app, most, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _ALWAYS_IN:
            await self._app(scope, receive, send)
            return
        if self._inside >= self._most:
            error = Overloaded()
            scope["state"]["outcome"] = error.code
            await problem_response(error, scope["state"]["request_id"])(scope, receive, send)
            return
        self._inside += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._inside -= 1


class HonestPath:
    """Decodes the path strictly and segment by segment.

    The server's own decoding turns `%2F` into a slash and broken UTF-8 into a replacement character, so that two
    different addresses would name the same user or another route.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = scope.get("raw_path")
        if scope["type"] == "http" and raw and b"%" in raw:
            segments = raw.split(b"?")[0].split(b"/")
            scope["path"] = "/".join(_decode(segment) for segment in segments)
        await self._app(scope, receive, send)


def _decode(segment: bytes) -> str:
    if _BROKEN_ESCAPE.search(segment):
        return REFUSED_CHARACTER
    try:
        decoded = unquote_to_bytes(segment).decode("utf-8")
    except UnicodeDecodeError:
        return REFUSED_CHARACTER
    return REFUSED_CHARACTER if "/" in decoded else decoded


def _enter_trace(scope: Scope) -> dict[str, str]:
    """Let this request be a step of its caller's trace, if it names one; what the log tells of it."""
    trace = tracing.read_traceparent(Request(scope).headers.getlist(tracing.HEADER))
    tracing.current.set(trace)
    return {} if trace is None else {"trace_id": trace.trace_id, "span_id": trace.span_id}


def _request_id(scope: Scope) -> str:
    given = Request(scope).headers.get("x-request-id", "")
    return given if is_request_id(given) else secrets.token_hex(16)


def is_request_id(given: str) -> bool:
    """Whether an id that came with a request may be written into logs and answers."""
    return _REQUEST_ID.fullmatch(given) is not None
