"""Pages for people: rendering, and the headers that keep them harmless."""

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

from service.api.problems import problem_headers, problem_of
from service.core.errors import BrokerError

_TEMPLATES = Path(__file__).parent / "templates"
_STYLE = (_TEMPLATES / "style.css").read_text(encoding="utf-8")
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_environment = Environment(
    loader=FileSystemLoader(_TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)

HARMLESS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""What every page tells a browser, whatever its policy allows."""

# `form-action` is left out on purpose: browsers apply it to the whole chain of redirects that follows the form, and
# where the provider's login leads is not ours to know. The pages show nothing that is not escaped.
_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; "
    "frame-ancestors 'none'",
    **HARMLESS,
}

_WHAT_TO_DO = {
    "invalid_authorization_request": "Open the link that you were given again, or ask for a new one.",
    "authorization_expired": "A new link comes from where you got this one.",
    "authorization_denied": "Nothing was changed. Open your link again if you want to allow the access.",
}
_WAIT = "Open your link again in a few minutes."


def page(template: str, status: int = 200, /, **content: Any) -> Response:
    """*template* with *content*, every value escaped."""
    text = _environment.get_template(template).render(style=_STYLE, **content)
    return HTMLResponse(text, status, dict(_HEADERS))


def problem_page(error: BrokerError, request_id: str, *, retry_seconds: int | None = None) -> Response:
    """*error* for the person at the browser; with *retry_seconds* the page loads itself again."""
    problem = problem_of(error)
    response = page(
        "problem.html",
        problem.status,
        title=problem.title,
        detail=error.detail,
        what_to_do=_WHAT_TO_DO.get(error.code, _WAIT),
        code=error.code,
        request_id=request_id,
        retry_seconds=retry_seconds,
    )
    response.headers.update(problem_headers(error))
    return response
