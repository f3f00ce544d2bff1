"""How often each caller may ask."""

from datetime import timedelta

import pytest

from service.core.access.rate_limit import MOST_BUCKETS, RateLimiter
from service.core.errors import RateLimited
from tests.support.clock import FakeClock


def admitted(limiter: RateLimiter, caller: str, tries: int) -> int:
    """How many of *tries* in one instant get through."""
    count = 0
    for _ in range(tries):
        try:
            limiter.admit(caller)
        except RateLimited:
            continue
        count += 1
    return count


def wait_of(limiter: RateLimiter, caller: str) -> timedelta:
    with pytest.raises(RateLimited) as refused:
        limiter.admit(caller)
    assert refused.value.retry_after is not None
    return refused.value.retry_after


def test_zero_is_no_limit_and_keeps_nothing() -> None:
    limiter = RateLimiter(FakeClock(), 0)
    assert admitted(limiter, "crm", 10_000) == 10_000
    assert not limiter._buckets


@pytest.mark.parametrize(("per_second", "at_once"), [(1, 1), (10, 10), (2.5, 2), (0.1, 1)])
def test_a_second_of_requests_may_come_at_once(per_second: float, at_once: int) -> None:
    assert admitted(RateLimiter(FakeClock(), per_second), "crm", 100) == at_once


def test_each_caller_has_a_bucket_of_its_own() -> None:
    limiter = RateLimiter(FakeClock(), 3)
    assert admitted(limiter, "crm", 9) == 3
    assert admitted(limiter, "erp", 9) == 3


@pytest.mark.parametrize("per_second", [0.1, 0.3, 1, 3, 7, 1000])
def test_who_waits_as_long_as_told_is_admitted_and_not_before(per_second: float) -> None:
    clock = FakeClock()
    limiter = RateLimiter(clock, per_second)
    admitted(limiter, "crm", 2000)
    for _ in range(50):
        wait = wait_of(limiter, "crm")
        clock.advance(wait * 0.9)
        assert wait_of(limiter, "crm") <= wait * 0.11
        clock.advance(wait * 0.1 + timedelta(microseconds=1))
        assert admitted(limiter, "crm", 2) == 1


def test_no_rounding_refuses_who_comes_back_exactly_when_told() -> None:
    for seconds in range(1, 200):
        clock = FakeClock()
        limiter = RateLimiter(clock, 1 / seconds)
        limiter.admit("crm")
        with pytest.raises(RateLimited) as refused:
            limiter.admit("crm")
        assert refused.value.retry_after_seconds == seconds
        clock.advance(seconds)
        limiter.admit("crm")


def test_what_is_refused_costs_nothing() -> None:
    clock = FakeClock()
    limiter = RateLimiter(clock, 1)
    limiter.admit("crm")
    assert {wait_of(limiter, "crm") for _ in range(1000)} == {timedelta(seconds=1)}


def test_a_long_rest_saves_up_no_more_than_a_second() -> None:
    clock = FakeClock()
    limiter = RateLimiter(clock, 5)
    admitted(limiter, "crm", 5)
    clock.advance(timedelta(days=1))
    assert admitted(limiter, "crm", 100) == 5


def test_over_a_minute_the_average_holds_however_impatient_the_caller() -> None:
    clock = FakeClock()
    limiter = RateLimiter(clock, 4)
    count = 0
    for _ in range(6000):
        count += admitted(limiter, "crm", 3)
        clock.advance(0.01)
    assert 240 <= count <= 244


def test_memory_is_bounded_and_the_busy_are_not_forgotten() -> None:
    clock = FakeClock()
    limiter = RateLimiter(clock, 1)
    for number in range(MOST_BUCKETS * 2):
        admitted(limiter, "busy", 1)
        limiter.admit(f"caller-{number}")
    assert len(limiter._buckets) == MOST_BUCKETS
    assert admitted(limiter, "busy", 1) == 0
