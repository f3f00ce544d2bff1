"""The application: routes, layers around them, and the life of the container."""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TypedDict

from fastapi import FastAPI
from starlette.types import ASGIApp

from service.api.application import build_api
from service.api.hot_lane import HotLane
from service.api.middleware import Crowd, HonestPath, RequestContext
from service.config import Settings
from service.container import build
from service.core.services import Services
from service.lifecycle import Container
from service.telemetry import Metrics

REQUESTS_AT_ONCE = 5000
"""Of one process. Each costs some 50 KB while it waits, so this bounds memory, not the traffic of a good day."""


class LifespanState(TypedDict):
    """What every request finds in its state."""

    services: Services
    metrics: Metrics


def create_app(settings: Settings, *, make: Callable[[Settings, Metrics], Container] = build) -> ASGIApp:
    """The whole product as one ASGI application; tests pass a *make* that replaces parts."""
    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[LifespanState]:
        container = make(settings, metrics)
        try:
            await container.start()
            # Who counts every request, or asks for every answer, has nothing to decide beforehand.
            decided = settings.broker_caller_requests_per_second == 0 and settings.broker_local_cache_seconds > 0
            hot.lane = container.services.lane if decided else None
            yield {"services": container.services, "metrics": metrics}
        finally:
            await container.close()

    api = build_api(settings.broker_routes, lifespan=lifespan)
    hot = HotLane(RequestContext(Crowd(HonestPath(api), REQUESTS_AT_ONCE), metrics, settings.name_user))
    return hot
