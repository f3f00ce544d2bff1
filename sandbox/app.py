"""The sandbox as one ASGI application."""

import time
from collections.abc import Callable, Sequence

from starlette.applications import Starlette

from sandbox.authorization_endpoint import AuthorizationEndpoint
from sandbox.control_api import BadOrder, ControlApi, unprocessable
from sandbox.directory import DEFAULT_REDIRECT_URI
from sandbox.provider import Provider
from sandbox.resource_api import ResourceApi
from sandbox.revocation_endpoint import RevocationEndpoint
from sandbox.switches import DEFAULTS, Switches
from sandbox.token_endpoint import TokenEndpoint


def create_sandbox(
    switches: Switches = DEFAULTS,
    *,
    redirect_uris: Sequence[str] = (DEFAULT_REDIRECT_URI,),
    now: Callable[[], float] = time.time,
    mark: str = "",
) -> Starlette:
    """A provider of its own, with empty memory; in-process tests find it as `app.state.provider`.

    *now* tells the time in seconds since the epoch and is the only clock that tokens live by; every code and token
    begins with *mark*.
    """
    provider = Provider(switches, redirect_uris=redirect_uris, now=now, mark=mark)
    app = Starlette(
        routes=[
            *AuthorizationEndpoint(provider).routes(),
            *TokenEndpoint(provider).routes(),
            *RevocationEndpoint(provider).routes(),
            *ResourceApi(provider).routes(),
            *ControlApi(provider).routes(),
        ],
        exception_handlers={BadOrder: unprocessable},
    )
    app.router.redirect_slashes = False  # as with Versature, a path without its trailing slash is another path
    app.state.provider = provider
    return app
