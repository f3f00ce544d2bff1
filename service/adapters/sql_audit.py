"""The audit in SQL."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Row, delete, select, tuple_

from service.adapters.sql_database import Database, guarded
from service.adapters.tables import audit, from_micros, to_micros
from service.core.audit_store import Action, AuditEntry, AuditFilter

_columns = audit.c


class SqlAuditStore:
    """An `AuditStore` in a SQL database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @guarded
    async def put(self, entries: Sequence[AuditEntry]) -> None:
        statement = self._database.insert(audit)
        statement = statement.on_conflict_do_update(
            index_elements=[_columns.id], set_={"times": statement.excluded.times}
        )
        if rows := [_row(entry) for entry in entries]:
            async with self._database.write() as connection:
                await connection.execute(statement, rows)

    @guarded
    async def page(self, which: AuditFilter, *, after: tuple[datetime, str] | None, limit: int) -> Sequence[AuditEntry]:
        conditions: list[ColumnElement[bool]] = [
            column == wanted
            for column, wanted in (
                (_columns.caller, which.caller),
                (_columns.application, which.application),
                (_columns.user, which.user),
                (_columns.action, which.action),
            )
            if wanted is not None
        ]
        if which.since is not None:
            conditions.append(_columns.at >= to_micros(which.since))
        if which.until is not None:
            conditions.append(_columns.at < to_micros(which.until))
        if after is not None:
            conditions.append(tuple_(_columns.at, _columns.id) < (to_micros(after[0]), after[1]))
        statement = select(audit).where(*conditions).order_by(_columns.at.desc(), _columns.id.desc()).limit(limit)
        async with self._database.scan() as connection:
            return [_entry(row) for row in await connection.execute(statement)]

    @guarded
    async def forget(self, before: datetime, *, limit: int) -> int:
        oldest = select(_columns.id).where(_columns.at < to_micros(before)).order_by(_columns.at).limit(limit)
        async with self._database.write() as connection:
            return (await connection.execute(delete(audit).where(_columns.id.in_(oldest)))).rowcount


def _row(entry: AuditEntry) -> dict[str, object]:
    return {
        "id": entry.id,
        "at": to_micros(entry.at),
        "caller": entry.caller,
        "action": entry.action,
        "application": entry.application,
        "user": entry.user,
        "subject": entry.subject,
        "code": entry.code,
        "request_id": entry.request_id,
        "times": entry.times,
    }


def _entry(row: Row[tuple[object, ...]]) -> AuditEntry:
    return AuditEntry(
        id=row.id,
        at=from_micros(row.at),
        caller=row.caller,
        action=Action(row.action),
        application=row.application,
        user=row.user,
        subject=row.subject,
        code=row.code,
        request_id=row.request_id,
        times=row.times,
    )
