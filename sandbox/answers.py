"""Token answers in Versature's exact shape, and refusals in that of RFC 6749 §5.2."""

from datetime import UTC, datetime
from typing import Final

from starlette.responses import HTMLResponse, JSONResponse

from sandbox.directory import SCOPE
from sandbox.issued import Issue
from sandbox.refusals import Refusal
from sandbox.switches import Switches

_NEVER_STORED: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}


def token_fields(issue: Issue, switches: Switches) -> dict[str, object]:
    """The fields of a token answer, less those that the switches leave out.

    `expires_in` is the life rounded down; `expires` is UTC without a zone and with microseconds, as documented.
    """
    expires = datetime.fromtimestamp(issue.access.expires_at, UTC).replace(tzinfo=None)
    fields: dict[str, object] = {
        "access_token": issue.access.value,
        "scope": SCOPE,
        "token_type": "Bearer",
        "expires_in": int(issue.access.lifetime_seconds),
        "expires": expires.isoformat(timespec="microseconds"),
    }
    if issue.refresh is not None:
        fields["refresh_token"] = issue.refresh.value
    return {name: value for name, value in fields.items() if name not in switches.omit}


def token_answer(issue: Issue, switches: Switches) -> JSONResponse:
    """200 with the tokens."""
    return JSONResponse(token_fields(issue, switches), headers=_NEVER_STORED)


def refusal_answer(refusal: Refusal) -> JSONResponse:
    """The refusal's status with its code."""
    body = {"error": refusal.code, "error_description": refusal.description}
    return JSONResponse(body, refusal.status, headers=_NEVER_STORED)


def server_error() -> HTMLResponse:
    """500 with the page that a web framework shows when it has fallen over."""
    return HTMLResponse("<h1>Server Error (500)</h1>", 500)
