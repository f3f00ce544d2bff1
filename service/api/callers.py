"""Callers and their keys, for operators: add, look at, change, forget. And what the calling key may do."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Response

from service.api.admin import Admin, Name, OneKey, Page, administrator, named, page_of
from service.api.admin_schemas import CallerChanges, NewCaller, NewKey
from service.api.admin_views import (
    CallerPage,
    CallerView,
    IssuedKeyView,
    KeyList,
    NewCallerView,
    caller_view,
    issued_key_view,
    key_view,
    new_caller_view,
)
from service.api.deps import House, Whoever, body, body_schema
from service.api.schemas import Me
from service.core.model import Caller

router = APIRouter(tags=["callers"])

_NO_STORE = {"Cache-Control": "no-store"}


@router.get("/me", operation_id="get_me", summary="What your key may do")
async def get_me(identity: Whoever) -> Me:
    """The calling key's own name, scopes and patterns, and when it expires."""
    caller = identity.caller
    return Me(
        name=caller.name,
        scopes=sorted(caller.scopes),
        users=list(caller.users),
        applications=list(caller.applications),
        key_expires_at=identity.key.expires_at,
    )


@router.get("/callers", operation_id="list_callers", summary="All callers")
async def list_callers(house: House, page: Page) -> CallerPage:
    """A page of stored callers by name; the one that BROKER_ADMIN_KEY makes is not among them."""
    await house.directory.catch_up()
    shown, cursor = page_of(house.directory.callers, page)
    return CallerPage(items=[caller_view(caller) for caller in shown], next_cursor=cursor)


@router.post(
    "/callers",
    operation_id="add_caller",
    summary="Add a caller",
    status_code=201,
    openapi_extra=body_schema(NewCaller),
)
async def add_caller(
    house: House,
    _admin: Admin,
    new: Annotated[NewCaller, Depends(body(NewCaller, administrator))],
    response: Response,
) -> NewCallerView:
    """The answer holds its first key, which works at once and is shown this once."""
    caller = Caller(new.name, new.scopes, tuple(new.users), tuple(new.applications))
    issued = await house.administration.add_caller(caller)
    response.headers.update(_NO_STORE)
    return new_caller_view(caller, issued)


@router.get("/callers/{name}", operation_id="get_caller", summary="One caller")
async def get_caller(house: House, name: Name) -> CallerView:
    """What it may do and ask for."""
    await house.directory.catch_up()
    return caller_view(house.directory.caller(name))


@router.patch(
    "/callers/{name}",
    operation_id="change_caller",
    summary="Change what a caller may do",
    openapi_extra=body_schema(CallerChanges),
)
async def change_caller(
    house: House, name: Name, changes: Annotated[CallerChanges, Depends(body(CallerChanges, named))]
) -> CallerView:
    """Its keys stay. In force here at once, elsewhere within BROKER_LOCAL_CACHE_SECONDS."""
    given = {field: getattr(changes, field) for field in changes.model_fields_set}
    return caller_view(await house.administration.change_caller(name, **given))


@router.delete("/callers/{name}", operation_id="remove_caller", summary="Forget a caller", status_code=204)
async def remove_caller(house: House, name: Name) -> Response:
    """Its keys end here at once, elsewhere within BROKER_LOCAL_CACHE_SECONDS."""
    await house.administration.remove_caller(name)
    return Response(status_code=204)


@router.get("/callers/{name}/keys", operation_id="list_keys", summary="A caller's keys")
async def list_keys(house: House, name: Name) -> KeyList:
    """The oldest first, expired ones too until a new one takes their place; never the keys themselves."""
    await house.directory.catch_up()
    caller = house.directory.caller(name)
    return KeyList(items=[key_view(key) for key in house.directory.keys_of(caller.name)])


@router.post(
    "/callers/{name}/keys",
    operation_id="add_key",
    summary="One more key for a caller",
    status_code=201,
    openapi_extra=body_schema(NewKey, required=False),
)
async def add_key(
    house: House,
    name: Name,
    wanted: Annotated[NewKey, Depends(body(NewKey, named, optional=True))],
    response: Response,
) -> IssuedKeyView:
    """Two keys work at once, so that a service changes over without a gap: add one, deploy it, remove the other.

    The key is shown this once.
    """
    expires_at = wanted.expires_at
    if wanted.expires_in is not None:
        expires_at = house.clock.now() + timedelta(seconds=wanted.expires_in)
    issued = await house.administration.add_key(name, expires_at=expires_at)
    response.headers.update(_NO_STORE)
    return issued_key_view(issued)


@router.delete(
    "/callers/{name}/keys/{key_id}",
    operation_id="remove_key",
    summary="End one key of a caller",
    status_code=204,
)
async def remove_key(house: House, key: OneKey) -> Response:
    """It ends here at once, elsewhere within BROKER_LOCAL_CACHE_SECONDS. Even the last key can be removed."""
    name, key_id = key
    await house.administration.remove_key(name, key_id)
    return Response(status_code=204)
