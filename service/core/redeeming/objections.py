"""What the row of a grant already says against renewing it, without anybody asking the provider."""

from datetime import datetime, timedelta

from service.core.errors import (
    BrokerError,
    ClientRejected,
    InvalidUpstreamAnswer,
    KeyUnavailable,
    ReauthorizationRequired,
    RejectedTooOften,
    StoreUnavailable,
    UpstreamUnavailable,
)
from service.core.model import Application, Grant, GrantState, Reason
from service.core.policy import Policy
from service.core.sealing import digests

_BY_THEM = "The provider could not renew this grant; it is being left alone for a while."
_BY_US = "Trouble of our own kept this grant from being renewed; it is being left alone for a while."


def takeover(grant: Grant, policy: Policy) -> timedelta:
    """For how long after its lease a claim that never ended still holds; the company's has nothing to spend."""
    return timedelta(0) if grant.id.is_company else policy.takeover


def claimed_until(grant: Grant, policy: Policy) -> datetime | None:
    """Until when the row shows a claim that holds; the database's own clock has the last word."""
    return None if grant.claim is None else grant.claim.lease_until + takeover(grant, policy)


def raise_if_dead(grant: Grant) -> None:
    """Raise what the stored state of a dead or revoked grant says.

    Raises:
        ReauthorizationRequired: only the user can help.
    """
    if grant.state is not GrantState.CONNECTED:
        by_us = grant.state is GrantState.REVOKED
        raise ReauthorizationRequired(grant.id, grant.reason or Reason.REVOKED, by_us=by_us)


def raise_if_set_back(grant: Grant, now: datetime) -> None:
    """Raise the last failure again, until it is time for another try; an unfinished claim is `upstream_unavailable`."""
    if grant.retry_at is not None and now < grant.retry_at:
        raise _last_failure(grant, grant.retry_at - now)


def raise_if_not_renewable(application: Application, grant: Grant, now: datetime, *, forced: bool) -> None:
    """Raise whatever speaks against sending anything.

    A grant is judged by its stored state; the company's own has no refresh token to lose, so a change of the
    application's endpoints just makes it start afresh.
    """
    raise_if_dead(grant)
    same = grant.fingerprint == digests.fingerprint(application)
    if not grant.id.is_company and grant.refresh_sealed is None:
        raise ReauthorizationRequired(grant.id, Reason.NO_REFRESH_TOKEN)
    if not grant.id.is_company and not same:
        raise ClientRejected(
            "This grant was issued to another client id or by another token URL than the application now has."
        )
    if same:
        raise_if_set_back(grant, now)
    if forced and grant.forced_until is not None and now < grant.forced_until:
        raise RejectedTooOften(
            "This grant was renewed upon a rejection a short while ago.", retry_after=grant.forced_until - now
        )


def _last_failure(grant: Grant, left: timedelta) -> BrokerError:
    code = grant.last_error.code if grant.last_error and grant.claim is None else UpstreamUnavailable.code
    error: BrokerError
    match code:
        case StoreUnavailable.code:
            error = StoreUnavailable(_BY_US)
        case KeyUnavailable.code:
            error = KeyUnavailable()
        case InvalidUpstreamAnswer.code:
            error = InvalidUpstreamAnswer(_BY_THEM)
        case _:
            error = UpstreamUnavailable(_BY_THEM)
    error.retry_after = left
    return error
