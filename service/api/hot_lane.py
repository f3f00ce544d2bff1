"""Answers what is already decided, before the framework sees it. It has no rules of its own."""

import secrets
from hashlib import sha256
from typing import cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.answers import hit_status, token_body
from service.api.middleware import is_request_id
from service.core.lane import Lane, PassKey
from service.core.local_cache import Entry

_UNUSUAL = frozenset({b"content-length", b"transfer-encoding", b"expect", b"upgrade", b"traceparent"})
"""Headers that ask for more than a token: their requests take the long way."""

_READ = _UNUSUAL | {b"authorization", b"x-request-id"}
_IDS_AT_ONCE = 256

Rendered = tuple[list[tuple[bytes, bytes]], Message]


class HotLane:
    """The outermost layer: requests on a pass are answered, all others, however slightly unusual, left untouched.

    It has no lane to ask before the application has started. It is one function, because a call costs a hundredth of
    an answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.lane: Lane | None = None
        self._ids: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: C901
        if self.lane is not None and scope.get("method") == "GET":
            credentials = request_id = None
            for name, value in scope["headers"]:
                if name in _READ:
                    if name == b"authorization" and credentials is None:
                        credentials = value
                    elif name != b"x-request-id":
                        credentials = None
                        break
                    elif request_id is None:
                        request_id = value
            if credentials is not None:
                # As `pass_key` does it.
                entry = self.lane.take((sha256(credentials).digest(), scope["raw_path"], scope["query_string"]))
                if entry is not None:
                    if entry.answers_for != entry.expires_in:
                        _render(entry)
                    headers, body = cast(Rendered, entry.answer)
                    if request_id is None or not is_request_id(request_id.decode("latin-1")):
                        request_id = (self._ids or self._more_ids()).pop()
                    headers = [*headers, (b"x-request-id", request_id)]
                    await send({"type": "http.response.start", "status": 200, "headers": headers})
                    await send(body)
                    return
        await self._app(scope, receive, send)

    def _more_ids(self) -> list[bytes]:
        """Ids for requests that bring none, many at a time."""
        digits = secrets.token_hex(16 * _IDS_AT_ONCE).encode()
        self._ids += (digits[at : at + 32] for at in range(0, len(digits), 32))
        return self._ids


def pass_key(credentials: bytes, scope: Scope) -> PassKey:
    """What a pass hangs on: the whole Authorization header, of which only the digest is kept, path and query."""
    return sha256(credentials).digest(), scope["raw_path"], scope["query_string"]


def _render(entry: Entry) -> None:
    """What the route answers, for the whole second in which it stays the same."""
    body = token_body(entry.token, entry.expires_in)
    headers = [
        (b"cache-control", b"no-store"),
        (b"cache-status", hit_status(entry.expires_in, "local").encode()),
        (b"content-length", str(len(body)).encode()),
        (b"content-type", b"application/json"),
    ]
    entry.answer, entry.answers_for = (headers, {"type": "http.response.body", "body": body}), entry.expires_in
