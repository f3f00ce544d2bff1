"""What the calls of operators have in common: the scope admin, names in paths, pages of listings."""

from typing import Annotated, Any, TypeVar

from fastapi import Depends, Path, Query
from pydantic import BaseModel, ConfigDict

from service.api.deps import Whoever
from service.api.paging import PageQuery, read_cursor, write_cursor
from service.core.directory import Identity, require_scope
from service.core.model import Application, Caller, Scope
from service.core.names import NAME_FORM, check_name

Named = TypeVar("Named", Application, Caller)
_FORM: dict[str, Any] = {"min_length": 1, "max_length": 64, "examples": ["billing"]}
PathName = Annotated[str, Path(description="Its name", json_schema_extra={"pattern": NAME_FORM}, **_FORM)]
KeyId = Annotated[
    str,
    Path(
        description="The key's id",
        min_length=1,
        max_length=64,
        examples=["5f0c2a91"],
        json_schema_extra={"pattern": NAME_FORM},
    ),
]


class NoQuery(BaseModel):
    """No parameters at all: a mistyped one is told, not ignored."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


async def administrator(identity: Whoever, _query: Annotated[NoQuery, Query()]) -> Identity:
    """A caller with the scope admin. Its patterns do not matter: it could give itself any."""
    require_scope(identity.caller, Scope.ADMIN)
    return identity


async def named(identity: Whoever, name: PathName, _query: Annotated[NoQuery, Query()]) -> str:
    """The name in the path, well formed (422), asked for by somebody who may manage it (403)."""
    check_name(name)
    require_scope(identity.caller, Scope.ADMIN)
    return name


async def listed(identity: Whoever, query: Annotated[PageQuery, Query()]) -> tuple[str, int]:
    """The name after which the page begins, and how long the page may be."""
    after = "" if query.cursor is None else read_cursor(query.cursor, 1, check_name)
    require_scope(identity.caller, Scope.ADMIN)
    return after, query.limit


async def one_key(
    identity: Whoever, name: PathName, key_id: KeyId, query: Annotated[NoQuery, Query()]
) -> tuple[str, str]:
    """A caller's name and the id of one of its keys; the form of both is judged before the scope."""
    check_name(key_id)
    return await named(identity, name, query), key_id


Admin = Annotated[Identity, Depends(administrator)]
Name = Annotated[str, Depends(named)]
OneKey = Annotated[tuple[str, str], Depends(one_key)]
Page = Annotated[tuple[str, int], Depends(listed)]


def page_of(rows: list[Named], page: tuple[str, int]) -> tuple[list[Named], str | None]:
    """The rows of one page by name, and the cursor of the next page if there is one."""
    after, limit = page
    found = sorted((row for row in rows if row.name > after), key=lambda row: row.name)
    shown = found[:limit]
    return shown, write_cursor([shown[-1].name]) if len(found) > limit else None
