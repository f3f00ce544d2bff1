"""A few API calls of the provider: enough to see that a token works, and for whom."""

from collections.abc import Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox.calls import Call
from sandbox.directory import SCOPE
from sandbox.issued import Family
from sandbox.provider import Provider

_QUEUES: Final = [
    {"queue": "8001", "description": "Support", "calls_waiting": 2, "agents_logged_in": 4, "longest_wait": 37},
    {"queue": "8002", "description": "Sales", "calls_waiting": 0, "agents_logged_in": 3, "longest_wait": 0},
]
_CALLS: Final = [
    {"id": "20161111160433001", "from": "+16135550100", "to": "8001", "state": "answered", "duration": 184},
    {"id": "20161111160502002", "from": "1021", "to": "+16135550199", "state": "ringing", "duration": 0},
]


class ResourceApi:
    """Checks bearer tokens (RFC 6750) and answers a little plausible JSON, whichever media type is asked for."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    def routes(self) -> list[Route]:
        """The three calls, with Versature's trailing slashes."""
        return [
            self._guarded("/api/whoami/", _identity),
            self._guarded("/api/call_queues/stats/live/", lambda _: _QUEUES),
            self._guarded("/api/calls/", lambda _: _CALLS),
        ]

    def _guarded(self, path: str, content: Callable[[Family], object]) -> Route:
        async def get(request: Request) -> Response:
            given = request.headers.get("authorization")
            bearer = self._bearer(given)
            self._note(bearer)
            return _challenge(given) if bearer is None else JSONResponse(content(bearer))

        return Route(path, get, methods=["GET"])

    def _bearer(self, authorization: str | None) -> Family | None:
        scheme, _, token = (authorization or "").partition(" ")
        return self._provider.server.bearer(token.strip()) if scheme.lower() == "bearer" else None

    def _note(self, bearer: Family | None) -> None:
        if bearer is None:
            call = Call(endpoint="api", outcome="invalid_token")
        else:
            call = Call(endpoint="api", outcome="answered", client_id=bearer.client_id, user=bearer.user)
        self._provider.calls.add(call)


def _identity(bearer: Family) -> dict[str, str]:
    return {"user": bearer.user, "client_id": bearer.client_id, "scope": SCOPE}


def _challenge(authorization: str | None) -> Response:
    # RFC 6750 §3.1: whoever showed no token at all is not told about errors in it.
    error = "" if authorization is None else ', error="invalid_token"'
    headers = {"WWW-Authenticate": f'Bearer realm="versature"{error}'}
    return JSONResponse({"detail": "The access token is missing, expired or revoked."}, 401, headers=headers)
