"""Answers what is already decided, before the framework sees it. It has no rules of its own."""

import random
from typing import cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.answers import hit_status, token_body
from service.api.middleware import is_request_id
from service.core.lane import Lane
from service.core.local_cache import Entry

_PREFIX, _BEARER = b"/tokens/", b"Bearer "
_UNUSUAL = frozenset({b"content-length", b"transfer-encoding", b"expect", b"upgrade", b"traceparent"})
"""Headers that ask for more than a token: their requests take the long way."""

_READ = _UNUSUAL | {b"authorization", b"x-request-id"}

Rendered = tuple[list[tuple[bytes, bytes]], Message]


class HotLane:
    """The outermost layer: `GET /tokens/{user}` on a pass, everything else, however slightly unusual, untouched.

    It has no lane to ask before the application has started.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.lane: Lane | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.lane is not None and scope["type"] == "http" and scope["method"] == "GET":
            path: bytes = scope["raw_path"]
            if path.startswith(_PREFIX):
                key, request_id = _read(scope["headers"])
                found = self.lane.take(key, path, scope["query_string"]) if key else None
                if found is not None:
                    headers, body = _rendered(*found)
                    headers = [*headers, (b"x-request-id", request_id or b"%032x" % random.getrandbits(128))]
                    await send({"type": "http.response.start", "status": 200, "headers": headers})
                    await send(body)
                    return
        await self._app(scope, receive, send)


def _read(headers: list[tuple[bytes, bytes]]) -> tuple[bytes | None, bytes | None]:
    """The API key of a request that brings nothing unusual, else None; and the request's own id, if it may be used."""
    key = given = None
    for name, value in headers:
        if name in _READ:
            if name == b"authorization":
                if key is not None or not value.startswith(_BEARER):
                    return None, None
                key = value[len(_BEARER) :]
            elif name != b"x-request-id":
                return None, None
            elif given is None:
                given = value
    return key, given if given is not None and is_request_id(given.decode("latin-1")) else None


def _rendered(entry: Entry, expires_in: int) -> Rendered:
    """What the route answers, kept for the whole second in which it stays the same."""
    if entry.answers_for != expires_in:
        body = token_body(entry.token, expires_in)
        headers = [
            (b"cache-control", b"no-store"),
            (b"cache-status", hit_status(expires_in, "local").encode()),
            (b"content-length", str(len(body)).encode()),
            (b"content-type", b"application/json"),
        ]
        entry.answer, entry.answers_for = (headers, {"type": "http.response.body", "body": body}), expires_in
    return cast(Rendered, entry.answer)
