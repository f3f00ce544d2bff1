"""The pages that a person sees, from templates that escape everything."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse

from sandbox.authorization_request import AuthorizationRequest
from sandbox.directory import SCOPE, USERS

_TEMPLATES: Final = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined
)
# No form-action: Chromium would then block the way back to the application.
_HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def login_page(request: AuthorizationRequest, *, username: str = "", wrong: bool = False) -> HTMLResponse:
    """The page that asks who is there and whether they agree; *wrong*: with word that the password did not fit."""
    content = _TEMPLATES.get_template("login.html").render(
        request=request, username=username, wrong=wrong, scope=SCOPE, users=USERS
    )
    return HTMLResponse(content, 422 if wrong else 200, headers=_HEADERS)


def error_page(message: str) -> HTMLResponse:
    """The page that ends a trip which must not go on."""
    return HTMLResponse(_TEMPLATES.get_template("error.html").render(message=message), 400, headers=_HEADERS)
