"""A troubled application is left alone."""

from dataclasses import replace
from datetime import timedelta

import pytest

from service.core.errors import ClientRejected, UpstreamError, UpstreamUnavailable
from service.core.model import GrantId, GrantType
from service.core.policy import Policy
from service.core.redeeming.breaker import Breaker
from tests.support.clock import FakeClock
from tests.support.replicas import VERSATURE

USERS, COMPANY = GrantType.AUTHORIZATION_CODE, GrantType.CLIENT_CREDENTIALS
REFUSED = ClientRejected("The provider says invalid_client.")
TROUBLE = UpstreamUnavailable("The provider cannot be reached.")


class Bench:
    """A breaker, its clock, and what it says of the users' circuit."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.breaker = Breaker(self.clock, Policy())

    def trip(self, retry_after: float | None = None) -> float:
        asked = None if retry_after is None else timedelta(seconds=retry_after)
        return self.breaker.trip(VERSATURE, USERS, REFUSED, asked).total_seconds()

    def fail(self, *users: int) -> None:
        for user in users:
            self.breaker.failed(VERSATURE, GrantId("versature", f"user-{user}"), TROUBLE)

    def passes(self) -> bool:
        try:
            self.breaker.pass_or_raise(VERSATURE, USERS)
        except UpstreamError:
            return False
        return True

    def room(self) -> int | None:
        return self.breaker.room(VERSATURE, USERS)


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


def test_retry_after_is_honoured() -> None:
    assert Bench().trip(retry_after=120) == 120


def test_changed_settings_close_the_circuit_and_start_counting_anew() -> None:
    bench = Bench()
    bench.trip(retry_after=600)
    mended = replace(VERSATURE, sealed_secret=b"another")
    bench.breaker.pass_or_raise(mended, USERS)
    assert bench.breaker.trip(mended, USERS, REFUSED, None) == timedelta(seconds=1)


def test_grants_that_failed_under_other_settings_no_longer_count() -> None:
    bench = Bench()
    bench.fail(1, 2, 3, 4)
    mended = replace(VERSATURE, sealed_secret=b"another")
    for user in (5, 6, 7, 8):
        bench.breaker.failed(mended, GrantId("versature", f"user-{user}"), TROUBLE)
        bench.breaker.pass_or_raise(mended, USERS)
    bench.breaker.failed(mended, GrantId("versature", "user-9"), TROUBLE)
    with pytest.raises(UpstreamUnavailable):
        bench.breaker.pass_or_raise(mended, USERS)


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


def test_five_different_grants_that_fail_in_a_row_are_the_applications_trouble() -> None:
    bench = Bench()
    bench.fail(1, 2, 3, 4)
    assert bench.passes()
    bench.fail(5)
    with pytest.raises(UpstreamUnavailable) as caught:
        bench.breaker.pass_or_raise(VERSATURE, USERS)
    assert (caught.value.detail, caught.value.retry_after) == (TROUBLE.detail, timedelta(seconds=1))


def test_one_grant_that_fails_often_is_its_own_trouble() -> None:
    bench = Bench()
    bench.fail(*[1] * 50, 2, 3, 4)
    assert bench.passes()


def test_a_success_between_makes_it_no_row() -> None:
    bench = Bench()
    bench.fail(1, 2, 3, 4)
    bench.breaker.close(VERSATURE, USERS)
    bench.fail(5, 6, 7, 8)
    assert bench.passes()
    bench.fail(1)
    assert not bench.passes()


def test_failures_of_another_application_or_grant_type_do_not_count() -> None:
    bench = Bench()
    bench.fail(1, 2, 3, 4)
    bench.breaker.failed(VERSATURE, GrantId("versature", "@company"), TROUBLE)
    bench.breaker.failed(replace(VERSATURE, name="other"), GrantId("other", "user-5"), TROUBLE)
    bench.breaker.pass_or_raise(VERSATURE, COMPANY)
    bench.breaker.pass_or_raise(replace(VERSATURE, name="other"), USERS)
    assert bench.passes()
    bench.fail(5)
    assert not bench.passes()


def test_one_failing_probe_is_enough_to_keep_the_circuit_open_whichever_grant_it_was() -> None:
    bench = Bench()
    bench.clock.advance(bench.trip())
    assert bench.passes()
    bench.fail(1)
    bench.clock.advance(1.999)
    assert not bench.passes()
    bench.clock.advance(0.001)
    assert bench.passes()


def test_a_probe_that_sent_nothing_leaves_its_place_to_the_next_at_once() -> None:
    bench = Bench()
    bench.clock.advance(bench.trip())
    assert bench.passes()
    assert not bench.passes()
    bench.breaker.not_sent_after_all(VERSATURE, USERS)
    assert [bench.passes() for _ in range(2)] == [True, False]


def test_what_was_not_sent_shortens_no_pause_but_the_probes() -> None:
    bench = Bench()
    bench.trip()
    bench.breaker.not_sent_after_all(VERSATURE, USERS)
    assert not bench.passes()
    bench.breaker.not_sent_after_all(VERSATURE, COMPANY)
    assert not bench.passes()


def test_there_is_room_for_everybody_for_nobody_or_for_one_probe() -> None:
    bench = Bench()
    assert bench.room() is None
    pause = bench.trip()
    assert bench.room() == 0
    bench.clock.advance(pause)
    assert [bench.room() for _ in range(3)] == [1, 1, 1]
    assert bench.passes()
    assert bench.room() == 0
    bench.breaker.not_sent_after_all(VERSATURE, USERS)
    assert bench.room() == 1
    bench.breaker.close(VERSATURE, USERS)
    assert bench.room() is None


def test_a_longer_retry_after_extends_an_open_circuit_and_a_shorter_one_changes_nothing() -> None:
    bench = Bench()
    assert bench.trip() == 1
    assert bench.trip(retry_after=1800) == 1800
    bench.clock.advance(100)
    assert bench.trip(retry_after=60) == 1700
    assert bench.trip() == 1700
    assert bench.trip(retry_after=3600) == 3600
    bench.clock.advance(3599)
    assert not bench.passes()
    bench.clock.advance(1)
    assert bench.passes()
    assert bench.trip() == 2, "the extensions are no failures of their own"
