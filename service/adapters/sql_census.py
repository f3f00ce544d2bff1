"""Counts all grants from one index alone: no row is touched, however many there are."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, select

from service.adapters.sql_database import Database, guarded
from service.adapters.sql_grant_rows import MICROSECOND
from service.adapters.tables import grants, to_instant, to_micros
from service.core.model import GrantState
from service.core.upkeep.census import Count

_columns = grants.c
_connected = _columns.state == GrantState.CONNECTED.value


class SqlCensusStore:
    """A `CensusStore` in a SQL database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @guarded
    async def count(self, now: datetime, ending_within: Sequence[timedelta]) -> Sequence[Count]:
        since = to_micros(now)
        renewed = and_(_connected, _columns.renew_at.is_not(None))
        statement = (
            select(
                _columns.application,
                _columns.state,
                func.count(),
                _number(renewed),
                func.min(case((renewed, _columns.renew_at))),
                *[_number(_ends(since, since + within // MICROSECOND)) for within in ending_within],
            )
            .where(_columns.generation > 0)
            .group_by(_columns.application, _columns.state)
            .order_by(_columns.application, _columns.state)
        )
        async with self._database.scan() as connection:
            rows = (await connection.execute(statement)).all()
        return [
            Count(application, GrantState(state), number, tuple(ending), active, to_instant(oldest))
            for application, state, number, active, oldest, *ending in rows
        ]


def _ends(since: int, until: int) -> ColumnElement[bool]:
    return and_(_connected, _columns.refresh_expires_at > since, _columns.refresh_expires_at <= until)


def _number(condition: ColumnElement[bool]) -> ColumnElement[Any]:
    """How many rows fulfil *condition*."""
    return func.count(case((condition, 1)))
