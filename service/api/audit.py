"""The audit, for operators: who got what, and who decided what."""

import re
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, BeforeValidator, Field, StringConstraints

from service.api.deps import House, Whoever
from service.api.paging import PageQuery, read_cursor, write_cursor
from service.api.schemas import Instant, example, examples_of
from service.core.audit_store import Action, AuditEntry, AuditFilter
from service.core.directory import require_scope
from service.core.model import Scope
from service.core.names import MAX_USER_LENGTH

router = APIRouter(tags=["audit"])

_ID = re.compile(r"[0-9a-z-]{1,64}")
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]")
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)


def _written(given: object) -> object:
    """An instant as the document wants it: pydantic alone would also take a number of seconds, or a mere day."""
    if isinstance(given, str) and not _INSTANT.match(given):
        raise ValueError("must be an instant, as in 2026-11-23T09:15:00Z")
    return given


When = Annotated[datetime | None, BeforeValidator(_written)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=MAX_USER_LENGTH, pattern=r"^[^\x00]*$")]


class AuditEntryView(BaseModel):
    """One event, or what one process counted of one kind within the minute that begins at `at`."""

    model_config = example(
        {
            "id": "5f0c2a91b7d3e846-17",
            "at": "2026-11-23T09:15:00Z",
            "caller": "crm",
            "action": "token",
            "application": "default",
            "user": "alice",
            "subject": None,
            "code": None,
            "request_id": None,
            "times": 42,
        }
    )

    id: str
    at: Instant
    caller: Annotated[str, Field(description="`-` is somebody without a valid key")]
    action: Action
    application: str | None
    user: str | None
    subject: Annotated[str | None, Field(description="What an act of an operator was about")]
    code: Annotated[str | None, Field(description="The problem, or how far a revocation came")]
    request_id: str | None
    times: int


class AuditPage(BaseModel):
    """Some entries, the newest first, and where to go on."""

    model_config = example({"items": examples_of(AuditEntryView), "next_cursor": None})

    items: list[AuditEntryView]
    next_cursor: Annotated[str | None, Field(description="`cursor` of the next page; null on the last one")]


class AuditQuery(PageQuery):
    since: Annotated[When, Field(description="Not before this instant")] = None
    until: Annotated[When, Field(description="Before this instant")] = None
    caller: Annotated[Name | None, Field(description="By this caller only; `-`: without a valid key")] = None
    application: Annotated[Name | None, Field(description="Of this application only")] = None
    user: Annotated[Name | None, Field(description="About this user only")] = None
    action: Annotated[Action | None, Field(description="Of this kind only")] = None


async def wanted(
    identity: Whoever, query: Annotated[AuditQuery, Query()]
) -> tuple[AuditFilter, tuple[datetime, str] | None, int]:
    """The filter, where the page begins and how long it may be: 422 before 403."""
    which = AuditFilter(
        _instant(query.since), _instant(query.until), query.caller, query.application, query.user, query.action
    )
    after = None if query.cursor is None else read_cursor(query.cursor, 2, _place)
    require_scope(identity.caller, Scope.ADMIN)
    return which, after, query.limit


@router.get("/audit", operation_id="list_audit", summary="Who got which token, and who decided what")
async def list_audit(
    house: House,
    wanted: Annotated[tuple[AuditFilter, tuple[datetime, str] | None, int], Depends(wanted)],
) -> AuditPage:
    """A page of the audit, the newest first.

    Hand-outs and refusals are counted by process and minute and appear a few seconds later; events appear at once. A
    process that is killed loses the counts of its last seconds.
    """
    which, after, limit = wanted
    found = await house.audit_store.page(which, after=after, limit=limit + 1)
    shown = found[:limit]
    cursor = write_cursor([shown[-1].at.isoformat(), shown[-1].id]) if len(found) > limit else None
    return AuditPage(items=[_view(entry) for entry in shown], next_cursor=cursor)


def _view(entry: AuditEntry) -> AuditEntryView:
    return AuditEntryView(**{name: getattr(entry, name) for name in AuditEntryView.model_fields})


def _instant(given: datetime | None) -> datetime | None:
    """Without a zone it is UTC; far from our times it is pulled to where every database can compare."""
    if given is None:
        return None
    aware = given if given.tzinfo else given.replace(tzinfo=UTC)
    return max(_EARLIEST, aware)


def _place(at: str, id_: str) -> tuple[datetime, str]:
    instant = datetime.fromisoformat(at)
    if instant.tzinfo is None or not _ID.fullmatch(id_):
        raise ValueError
    return max(_EARLIEST, instant), id_
