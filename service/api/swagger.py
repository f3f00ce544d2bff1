"""Swagger UI, from files of our own and with a policy of its own: it is a page that runs script."""

import base64
import hashlib
import re

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse, Response

from service.api.pages import HARMLESS

ASSETS = "/static-offline-docs"
"""Where fastapi-offline puts Swagger's files."""

router = APIRouter(include_in_schema=False)


def _page() -> HTMLResponse:
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Token broker",
        swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{ASSETS}/favicon.png",
        swagger_ui_parameters={"persistAuthorization": True, "tryItOutEnabled": True},
    )
    page.headers.update(HARMLESS)
    page.headers["Content-Security-Policy"] = _policy(bytes(page.body))
    return page


def _policy(page: bytes) -> str:
    """No script but Swagger's file and the lines in the page that start it; styles it sets as it goes."""
    inline = re.findall(rb"<script>(.*?)</script>", page, re.DOTALL)
    started = "".join(f" 'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'" for script in inline)
    return (
        f"default-src 'none'; script-src 'self'{started}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


_PAGE = _page()


@router.get("/docs")
async def show_swagger() -> Response:
    """The document to read, and calls to try out."""
    return _PAGE
