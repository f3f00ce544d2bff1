"""For operators and for people who debug: health, metrics, what the problem codes mean."""

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from service import __version__
from service.api.deps import House
from service.api.pages import page
from service.api.problems import BY_CODE
from service.api.schemas import Alive, Ready
from service.core.condition.health import Readiness, overall
from service.core.errors import ResourceNotFound
from service.telemetry import Metrics

health_router = APIRouter(tags=["operations"])
router = APIRouter(tags=["operations"])


@health_router.get("/healthz", operation_id="get_health", summary="Is the process alive")
async def get_health() -> Alive:
    """Asks nothing and nobody: restart the process when this does not answer."""
    return Alive(status="ok", version=__version__)


@router.get(
    "/readyz",
    operation_id="get_readiness",
    summary="Should this process get requests",
    response_model=Ready,
    responses={503: {"model": Ready, "description": "Another replica would do better"}},
)
async def get_readiness(house: House) -> Response:
    """`degraded` still answers 200: cached tokens flow without the database."""
    parts = await house.health.parts()
    verdict = overall(parts)
    shown: dict[str, dict[str, str]] = {}
    for name, part in parts.items():
        shown[name] = {"status": "ok" if part.readiness is Readiness.READY else part.readiness}
        if part.detail is not None:
            shown[name]["detail"] = part.detail
    status = 503 if verdict is Readiness.NOT_READY else 200
    return JSONResponse({"status": verdict, "parts": shown}, status, {"Cache-Control": "no-store"})


@router.get("/metrics", operation_id="get_metrics", summary="Metrics for Prometheus", response_class=Response)
async def get_metrics(request: Request, house: House) -> Response:
    """Prometheus' text format."""
    house.lane.collect()
    metrics: Metrics = request.state.metrics
    return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/problems/{code}", include_in_schema=False)
async def explain_problem(code: str) -> Response:
    """The page that a problem's `type` leads to."""
    problem = BY_CODE.get(code)
    if problem is None:
        raise ResourceNotFound("There is no problem of this code.")
    return page("explained.html", title=problem.title, code=code, status=problem.status, text=problem.explanation)
