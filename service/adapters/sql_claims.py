"""A claim in SQL, the same for one grant and for the background: what stands in its way, and what it writes."""

from typing import Any

from sqlalchemy import BigInteger, ColumnElement, and_, bindparam, case, or_, update
from sqlalchemy.sql.dml import ReturningUpdate

from service.adapters.sql_grant_rows import GRANT_COLUMNS, IS_NAMED, spelt_out, told
from service.adapters.tables import grants
from service.core.model import GrantState

_columns = grants.c


def claim_of_one(now: ColumnElement[int], *, company: bool, forced: bool) -> ReturningUpdate[Any]:
    """The claim of a named grant that is still `at_generation`, for a `lease`, if nothing is in its way.

    It is also told `takeover`, `attempt_id` and `fingerprint`; if *forced*, `forced_until` and `forced_interval`.
    """
    conditions = [
        IS_NAMED,
        _columns.generation == bindparam("at_generation"),
        _columns.state == spelt_out(GrantState.CONNECTED),
        is_free(now, told("fingerprint"), bindparam("takeover", type_=BigInteger)),
    ]
    values = claim_values(now, told("attempt_id"), bindparam("lease", type_=BigInteger))
    if company:
        values["fingerprint"] = told("fingerprint")
    if forced:
        conditions.append(or_(_columns.forced_until.is_(None), _columns.forced_until <= now))
        values |= {column: told(column) for column in ("forced_until", "forced_interval")}
    return update(grants).where(*conditions).values(values).returning(*GRANT_COLUMNS)


def is_free(
    now: ColumnElement[int], fingerprint: bytes | ColumnElement[bytes], takeover: ColumnElement[int]
) -> ColumnElement[bool]:
    """Held by nobody any more, and not to be left alone; a changed application need not wait."""
    return and_(
        or_(_columns.lease_until.is_(None), _columns.lease_until + takeover < now),
        or_(_columns.retry_at.is_(None), _columns.retry_at <= now, _columns.fingerprint != fingerprint),
    )


def claim_values(
    now: ColumnElement[int], attempt_id: str | ColumnElement[str], lease: int | ColumnElement[int]
) -> dict[str, Any]:
    """The claim, with an unfinished predecessor copied aside."""
    return {
        "attempt_id": attempt_id,
        "attempt_started_at": now,
        "lease_until": now + lease,
        "unfinished_generation": case(
            (_columns.attempt_id.is_not(None), _columns.generation), else_=_columns.unfinished_generation
        ),
    }
