"""Grants: connect, look at, take over, end."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from pydantic import Field

from service.api.deps import (
    ApplicationName,
    ApplicationQuery,
    House,
    Target,
    Whoever,
    body,
    body_schema,
    grant_target,
    person_target,
)
from service.api.paging import Cursor, Limit, read_cursor, write_cursor
from service.api.schemas import (
    ConnectInvitation,
    ConnectLink,
    GrantImport,
    GrantPage,
    GrantStatus,
    Revocation,
    grant_status,
)
from service.core.directory import require_scope
from service.core.errors import GrantNotFound, NotAllowed
from service.core.model import GrantId, GrantState, Scope
from service.core.names import check_name, check_user, matches
from service.core.records import GrantFilter

router = APIRouter(tags=["grants"])

GrantTarget = Annotated[Target, Depends(grant_target)]
PersonTarget = Annotated[Target, Depends(person_target)]


class GrantQuery(ApplicationQuery):
    application: Annotated[ApplicationName | None, Field(description="Of this application only")] = None
    state: Annotated[GrantState | None, Field(description="In this state only")] = None
    cursor: Cursor = None
    limit: Limit = 50


@router.post(
    "/grants/{user}/connect",
    operation_id="invite_user",
    summary="A link that connects a user",
    status_code=201,
    openapi_extra=body_schema(ConnectInvitation, required=False),
)
async def invite_user(
    house: House,
    target: PersonTarget,
    invitation: Annotated[ConnectInvitation, Depends(body(ConnectInvitation, person_target, optional=True))],
    response: Response,
) -> ConnectLink:
    """Send the user's browser to `connect_url`. The link works until the user is connected, for ten minutes.

    Afterwards the browser goes to `return_to?status=connected`, or `?status=failed&code=…`.
    """
    application = target.application()
    ticket, expires_at = await house.authorization.invite(
        target.identity.caller, application, target.grant(application), invitation.return_to
    )
    response.headers["Cache-Control"] = "no-store"
    return ConnectLink(connect_url=f"{house.public_url}/connect/{ticket}", expires_at=expires_at)


@router.get("/grants", operation_id="list_grants", summary="The grants that you may ask for")
async def list_grants(house: House, identity: Whoever, query: Annotated[GrantQuery, Query()]) -> GrantPage:
    """A page of grants in the order of application and user. Only grants that your patterns cover are shown.

    A grant whose tokens fail their seal is stored as `connected` and found as that, but shown as
    `reauthorization_required` with the reason `undecryptable`.
    """
    caller, after = identity.caller, None if query.cursor is None else read_cursor(query.cursor, 2, _grant)
    if query.application is not None:
        check_name(query.application)
    require_scope(caller, Scope.GRANTS)
    if query.application is not None and not any(matches(p, query.application) for p in caller.applications):
        raise NotAllowed("This key may not use that application.")
    which = GrantFilter(query.application, query.state, caller.users, caller.applications)
    found = await house.grants.page(which, after=after, limit=query.limit + 1, now=house.clock.now())
    shown = found[: query.limit]
    cursor = write_cursor([shown[-1].id.application, shown[-1].id.user]) if len(found) > len(shown) else None
    return GrantPage(items=[grant_status(house.broker, grant) for grant in shown], next_cursor=cursor)


@router.get("/grants/{user}", operation_id="get_grant", summary="Where a user's grant stands")
async def get_grant(house: House, target: GrantTarget) -> GrantStatus:
    """The grant's state, times and last trouble; never its tokens."""
    grant_id = target.grant(target.application())
    grant = await house.grants.get(grant_id)
    if grant is None or not grant.exists:
        raise GrantNotFound(grant_id)
    return grant_status(house.broker, grant)


@router.put(
    "/grants/{user}",
    operation_id="import_grant",
    summary="Take over a grant obtained elsewhere",
    responses={201: {"model": GrantStatus, "description": "The grant was created"}},
    openapi_extra=body_schema(GrantImport),
)
async def import_grant(
    house: House,
    target: PersonTarget,
    tokens: Annotated[GrantImport, Depends(body(GrantImport, person_target))],
    response: Response,
) -> GrantStatus:
    """Store a refresh token that another service holds, so that nobody has to log in again.

    From then on only the broker may use it. Repeating the call is harmless: a refresh token that is stored, or was
    spent here, changes nothing.
    """
    application = target.application()
    grant, created = await house.broker.import_(
        application,
        target.grant(application),
        refresh_token=tokens.refresh_token,
        access_token=tokens.access_token,
        expires_in=None if tokens.expires_in is None else timedelta(seconds=tokens.expires_in),
        scope=tokens.scope,
    )
    response.status_code = 201 if created else 200
    return grant_status(house.broker, grant)


@router.delete("/grants/{user}", operation_id="revoke_grant", summary="End a user's grant")
async def revoke_grant(house: House, target: GrantTarget) -> Revocation:
    """Unusable here at once, elsewhere within BROKER_LOCAL_CACHE_SECONDS.

    `upstream` says how far the provider knows; repeating the call tries that again.
    """
    application = target.application()
    upstream = await house.broker.revoke(application, target.grant(application))
    return Revocation(state=GrantState.REVOKED, upstream=upstream)


def _grant(application: str, user: str) -> GrantId:
    return GrantId(check_name(application), check_user(user))
