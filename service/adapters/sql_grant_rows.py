"""Between the rows of the grants and the core's `Grant`."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Row, Text, and_, bindparam, false, func, literal_column, or_

from service.adapters.tables import from_micros, grants, to_instant, to_micros, to_nullable
from service.core.model import Claim, Failure, Grant, GrantId, GrantState, Reason, SealedTokens, UpstreamRevocation

MICROSECOND = timedelta(microseconds=1)
NO_CLAIM: Mapping[str, Any] = {"attempt_id": None, "attempt_started_at": None, "lease_until": None}
NO_TROUBLE: Mapping[str, Any] = {"failures": 0, "last_error_code": None, "last_error_at": None, "retry_at": None}
NO_REFUSALS: Mapping[str, Any] = {"refusals": 0, "refused_since": None}
FRESH_START: Mapping[str, Any] = {
    **NO_CLAIM,
    **NO_TROUBLE,
    **NO_REFUSALS,
    "unfinished_generation": None,
    "forced_until": None,
    "forced_interval": None,
}

_SQL_ALONE = frozenset(
    [
        "refresh_digest",
        "spent_digests",
        "imported_digests",
        "connected_attempt_id",
        "asked_at",
        "renew_at",
        "entered_at",
    ]
)
GRANT_COLUMNS = tuple(column for column in grants.c if column.name not in _SQL_ALONE)
"""What `to_grant` reads: each further column costs the driver its time, and spent digests may be two kilobytes."""


def is_grant(grant: GrantId) -> ColumnElement[bool]:
    """The row of *grant* and no other."""
    return and_(grants.c.application == grant.application, grants.c.user == grant.user)


IS_NAMED = and_(grants.c.application == bindparam("named_application"), grants.c.user == bindparam("named_user"))
"""The same for a statement that is built once and run for many grants: building it costs more than running it."""


def naming(grant: GrantId) -> dict[str, str]:
    """The parameters of `IS_NAMED`."""
    return {"named_application": grant.application, "named_user": grant.user}


def told(column: str) -> BindParameter[Any]:
    """A value for *column* that such a statement is told when it is run, as the parameter `told_` and its name."""
    return bindparam(f"told_{column}", type_=grants.c[column].type)


def telling(values: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of `told`, by the columns' names."""
    return {f"told_{column}": value for column, value in values.items()}


def among(wanted: Iterable[GrantId]) -> ColumnElement[bool]:
    """The rows of *wanted*. Not as pairs in one list: for those SQLite reads the whole table."""
    users: dict[str, list[str]] = {}
    for grant in wanted:
        users.setdefault(grant.application, []).append(grant.user)
    each = (and_(grants.c.application == name, grants.c.user.in_(found)) for name, found in users.items())
    return or_(false(), *each)


def is_now(state: GrantState) -> ColumnElement[bool]:
    """The state of rows that are named anyway.

    As a bare column it would lead SQLite, which has no statistics, past their primary key to the census's index, and
    that has all rows of the application.
    """
    return func.coalesce(grants.c.state, "") == str(state)


def spelt_out(word: str) -> ColumnElement[str]:
    """*word* in the statement's own text: behind a parameter no planner would see that a partial index fits."""
    return literal_column(f"'{word}'", Text)


TOKEN_COLUMNS = (
    "access_sealed",
    "refresh_sealed",
    "refresh_digest",
    "scope",
    "issued_at",
    "access_expires_at",
    "due_at",
    "renew_at",
    "refresh_expires_at",
    "fingerprint",
)


def token_values(tokens: SealedTokens) -> dict[str, Any]:
    """What a row holds of an answer; the background looks again once it is due."""
    return {
        "access_sealed": tokens.access_sealed,
        "refresh_sealed": tokens.refresh_sealed,
        "refresh_digest": tokens.refresh_digest,
        "scope": tokens.scope,
        "issued_at": to_micros(tokens.issued_at),
        "access_expires_at": to_nullable(tokens.access_expires_at),
        "due_at": to_nullable(tokens.due_at),
        "renew_at": to_nullable(tokens.due_at),
        "refresh_expires_at": to_nullable(tokens.refresh_expires_at),
        "fingerprint": tokens.fingerprint,
    }


def to_grant(row: Row[Any]) -> Grant:
    """The grant that a row of `GRANT_COLUMNS`, or a whole one, stands for."""
    claim = error = None
    if row.attempt_id is not None:
        claim = Claim(row.attempt_id, from_micros(row.attempt_started_at), from_micros(row.lease_until))
    if row.last_error_code is not None:
        error = Failure(row.last_error_code, from_micros(row.last_error_at))
    return Grant(
        id=GrantId(row.application, row.user),
        state=GrantState(row.state),
        reason=Reason(row.reason) if row.reason else None,
        generation=row.generation,
        fingerprint=row.fingerprint,
        access_sealed=row.access_sealed,
        refresh_sealed=row.refresh_sealed,
        scope=row.scope,
        obtained_at=to_instant(row.obtained_at),
        renewed_at=to_instant(row.renewed_at),
        issued_at=to_instant(row.issued_at),
        access_expires_at=to_instant(row.access_expires_at),
        due_at=to_instant(row.due_at),
        refresh_expires_at=to_instant(row.refresh_expires_at),
        claim=claim,
        unfinished_generation=row.unfinished_generation,
        saved_attempt_id=row.saved_attempt_id,
        failures=row.failures,
        refusals=row.refusals,
        refused_since=to_instant(row.refused_since),
        last_error=error,
        retry_at=to_instant(row.retry_at),
        forced_until=to_instant(row.forced_until),
        forced_interval=None if row.forced_interval is None else row.forced_interval * MICROSECOND,
        upstream_revocation=UpstreamRevocation(row.upstream_revocation) if row.upstream_revocation else None,
    )
