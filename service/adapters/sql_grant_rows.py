"""Between the rows of the grants and the core's `Grant`."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row

from service.adapters.tables import from_micros, to_micros
from service.core.model import Claim, Failure, Grant, GrantId, GrantState, Reason, SealedTokens, UpstreamRevocation

MICROSECOND = timedelta(microseconds=1)


def token_values(tokens: SealedTokens) -> dict[str, Any]:
    """What a row holds of an answer."""
    return {
        "access_sealed": tokens.access_sealed,
        "refresh_sealed": tokens.refresh_sealed,
        "refresh_digest": tokens.refresh_digest,
        "scope": tokens.scope,
        "issued_at": to_micros(tokens.issued_at),
        "access_expires_at": _micros(tokens.access_expires_at),
        "due_at": _micros(tokens.due_at),
        "refresh_expires_at": _micros(tokens.refresh_expires_at),
        "fingerprint": tokens.fingerprint,
    }


def _micros(instant: datetime | None) -> int | None:
    return None if instant is None else to_micros(instant)


def to_instant(micros: int | None) -> datetime | None:
    """A nullable column's instant."""
    return None if micros is None else from_micros(micros)


def to_grant(row: Row[Any]) -> Grant:
    """The grant that a whole row stands for."""
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
        last_error=error,
        retry_at=to_instant(row.retry_at),
        forced_until=to_instant(row.forced_until),
        forced_interval=None if row.forced_interval is None else row.forced_interval * MICROSECOND,
        upstream_revocation=UpstreamRevocation(row.upstream_revocation) if row.upstream_revocation else None,
    )
