"""Arithmetic of lives: when a token may be handed out, when it is due for renewal, when to try again."""

from datetime import datetime, timedelta

from service.core.model import AccessToken, Grant
from service.core.policy import Policy

HAND_OUT_MARGIN = timedelta(seconds=5)
DEFAULT_MIN_TTL = timedelta(seconds=60)
LONGEST_LIFE = timedelta(days=3650)
RENEWAL_POINT = 0.8
RENEWAL_JITTER = 0.1


def bounded_life(expires_in: timedelta | None, unstated: timedelta) -> timedelta:
    """The life to count with, never so long that instants overflow."""
    return min(unstated if expires_in is None else expires_in, LONGEST_LIFE)


def due_at(issued_at: datetime, life: timedelta, jitter: float) -> datetime:
    """When renewal falls due: at 0.8 of the life, less *jitter* (0 to 1) times a tenth of it."""
    return issued_at + life * (RENEWAL_POINT - RENEWAL_JITTER * jitter)


def usable_until(token: AccessToken) -> datetime:
    """The last instant at which the token may be handed out: min(5 s, a tenth of the life) before its end."""
    life = token.expires_at - token.issued_at
    return token.expires_at - min(HAND_OUT_MARGIN, life / 10)


def is_usable(token: AccessToken, now: datetime) -> bool:
    return now < usable_until(token)


def satisfies(token: AccessToken, now: datetime, min_ttl: timedelta | None) -> bool:
    """Whether the token lasts as long as the caller wants.

    Omitted, *min_ttl* is the lesser of 60 s and a tenth of the life; more than half the life counts as half, so that
    no caller can demand a renewal with every request.
    """
    return now <= satisfied_until(token, min_ttl)


def satisfied_until(token: AccessToken, min_ttl: timedelta | None) -> datetime:
    """The last instant at which the token lasts as long as the caller wants; see `satisfies`."""
    life = token.expires_at - token.issued_at
    wanted = min(DEFAULT_MIN_TTL, life / 10) if min_ttl is None else min(min_ttl, life / 2)
    return token.expires_at - wanted


def is_fresh(token: AccessToken, now: datetime, min_ttl: timedelta | None) -> bool:
    """Whether the token can be handed out without a thought of renewing it."""
    return now < token.due_at and is_usable(token, now) and satisfies(token, now, min_ttl)


def next_retry(failures: int, policy: Policy, jitter: float, retry_after: timedelta | None = None) -> timedelta:
    """How long to leave the provider alone after the *failures*-th failure in a row (1 = the first).

    Doubles from `backoff_initial` to `backoff_max`, shortened by up to a quarter so that replicas and grants spread
    out; a `Retry-After` of the provider is honoured when it asks for more.
    """
    doubled = policy.backoff_initial * (1 << min(max(failures, 1) - 1, 20))
    own = min(doubled, policy.backoff_max) * (1 - jitter / 4)
    return max(own, retry_after or timedelta(0))


def next_forced_interval(grant: Grant, now: datetime, policy: Policy) -> timedelta:
    """How long after a forced renewal the next one may come: doubling, and back to the start after a quiet spell."""
    if grant.forced_until is None or grant.forced_interval is None:
        return policy.forced_interval
    if now >= grant.forced_until + grant.forced_interval:
        return policy.forced_interval
    return min(grant.forced_interval * 2, policy.forced_interval_max)
