"""Answers what is already decided, before the framework sees it. It has no rules of its own."""

import random
from typing import cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.answers import hit_status, token_body
from service.api.middleware import is_request_id
from service.core.lane import Lane, Pass

_PREFIX, _BEARER = b"/tokens/", b"Bearer "
_UNUSUAL = frozenset({b"content-length", b"transfer-encoding", b"expect", b"upgrade", b"traceparent"})
"""Headers that ask for more than a token: their requests take the long way."""

Rendered = tuple[list[tuple[bytes, bytes]], Message]


class HotLane:
    """The outermost layer: `GET /tokens/{user}` on a pass, everything else, however slightly unusual, untouched.

    It has no lane to ask before the application has started.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.lane: Lane | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.lane is not None and scope["type"] == "http":
            path: bytes = scope["raw_path"]
            if path.startswith(_PREFIX) and scope["method"] == "GET":
                key, request_id = _read(scope["headers"])
                found = self.lane.take(key, path, scope["query_string"]) if key else None
                if found is not None:
                    if found.answers_for != found.expires_in:
                        _render(found)
                    headers, body = cast(Rendered, found.answer)
                    await send(
                        {
                            "type": "http.response.start",
                            "status": 200,
                            "headers": [*headers, (b"x-request-id", request_id)],
                        }
                    )
                    await send(body)
                    return
        await self._app(scope, receive, send)


def _read(headers: list[tuple[bytes, bytes]]) -> tuple[bytes | None, bytes]:
    """The API key of a request that brings nothing unusual, else None; and the request's id."""
    key, request_id = None, b""
    for name, value in headers:
        if name == b"authorization":
            if key is not None or not value.startswith(_BEARER):
                return None, b""
            key = value[len(_BEARER) :]
        elif name == b"x-request-id":
            request_id = value
        elif name in _UNUSUAL:
            return None, b""
    if not request_id or not is_request_id(request_id.decode("latin-1")):
        request_id = b"%032x" % random.getrandbits(128)
    return key, request_id


def _render(found: Pass) -> None:
    """What the route answers, kept for the whole second in which it stays the same."""
    body = token_body(found.entry.token, found.expires_in)
    headers = [
        (b"cache-control", b"no-store"),
        (b"cache-status", hit_status(found.expires_in, "local").encode()),
        (b"content-length", str(len(body)).encode()),
        (b"content-type", b"application/json"),
    ]
    found.answer = (headers, {"type": "http.response.body", "body": body})
    found.answers_for = found.expires_in
