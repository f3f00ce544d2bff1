"""Which grants the background may claim: the conditions, and the queries that find them along an index.

There are two ways to be due, each with an index of its own, so each has its own query: one query with an OR would
read and sort all of either. Both begin with those due longest.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, false, literal, or_, select

from service.adapters.sql_claims import is_free
from service.adapters.sql_grant_rows import MICROSECOND, is_now, spelt_out
from service.adapters.tables import grants, to_micros
from service.core.model import COMPANY, GrantState, GrantType
from service.core.records import Due

_columns = grants.c
_is_company = _columns.user == COMPANY


def may_be_claimed(due: Due, now: ColumnElement[int], takeover: timedelta) -> ColumnElement[bool]:
    """The whole condition of a claim for the background."""
    renewable = _renewable(due, now, takeover, is_now(GrantState.CONNECTED))
    return and_(renewable, or_(_awaited(due, now), _idle(due, now)))


def longest_due(due: Due, now: ColumnElement[int], takeover: timedelta) -> Sequence[Select[Any]]:
    """For each way to be due: keys, and for how long they have been; those due longest first."""
    keys = select(_columns.application, _columns.user)
    renewable = _renewable(due, now, takeover, _columns.state == spelt_out(GrantState.CONNECTED))
    idle_since = to_micros(due.idle_since)
    idle = keys.add_columns(idle_since - _columns.renewed_at).where(renewable, _idle(due, now))
    awaited = keys.add_columns(now - _columns.renew_at).where(renewable, _awaited(due, now))
    if due.active_since is None:
        return [idle.order_by(_columns.renewed_at)]
    return [awaited.order_by(_columns.renew_at), idle.order_by(_columns.renewed_at)]


def forgotten(due: Due, now: ColumnElement[int]) -> ColumnElement[bool]:
    """On the list of those due, but nobody has asked for it lately."""
    if due.active_since is None:
        return false()
    asked_lately = _columns.asked_at >= to_micros(due.active_since)
    return and_(
        _columns.application == due.application,
        _columns.state == spelt_out(GrantState.CONNECTED),
        _columns.renew_at <= now,
        or_(_columns.asked_at.is_(None), ~asked_lately),
    )


def _renewable(
    due: Due, now: ColumnElement[int], takeover: timedelta, connected: ColumnElement[bool]
) -> ColumnElement[bool]:
    """What `claim` would grant and something can be renewed with; the company needs nothing and has nothing to lose."""
    mine = _columns.application == due.application
    if due.grant_type is GrantType.CLIENT_CREDENTIALS:
        return and_(mine, _is_company, connected, is_free(now, due.fingerprint, literal(0)))
    return and_(
        mine,
        ~_is_company,
        _columns.refresh_sealed.is_not(None),
        _columns.fingerprint == due.fingerprint,
        connected,
        is_free(now, due.fingerprint, literal(takeover // MICROSECOND)),
    )


def _awaited(due: Due, now: ColumnElement[int]) -> ColumnElement[bool]:
    if due.active_since is None:
        return false()
    return and_(_columns.renew_at <= now, _columns.asked_at >= to_micros(due.active_since))


def _idle(due: Due, now: ColumnElement[int]) -> ColumnElement[bool]:
    return and_(
        ~_is_company,
        _columns.refresh_sealed.is_not(None),
        _columns.renewed_at <= to_micros(due.idle_since),
        or_(_columns.renew_at.is_(None), _columns.renew_at <= now),
    )
