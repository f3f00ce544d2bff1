"""Puts routes, error handling and documentation together."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Literal

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from service import __version__
from service.api import applications, audit, callers, connect, grants, ops, swagger, tokens
from service.api.deps import WrongFields, field_errors, services
from service.api.documentation import TAGS, document
from service.api.problems import problem_response
from service.core.audit import STRANGER
from service.core.errors import (
    BrokerError,
    InternalError,
    InvalidApiKey,
    MethodNotAllowed,
    NotAllowed,
    RateLimited,
    RejectedTooOften,
    ResourceNotFound,
)

DESCRIPTION = """
Hands out Versature access tokens to internal services.

1. Press **Authorize** and enter your service's key. `GET /me` shows what it may do.

2. `GET /tokens/{user}` gives you a token that works now, and says for how long.

3. A user who is not connected, or no more, needs `POST /grants/{user}/connect`: it gives you a link for their browser.

4. When Versature answers 401 to a token, report that to `POST /tokens/{user}/rejected`: it gives you another one.

Errors are `application/problem+json` (RFC 9457); their `code` is stable and `type` leads to a page that explains it.
"""

REFUSALS = (InvalidApiKey, NotAllowed, RateLimited, RejectedTooOften)
"""What the audit tells of: somebody asked for what is not theirs, or too often."""

_ABOUT_USERS = (NotAllowed, RejectedTooOften)  # the others come before anybody looked at the user's form

Routes = Literal["all", "internal", "public"]
_CALLS = (tokens.router, grants.router, callers.router, applications.router, audit.router, ops.router, swagger.router)
_ROUTERS: dict[str, tuple[APIRouter, ...]] = {
    "all": (*_CALLS, ops.health_router, connect.router),
    "internal": (*_CALLS, ops.health_router),
    "public": (ops.health_router, connect.router),
}


def build_api(routes: Routes, *, lifespan: Callable[[FastAPI], Any] | None = None) -> FastAPI:
    """The routes of one kind of deployment (see BROKER_ROUTES), with problems and Swagger UI."""
    public = routes == "public"
    options: dict[str, Any] = {
        "title": "Token broker",
        "version": __version__,
        "description": DESCRIPTION,
        "openapi_tags": TAGS,
        "lifespan": lifespan,
        "redirect_slashes": False,
    }
    app = (
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None, **options)
        if public
        else FastAPIOffline(docs_url=None, redoc_url=None, **options)
    )
    app.state.routers = _ROUTERS[routes]
    for router in _ROUTERS[routes]:
        app.include_router(router)
    app.exception_handler(BrokerError)(_broker_error)
    app.exception_handler(RequestValidationError)(_wrong_parameters)
    app.exception_handler(HTTPException)(_unrouted)
    app.exception_handler(Exception)(_crash)
    app.openapi = lambda: document(app)  # type: ignore[method-assign]
    return app


async def _broker_error(request: Request, error: BrokerError) -> Response:
    request.state.outcome = error.code
    if isinstance(error, REFUSALS):
        caller = getattr(request.state, "caller", None)
        user = request.path_params.get("user") if isinstance(error, _ABOUT_USERS) else None
        (await services(request)).audit.refused(caller or STRANGER, error.code, user)
    extra = {"errors": error.fields} if isinstance(error, WrongFields) else None
    return problem_response(error, request.state.request_id, extra)


async def _wrong_parameters(request: Request, error: RequestValidationError) -> Response:
    return await _broker_error(request, WrongFields(field_errors(error.errors())))


async def _unrouted(request: Request, error: HTTPException) -> Response:
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        response = await _broker_error(request, MethodNotAllowed("This address does not know that method."))
        response.headers["Allow"] = _allowed_methods(request) or (error.headers or {}).get("Allow", "GET")
        return response
    return await _broker_error(request, ResourceNotFound("There is nothing at this address."))


def _allowed_methods(request: Request) -> str:
    """What all routes of this address answer to; the framework would name those of the first one only."""
    routes = [route for router in request.app.state.routers for route in router.routes if isinstance(route, APIRoute)]
    here = [route.methods or set() for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted(set().union(*here)))


async def _crash(request: Request, _error: Exception) -> Response:
    """Says nothing of what happened; the outermost layer logs it."""
    return await _broker_error(request, InternalError("The log has more under the request id."))
