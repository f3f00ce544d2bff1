"""Tokens out, rejections in."""

import math
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BeforeValidator, Field
from starlette.responses import Response

from service.api.answers import hit_status, token_body
from service.api.deps import (
    DEMO_DIGEST,
    ApplicationQuery,
    House,
    Target,
    User,
    Whoever,
    body,
    body_schema,
    judged,
    token_target,
)
from service.api.hot_lane import pass_key
from service.api.schemas import RejectedToken, Token
from service.core.audit_store import Action
from service.core.handout import Handout, Source
from service.core.model import Scope
from service.core.services import Services
from service.telemetry import SERVED

LONGEST_MIN_TTL = 10**9

router = APIRouter(tags=["tokens"])


def _whole_seconds(value: object) -> object:
    if isinstance(value, str) and not (value.isascii() and value.isdecimal()):
        raise ValueError("must be a whole number of seconds")
    return value


class TokenQuery(ApplicationQuery):
    min_ttl: Annotated[
        int | None,
        Field(ge=0, description="Seconds that the token must still live; more than half its life counts as half"),
        BeforeValidator(_whole_seconds),
    ] = None


async def wanted_token(
    house: House, identity: Whoever, user: User, query: Annotated[TokenQuery, Query()]
) -> tuple[Target, timedelta | None]:
    """The target and the life that the caller wants."""
    target = judged(house, identity, Scope.TOKENS, user, query.application)
    min_ttl = None if query.min_ttl is None else timedelta(seconds=min(query.min_ttl, LONGEST_MIN_TTL))
    return target, min_ttl


@router.get("/tokens/{user}", operation_id="get_token", summary="A valid access token for a user", response_model=Token)
async def get_token(
    request: Request, house: House, wanted: Annotated[tuple[Target, timedelta | None], Depends(wanted_token)]
) -> Response:
    """A token that works now: cached while it is fresh, renewed when it is due.

    `@company` is the application itself (client credentials). A user must have been connected before. The
    `Cache-Status` header tells where the token came from; `detail=renewal_failing` means that the provider is in
    trouble and this token will not be replaced in time.
    """
    target, min_ttl = wanted
    application = target.application()
    grant = target.grant(application)
    handout = await house.broker.get(application, grant, min_ttl)
    house.audit.handed_out(target.identity.caller.name, grant)
    if handout.source is not Source.RENEWAL_FAILING and target.identity.key.digest != DEMO_DIGEST:
        key = pass_key(request.headers["authorization"].encode("latin-1"), request.scope)
        house.lane.offer(key, target.identity, grant, handout.token, min_ttl)
    return _answer(request, house, handout)


@router.post(
    "/tokens/{user}/rejected",
    operation_id="report_rejected_token",
    summary="Versature answered 401 to this token",
    response_model=Token,
    openapi_extra=body_schema(RejectedToken),
)
async def report_rejected_token(
    request: Request,
    house: House,
    target: Annotated[Target, Depends(token_target)],
    report: Annotated[RejectedToken, Depends(body(RejectedToken, token_target))],
) -> Response:
    """Another token than the rejected one.

    Renews only if the reported token is still the current one; otherwise the newer one is returned at once, so any
    number of late reports costs the provider nothing.
    """
    application = target.application()
    grant = target.grant(application)
    handout = await house.broker.rejected(application, grant, report.access_token)
    house.audit.handed_out(target.identity.caller.name, grant, Action.REJECTED)
    return _answer(request, house, handout)


def _answer(request: Request, house: Services, handout: Handout) -> Response:
    expires_in = math.floor((handout.token.expires_at - house.clock.now()).total_seconds())
    request.state.outcome, request.state.source = SERVED, str(handout.source)
    headers = {"Cache-Control": "no-store", "Cache-Status": _cache_status(handout, expires_in)}
    return Response(token_body(handout.token, expires_in), headers=headers, media_type="application/json")


def _cache_status(handout: Handout, expires_in: int) -> str:
    """RFC 9211: a hit with its source, or why it was forwarded and that the answer was stored."""
    if handout.source in {Source.STALE, Source.URI_MISS}:
        return f"token-broker; fwd={handout.source}; stored" + ("; collapsed" if handout.collapsed else "")
    return hit_status(expires_in, handout.source)
