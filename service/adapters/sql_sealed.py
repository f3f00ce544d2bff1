"""Every sealed column of the database alike: read in the order of the rows' keys, and written anew."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    LargeBinary,
    Select,
    Table,
    and_,
    bindparam,
    case,
    func,
    literal,
    null,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from service.adapters.sql_database import Database, guarded
from service.adapters.sql_directory_version import move_version
from service.adapters.tables import applications, authorization_requests, grants, to_instant
from service.core.model import GrantId
from service.core.sealing.resealing import HEAD_BYTES, Head, Kind, Mark, Resealed, SealedRow


@dataclass(frozen=True, slots=True)
class _Shelf:
    """One sealed column, the key of its row, whose it is, and since when it is there."""

    key: tuple[Column[Any], ...]
    sealed: Column[Any]
    application: Column[Any]
    user: Column[Any] | None
    since: Column[Any] | None

    @property
    def table(self) -> Table:
        return self.sealed.table


_grants, _requests = grants.c, authorization_requests.c
_OF_GRANTS = (_grants.application, _grants.user)
_SHELVES = {
    Kind.REFRESH_TOKEN: _Shelf(_OF_GRANTS, _grants.refresh_sealed, *_OF_GRANTS, _grants.issued_at),
    Kind.ACCESS_TOKEN: _Shelf(_OF_GRANTS, _grants.access_sealed, *_OF_GRANTS, _grants.issued_at),
    Kind.CLIENT_SECRET: _Shelf(
        (applications.c.name,), applications.c.client_secret_sealed, applications.c.name, None, None
    ),
    Kind.VERIFIER: _Shelf(
        (_requests.ticket_digest,),
        _requests.sealed_verifier,
        _requests.application,
        _requests.user,
        _requests.started_at,
    ),
}


class SqlSealedRows:
    """A `SealedRows` in a SQL database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @guarded
    async def heads(self, kind: Kind, *, after: Mark | None, limit: int) -> Sequence[Head]:
        shelf = _SHELVES[kind]
        since = null() if shelf.since is None else shelf.since
        statement = select(*shelf.key, _first_bytes(shelf, HEAD_BYTES), since)
        async with self._database.read() as connection:
            rows = await connection.execute(_in_order(statement, shelf, after, limit))
            return [Head(tuple(mark), head, to_instant(at)) for *mark, head, at in rows]

    @guarded
    async def page(self, kind: Kind, *, header: bytes | None, after: Mark | None, limit: int) -> Sequence[SealedRow]:
        """What is under the key already stays in the database, or every pass would fetch everything."""
        shelf = _SHELVES[kind]
        sealed: ColumnElement[Any] = shelf.sealed
        if header is not None:
            current = _first_bytes(shelf, len(header)) == literal(header, LargeBinary)
            sealed = case((current, null()), else_=shelf.sealed)
        user: ColumnElement[Any] = literal("") if shelf.user is None else shelf.user
        statement = select(*shelf.key, shelf.application.label("whose"), user.label("user_of"), sealed.label("sealed"))
        async with self._database.read() as connection:
            rows = await connection.execute(_in_order(statement, shelf, after, limit))
            return [SealedRow(tuple(mark), GrantId(name, owner), value) for *mark, name, owner, value in rows]

    @guarded
    async def replace(self, kind: Kind, changes: Sequence[Resealed]) -> int:
        shelf = _SHELVES[kind]
        async with self._database.write() as connection:
            if kind is Kind.CLIENT_SECRET:
                # Brokers keep applications until this moves. Its lock comes first, as with every change of them.
                await move_version(self._database, connection)
            free = await self._locked(connection, shelf, changes)
            if not free:
                return 0
            done = await connection.execute(_replacement(shelf), free)
            return done.rowcount

    async def _locked(
        self, connection: AsyncConnection, shelf: _Shelf, changes: Sequence[Resealed]
    ) -> list[dict[str, Any]]:
        """The changes of rows that nobody else is writing: whoever holds one lock and waits for none harms nobody."""
        free = {change.mark for change in changes}
        if not self._database.is_sqlite:
            wanted = or_(*(_is(shelf, change.mark) for change in changes))
            rows = await connection.execute(select(*shelf.key).where(wanted).with_for_update(skip_locked=True))
            free = {tuple(row) for row in rows}
        return [
            {"old": change.old, "new": change.new} | {f"key{at}": part for at, part in enumerate(change.mark)}
            for change in changes
            if change.mark in free
        ]


def _in_order(statement: Select[Any], shelf: _Shelf, after: Mark | None, limit: int) -> Select[Any]:
    if after is not None:
        behind = shelf.key[0] > after[0] if len(shelf.key) == 1 else tuple_(*shelf.key) > after
        statement = statement.where(behind)
    return statement.order_by(*shelf.key).limit(limit)


def _first_bytes(shelf: _Shelf, count: int) -> ColumnElement[Any]:
    return func.substr(shelf.sealed, 1, count, type_=LargeBinary)


def _is(shelf: _Shelf, mark: Mark) -> ColumnElement[bool]:
    return and_(*(column == part for column, part in zip(shelf.key, mark, strict=True)))


def _replacement(shelf: _Shelf) -> Any:
    """One row's secret for another, if it is still there; every other column stays as it is."""
    whose = (column == bindparam(f"key{at}") for at, column in enumerate(shelf.key))
    return (
        update(shelf.table)
        .where(*whose, shelf.sealed == bindparam("old"))
        .values({shelf.sealed: bindparam("new", type_=LargeBinary)})
    )
