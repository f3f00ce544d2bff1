"""The arithmetic of lives."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core import lifetimes
from service.core.model import AccessToken
from service.core.policy import Policy
from tests.support.memory_stores import blank_grant
from tests.support.replicas import ALICE

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
POLICY = Policy()
lives = st.timedeltas(min_value=timedelta(milliseconds=1), max_value=lifetimes.LONGEST_LIFE)
ages = st.floats(min_value=0, max_value=1.5)
jitters = st.floats(min_value=0, max_value=1, exclude_max=True)


def token_of(life: timedelta, jitter: float = 0.0) -> AccessToken:
    return AccessToken("a", None, NOON, NOON + life, lifetimes.due_at(NOON, life, jitter), 1)


@given(lives, jitters)
def test_renewal_falls_due_between_seven_and_eight_tenths_of_the_life(life: timedelta, jitter: float) -> None:
    due = token_of(life, jitter).due_at
    assert NOON + life * 0.7 <= due <= NOON + life * 0.8


@given(lives)
def test_the_last_tenth_of_a_life_and_at_most_five_seconds_are_never_handed_out(life: timedelta) -> None:
    token = token_of(life)
    margin = token.expires_at - lifetimes.usable_until(token)
    assert margin == min(timedelta(seconds=5), life / 10)
    assert not lifetimes.is_usable(token, token.expires_at - margin)
    assert lifetimes.is_usable(token, token.expires_at - margin - timedelta(microseconds=1))


@given(lives, jitters, ages, st.none() | st.timedeltas(min_value=timedelta(0)))
def test_whatever_is_fresh_is_usable_not_due_and_satisfies(
    life: timedelta, jitter: float, age: float, min_ttl: timedelta | None
) -> None:
    token, now = token_of(life, jitter), NOON + life * age
    if lifetimes.is_fresh(token, now, min_ttl):
        assert now < token.due_at
        assert lifetimes.is_usable(token, now)
        assert lifetimes.satisfies(token, now, min_ttl)
        assert now < token.expires_at


@pytest.mark.parametrize(
    ("life", "min_ttl", "least"),
    [
        (3600, None, 60),
        (100, None, 10),
        (3600, 0, 0),
        (3600, 900, 900),
        (3600, 1801, 1800),
        (3600, 10**9, 1800),
    ],
)
def test_a_caller_gets_the_rest_of_life_it_asks_for_up_to_a_half(life: int, min_ttl: int | None, least: int) -> None:
    token = token_of(timedelta(seconds=life))
    wanted = None if min_ttl is None else timedelta(seconds=min_ttl)
    edge = token.expires_at - timedelta(seconds=least)
    assert lifetimes.satisfies(token, edge, wanted)
    assert not lifetimes.satisfies(token, edge + timedelta(microseconds=1), wanted)


@given(lives, st.timedeltas(min_value=timedelta(0)), jitters)
def test_no_min_ttl_can_demand_a_renewal_of_a_new_token(life: timedelta, min_ttl: timedelta, jitter: float) -> None:
    assert lifetimes.is_fresh(token_of(life, jitter), NOON, min_ttl)


@given(st.none() | st.timedeltas(min_value=timedelta(microseconds=1)))
def test_no_life_is_too_long_to_count_with(expires_in: timedelta | None) -> None:
    life = lifetimes.bounded_life(expires_in, timedelta(minutes=5))
    assert token_of(life).expires_at > NOON
    assert life == (timedelta(minutes=5) if expires_in is None else min(expires_in, timedelta(days=3650)))


def test_pauses_double_from_the_first_to_the_longest() -> None:
    pauses = [lifetimes.next_retry(failures, POLICY, 0.0).total_seconds() for failures in range(1, 12)]
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


@given(st.integers(min_value=0, max_value=10**9), jitters)
def test_jitter_shortens_a_pause_by_up_to_a_quarter(failures: int, jitter: float) -> None:
    whole = lifetimes.next_retry(failures, POLICY, 0.0)
    assert whole * 0.75 <= lifetimes.next_retry(failures, POLICY, jitter) <= whole


@pytest.mark.parametrize(("asked", "kept"), [(0.5, 1), (120, 120), (3600, 3600)])
def test_retry_after_is_honoured_where_it_asks_for_more(asked: float, kept: float) -> None:
    pause = lifetimes.next_retry(1, POLICY, 0.0, timedelta(seconds=asked))
    assert pause == timedelta(seconds=kept)


def test_forced_renewals_keep_a_doubling_distance_until_a_quiet_spell() -> None:
    grant, now, found = blank_grant(ALICE), NOON, []
    for _ in range(9):
        interval = lifetimes.next_forced_interval(grant, now, POLICY)
        found.append(interval.total_seconds())
        grant = replace(grant, forced_until=now + interval, forced_interval=interval)
        now += interval
    assert found == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]
    quiet = now + timedelta(hours=1)
    assert lifetimes.next_forced_interval(grant, quiet - timedelta(microseconds=1), POLICY) == timedelta(hours=1)
    assert lifetimes.next_forced_interval(grant, quiet, POLICY) == timedelta(seconds=30)


def test_jitter_spreads_renewals_over_a_tenth_of_the_life_and_pauses_over_a_quarter() -> None:
    life, pause = timedelta(hours=1), POLICY.backoff_initial
    assert [token_of(life, jitter).due_at - NOON for jitter in (0.0, 0.5, 1.0)] == [life * 0.8, life * 0.75, life * 0.7]
    assert [lifetimes.next_retry(1, POLICY, jitter) for jitter in (0.0, 1.0)] == [pause, pause * 0.75]
