"""A troubled application is left alone."""

from dataclasses import replace
from datetime import timedelta

import pytest

from service.core.breaker import Breaker
from service.core.errors import ClientRejected, UpstreamUnavailable
from service.core.model import GrantType
from service.core.policy import Policy
from tests.support.clock import FakeClock
from tests.support.replicas import VERSATURE

USERS, COMPANY = GrantType.AUTHORIZATION_CODE, GrantType.CLIENT_CREDENTIALS
REFUSED = ClientRejected("The provider says invalid_client.")


class Bench:
    """A breaker, its clock, and what it says of the users' circuit."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.breaker = Breaker(self.clock, Policy())

    def trip(self, retry_after: float | None = None) -> float:
        asked = None if retry_after is None else timedelta(seconds=retry_after)
        return self.breaker.trip(VERSATURE, USERS, REFUSED, asked).total_seconds()

    def passes(self) -> bool:
        try:
            self.breaker.pass_or_raise(VERSATURE, USERS)
        except ClientRejected:
            return False
        return True


def test_while_a_circuit_is_open_everybody_gets_the_error_that_opened_it_and_an_honest_time() -> None:
    bench = Bench()
    assert bench.passes()
    assert bench.trip(retry_after=60) == 60
    bench.clock.advance(20)
    with pytest.raises(ClientRejected) as caught:
        bench.breaker.pass_or_raise(VERSATURE, USERS)
    assert caught.value.detail == REFUSED.detail
    assert caught.value.retry_after == timedelta(seconds=40)


def test_one_probe_passes_when_the_time_is_over_and_its_success_closes_the_circuit() -> None:
    bench = Bench()
    bench.clock.advance(bench.trip())
    assert [bench.passes() for _ in range(5)] == [True, False, False, False, False]
    bench.breaker.close(VERSATURE, USERS)
    assert [bench.passes() for _ in range(5)] == [True] * 5


def test_asking_whether_a_circuit_is_open_is_no_probe() -> None:
    bench = Bench()
    pause = bench.trip()
    with pytest.raises(ClientRejected):
        bench.breaker.raise_if_open(VERSATURE, USERS)
    bench.clock.advance(pause)
    for _ in range(5):
        bench.breaker.raise_if_open(VERSATURE, USERS)
    assert [bench.passes() for _ in range(2)] == [True, False]
    with pytest.raises(ClientRejected):
        bench.breaker.raise_if_open(VERSATURE, USERS)


def test_a_probe_that_fails_doubles_the_pause() -> None:
    bench, pauses = Bench(), []
    for _ in range(11):
        pauses.append(bench.trip())
        bench.clock.advance(pauses[-1])
        assert bench.passes()
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_a_probe_that_never_comes_back_is_followed_by_another() -> None:
    bench = Bench()
    bench.clock.advance(bench.trip())
    assert bench.passes()
    bench.clock.advance(9.999)
    assert not bench.passes()
    bench.clock.advance(0.001)
    assert bench.passes()
    assert not bench.passes()


def test_failures_on_their_way_when_the_circuit_opened_count_as_one() -> None:
    bench = Bench()
    bench.trip()
    bench.clock.advance(0.25)
    assert [bench.trip() for _ in range(50)] == [0.75] * 50
    bench.clock.advance(0.75)
    assert bench.passes()
    assert bench.trip() == 2


def test_retry_after_is_honoured_up_to_an_hour() -> None:
    assert Bench().trip(retry_after=120) == 120
    assert Bench().trip(retry_after=86400) == 3600


def test_changed_settings_close_the_circuit_and_start_counting_anew() -> None:
    bench = Bench()
    bench.trip(retry_after=600)
    mended = replace(VERSATURE, sealed_secret=b"another")
    bench.breaker.pass_or_raise(mended, USERS)
    assert bench.breaker.trip(mended, USERS, REFUSED, None) == timedelta(seconds=1)


def test_each_application_and_grant_type_has_its_own_circuit() -> None:
    bench = Bench()
    bench.trip()
    bench.breaker.pass_or_raise(VERSATURE, COMPANY)
    bench.breaker.pass_or_raise(replace(VERSATURE, name="other"), USERS)
    bench.breaker.close(VERSATURE, COMPANY)
    assert not bench.passes()


def test_the_latest_error_is_the_one_that_is_told() -> None:
    bench = Bench()
    bench.clock.advance(bench.trip())
    assert bench.passes()
    bench.breaker.trip(VERSATURE, USERS, UpstreamUnavailable("The provider limits our requests."), None)
    with pytest.raises(UpstreamUnavailable):
        bench.breaker.pass_or_raise(VERSATURE, USERS)
