"""A claim in SQL, the same for one grant and for the background: what stands in its way, and what it writes."""

from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, case, or_

from service.adapters.sql_grant_rows import MICROSECOND, spelt_out
from service.adapters.tables import grants
from service.core.model import GrantState

_columns = grants.c


def claimable(now: ColumnElement[int], fingerprint: bytes, takeover: ColumnElement[int]) -> ColumnElement[bool]:
    """Connected, held by nobody any more, and not to be left alone; a changed application need not wait."""
    return and_(_columns.state == spelt_out(GrantState.CONNECTED), is_free(now, fingerprint, takeover))


def is_free(now: ColumnElement[int], fingerprint: bytes, takeover: ColumnElement[int]) -> ColumnElement[bool]:
    """The same of a grant whose state is known."""
    return and_(
        or_(_columns.lease_until.is_(None), _columns.lease_until + takeover < now),
        or_(_columns.retry_at.is_(None), _columns.retry_at <= now, _columns.fingerprint != fingerprint),
    )


def claim_values(now: ColumnElement[int], attempt_id: str, lease: timedelta) -> dict[str, Any]:
    """The claim, with an unfinished predecessor copied aside."""
    return {
        "attempt_id": attempt_id,
        "attempt_started_at": now,
        "lease_until": now + lease // MICROSECOND,
        "unfinished_generation": case(
            (_columns.attempt_id.is_not(None), _columns.generation), else_=_columns.unfinished_generation
        ),
    }
