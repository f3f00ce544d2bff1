"""The query behind a listing of grants."""

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, literal_column, or_, select, tuple_

from service.adapters.sql_grant_rows import GRANT_COLUMNS
from service.adapters.sql_patterns import covers
from service.adapters.tables import DOUBTFUL, grants, to_micros
from service.core.model import COMPANY, GrantId, GrantState
from service.core.records import GrantFilter

_columns = grants.c


def listing(which: GrantFilter, after: GrantId | None, limit: int, now: datetime, *, sqlite: bool) -> Select[Any]:
    """Up to *limit* rows in the order of (application, user), those after *after* that *which* lets through."""
    conditions: list[ColumnElement[bool]] = [_columns.generation > 0]
    if which.application is not None:
        conditions.append(_columns.application == which.application)
    if which.state is not None:
        conditions.append(_standing(to_micros(now)) == which.state)
        if which.state is not GrantState.CONNECTED:  # to the letter, or no planner sees that its index serves
            conditions.append(literal_column(f"({DOUBTFUL})"))
    if which.users is not None:
        conditions.append(covers(which.users, _columns.user, sqlite=sqlite))
    if which.applications is not None:
        conditions.append(covers(which.applications, _columns.application, sqlite=sqlite))
    if after is not None:
        conditions.append(tuple_(_columns.application, _columns.user) > (after.application, after.user))
    return select(*GRANT_COLUMNS).where(*conditions).order_by(_columns.application, _columns.user).limit(limit)


def _standing(now: int) -> ColumnElement[str]:
    """The state that a listing shows: without a refresh token a grant lasts as long as its access token."""
    ended = or_(_columns.access_expires_at.is_(None), _columns.access_expires_at <= now)
    hopeless = and_(_columns.refresh_sealed.is_(None), _columns.user != COMPANY, ended)
    return case(
        (and_(_columns.state == GrantState.CONNECTED, hopeless), GrantState.REAUTHORIZATION_REQUIRED),
        else_=_columns.state,
    )
