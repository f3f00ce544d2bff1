"""Rule 6: a provider that has gone wrong kills two grants at most, and only what is refused for good is dead."""

import asyncio
from datetime import timedelta

import pytest

from service.core.errors import (
    BrokerError,
    InvalidUpstreamAnswer,
    ReauthorizationRequired,
    RenewalInProgress,
    UpstreamUnavailable,
)
from service.core.model import GrantId, GrantState, GrantType, Reason
from service.core.records import AuthorizationRequest
from service.core.redeeming.upstream import Ambiguous, InvalidGrant, RefusedWithoutCode
from tests.support.replicas import COMPANYS, HOUR, REDIRECT_URI, THE_COMPANY, VERSATURE, House, Replica

NO = InvalidGrant("The provider says invalid_grant.")
USERS = GrantType.AUTHORIZATION_CODE


def users(*numbers: int) -> list[GrantId]:
    return [GrantId("versature", f"user-{number}") for number in numbers]


async def expire(house: House, replica: Replica, count: int) -> list[GrantId]:
    grants = users(*range(count))
    for grant in grants:
        await house.import_(replica, grant)
    await asyncio.sleep(3600)
    return grants


async def failure_of(replica: Replica, grant: GrantId) -> BrokerError:
    with pytest.raises(BrokerError) as caught:
        await replica.ask(grant, COMPANYS if grant.is_company else VERSATURE)
    return caught.value


async def dead(house: House, grants: list[GrantId]) -> list[GrantId]:
    return [grant for grant in grants if (await house.row(grant)).state is not GrantState.CONNECTED]


async def test_the_first_two_refusals_in_a_row_are_written_and_from_the_third_none(
    house: House, replica: Replica
) -> None:
    grants = await expire(house, replica, 6)
    house.server.always(NO)
    for grant in grants[:2]:
        assert isinstance(await failure_of(replica, grant), ReauthorizationRequired)
    third = await failure_of(replica, grants[2])
    assert isinstance(third, UpstreamUnavailable)
    assert third.retry_after is not None
    assert timedelta(seconds=1) <= third.retry_after <= timedelta(seconds=2)
    for grant in grants[3:]:
        await asyncio.sleep(300)
        assert isinstance(await failure_of(replica, grant), UpstreamUnavailable)
    assert await dead(house, grants) == grants[:2]
    row = await house.row(grants[2])
    assert row.last_error is not None
    assert (row.claim, row.failures, row.unfinished_generation) == (None, 1, None)
    assert (row.last_error.code, row.refusals, row.state) == ("upstream_unavailable", 0, GrantState.CONNECTED)
    house.server.forget_script()
    await asyncio.sleep(300)
    for grant in grants[2:]:
        assert (await replica.ask(grant)).token.generation == 2


async def test_refusals_that_are_not_believed_open_the_breaker_ever_longer(house: House, replica: Replica) -> None:
    grants = await expire(house, replica, 4)
    house.server.always(NO)
    for grant in grants[:2]:
        await failure_of(replica, grant)
    calls = house.server.count("refresh")
    began = house.clock.monotonic()
    while house.clock.monotonic() - began < 63.5:
        await failure_of(replica, grants[2])
        await failure_of(replica, grants[3])
        await asyncio.sleep(0.5)
    assert 6 <= house.server.count("refresh") - calls <= 7  # at the earliest at 0, 1, 3, 7, 15, 31 and 63 seconds


async def test_refusals_at_the_same_time_count_as_refusals_in_a_row(house: House, replica: Replica) -> None:
    grants = await expire(house, replica, 30)
    house.server.always(NO)
    await asyncio.gather(*(failure_of(replica, grant) for grant in grants))
    assert len(await dead(house, grants)) == 2


async def test_one_who_was_refused_before_may_be_refused_again(house: House, replica: Replica) -> None:
    """The guard counts grants, not refusals: the second time it is the very same token that is refused."""
    grants = await expire(house, replica, 3)
    house.server.always(NO)
    for grant in grants[:2]:
        await failure_of(replica, grant)
    await house.grants.revive(grants[0])
    assert isinstance(await failure_of(replica, grants[0]), ReauthorizationRequired)
    assert isinstance(await failure_of(replica, grants[2]), UpstreamUnavailable)


async def test_one_who_is_refused_twice_takes_nobody_elses_place(house: House, replica: Replica) -> None:
    grants = await expire(house, replica, 2)
    house.server.always(NO)
    await failure_of(replica, grants[0])
    await house.grants.revive(grants[0])
    for grant in grants:
        assert isinstance(await failure_of(replica, grant), ReauthorizationRequired)


@pytest.mark.parametrize("success", ["refresh", "code exchange"])
async def test_a_success_between_makes_the_next_two_believed_again(
    house: House, replica: Replica, success: str
) -> None:
    grants = await expire(house, replica, 6)
    house.server.script(NO, NO)
    for grant in grants[:2]:
        await failure_of(replica, grant)
    if success == "refresh":
        await replica.ask(grants[5])
    else:
        request = AuthorizationRequest(b"ticket", users(99)[0], "crm", None, house.clock.now() + HOUR)
        await replica.exchange.redeem(VERSATURE, request, house.server.code(), REDIRECT_URI)
    house.server.always(NO)
    for grant in grants[2:5]:
        await failure_of(replica, grant)
    assert await dead(house, grants) == grants[:4]


async def test_the_companys_success_makes_nobody_believed_again(house: House, replica: Replica) -> None:
    grants = await expire(house, replica, 3)
    house.server.script(NO, NO, None, NO)
    for grant in grants[:2]:
        await failure_of(replica, grant)
    both = GrantId("versature", THE_COMPANY.user)
    await replica.ask(both, VERSATURE)
    assert isinstance(await failure_of(replica, grants[2]), UpstreamUnavailable)
    assert await dead(house, grants) == grants[:2]


async def test_refusals_of_one_application_say_nothing_about_another(house: House, replica: Replica) -> None:
    grants = await expire(house, replica, 2)
    house.server.always(NO)
    for grant in grants:
        await failure_of(replica, grant)
    assert isinstance(await failure_of(replica, THE_COMPANY), InvalidUpstreamAnswer)
    assert (await house.row(THE_COMPANY)).state is GrantState.CONNECTED


async def test_refusals_after_a_lost_answer_are_always_written_and_do_not_count(house: House, replica: Replica) -> None:
    grants = await expire(house, replica, 7)
    house.server.script(*[Ambiguous("x")] * 4)
    for grant in grants[:4]:
        await failure_of(replica, grant)
    await asyncio.sleep(61)
    house.server.always(NO)
    for grant in grants[:4]:
        assert (await failure_of(replica, grant)).detail == Reason.LOST_IN_TRANSIT.explanation
    for grant in grants[4:]:
        await failure_of(replica, grant)
    assert await dead(house, grants) == grants[:6]
    assert house.lost == {"versature": 4}


async def test_refusals_at_the_end_of_a_refresh_tokens_life_are_always_written_and_do_not_count(
    house: House, replica: Replica
) -> None:
    old = await expire(house, replica, 4)
    await asyncio.sleep(timedelta(days=90).total_seconds())
    young = users(10, 11, 12)
    for grant in young:
        await house.import_(replica, grant)
    await asyncio.sleep(3600)
    house.server.always(NO)
    for grant in old:
        assert (await failure_of(replica, grant)).detail == Reason.REFRESH_TOKEN_EXPIRED.explanation
    for grant in young:
        await failure_of(replica, grant)
    assert await dead(house, young) == young[:2]


async def test_three_who_really_withdrew_keep_nobody_from_being_renewed_in_the_background(house: House) -> None:
    """A probe that always falls on the same dead grant would keep the circuit open for all the others."""
    replica = house.replica(settings=VERSATURE)
    await replica.directory.check()
    grants = await expire(house, replica, 8)
    for grant in grants[:3]:
        house.server.end((await house.stored(grant))[1] or "")
    await house.queue.note_asked(grants[:3], at=house.clock.now())
    for _ in range(10):
        await replica.background.tick()
        await asyncio.sleep(1)
    await house.queue.note_asked(grants[3:], at=house.clock.now())
    for _ in range(3600):
        await replica.background.tick()
        await asyncio.sleep(1)
    assert all([(await house.row(grant)).generation >= 2 for grant in grants[3:]])


async def refuse(house: House, replica: Replica, grant: GrantId, times: int, over: timedelta) -> BrokerError | None:
    """The last of as many refusals without a code, spread evenly."""
    failure = None
    for number in range(times):
        if number:
            await asyncio.sleep(over.total_seconds() / (times - 1))
        house.server.script(RefusedWithoutCode("x"))
        failure = await failure_of(replica, grant)
        house.server.forget_script()
    return failure


@pytest.mark.parametrize(
    ("times", "over", "another", "refused"),
    [
        (5, timedelta(minutes=60), True, True),
        (5, timedelta(minutes=59), True, False),
        (4, timedelta(minutes=90), True, False),
        (5, timedelta(minutes=90), False, False),
        (9, timedelta(minutes=90), False, False),
    ],
    ids=["five over an hour", "too soon", "too few", "nobody else", "still nobody else"],
)
async def test_refused_for_good_is_who_is_refused_for_an_hour_while_another_succeeds(
    house: House, replica: Replica, times: int, over: timedelta, another: bool, refused: bool
) -> None:
    one, other = await expire(house, replica, 2)
    await refuse(house, replica, one, 1, timedelta(0))
    await asyncio.sleep(over.total_seconds() / (times - 1))
    if another:
        await replica.ask(other)
    failure = await refuse(house, replica, one, times - 1, over * (times - 2) / (times - 1))
    row = await house.row(one)
    if refused:
        assert isinstance(failure, ReauthorizationRequired)
        assert (row.state, row.reason) == (GrantState.REAUTHORIZATION_REQUIRED, Reason.REFUSED)
    else:
        assert isinstance(failure, InvalidUpstreamAnswer)
        assert (row.state, row.refusals) == (GrantState.CONNECTED, times)


async def test_who_succeeded_before_the_first_refusal_does_not_count_as_another(house: House, replica: Replica) -> None:
    one, other = await expire(house, replica, 2)
    await replica.ask(other)
    await asyncio.sleep(1)
    assert isinstance(await refuse(house, replica, one, 6, timedelta(hours=2)), InvalidUpstreamAnswer)


async def test_a_success_forgets_the_refusals_before_it(house: House, replica: Replica) -> None:
    one, other = await expire(house, replica, 2)
    await refuse(house, replica, one, 4, timedelta(hours=1))
    await asyncio.sleep(600)
    await replica.ask(other)
    await replica.ask(one)
    row = await house.row(one)
    assert (row.refusals, row.refused_since) == (0, None)
    await asyncio.sleep(3600)
    assert isinstance(await refuse(house, replica, one, 1, timedelta(0)), InvalidUpstreamAnswer)


async def test_while_nobody_can_say_whether_others_succeeded_nobody_is_refused_for_good(
    house: House, replica: Replica
) -> None:
    one, other = await expire(house, replica, 2)
    await refuse(house, replica, one, 1, timedelta(0))
    await asyncio.sleep(600)
    await replica.ask(other)
    house.queue.away_for = {"others_succeeded"}
    assert isinstance(await refuse(house, replica, one, 5, timedelta(hours=2)), InvalidUpstreamAnswer)
    house.queue.away_for = set()
    await asyncio.sleep(300)
    assert isinstance(await refuse(house, replica, one, 1, timedelta(0)), ReauthorizationRequired)


async def test_a_refusal_over_a_grant_that_moved_on_kills_nobody(house: House, replica: Replica) -> None:
    """An import came while the provider was refusing what stood before it."""
    [grant] = await expire(house, replica, 1)
    silence = house.server.fall_silent()
    house.server.script(NO)
    asking = asyncio.create_task(replica.ask(grant))
    await silence.arrived.wait()
    await house.import_(house.replica(), grant)
    silence.release()
    with pytest.raises(RenewalInProgress):
        await asking
    assert (await house.row(grant)).state is GrantState.CONNECTED


async def test_the_company_is_refused_as_often_as_it_may_be_and_never_dies(house: House, replica: Replica) -> None:
    house.server.always(NO)
    for _ in range(10):
        assert isinstance(await failure_of(replica, THE_COMPANY), InvalidUpstreamAnswer)
        await asyncio.sleep(300)
    assert (await house.row(THE_COMPANY)).state is GrantState.CONNECTED
    house.server.always(RefusedWithoutCode("x"))
    for _ in range(10):
        assert isinstance(await failure_of(replica, THE_COMPANY), InvalidUpstreamAnswer)
        await asyncio.sleep(900)
    row = await house.row(THE_COMPANY)
    assert (row.state, row.refusals) == (GrantState.CONNECTED, 0)
    house.server.forget_script()
    assert (await replica.ask(THE_COMPANY, COMPANYS)).token.generation == 1


@pytest.mark.parametrize("with_background", [False, True], ids=["callers alone", "beside the background"])
@pytest.mark.parametrize(
    ("pollers", "jitter"), [(1, 0.0), (1, 0.37), (1, 1.0), pytest.param(3, 0.37, marks=pytest.mark.crash)]
)
async def test_a_busy_poller_of_a_doubted_grant_does_not_keep_the_circuit_from_a_healthy_one(
    house: House, pollers: int, jitter: float, with_background: bool
) -> None:
    house.jitter = jitter
    replica = house.replica(settings=VERSATURE)
    await replica.directory.check()
    doomed, healthy = users(*range(2 + pollers)), GrantId("versature", "healthy")
    for grant in doomed:
        house.server.end(await house.import_(replica, grant))
    await house.import_(replica, healthy)
    await house.queue.note_asked([*doomed, healthy], at=house.clock.now())
    await asyncio.sleep(3600)
    for grant in doomed:
        await failure_of(replica, grant)
    began = house.clock.monotonic()
    busy = [asyncio.create_task(poll(replica, grant, 0.05)) for grant in doomed[2:]]
    if with_background:
        busy.append(asyncio.create_task(tick(replica)))
    try:
        async with asyncio.timeout(900):
            await poll(replica, healthy, 1.03, until_served=True)
    finally:
        for task in busy:
            task.cancel()
    assert house.clock.monotonic() - began <= (60 if pollers == 1 else 600)


async def poll(replica: Replica, grant: GrantId, pause: float, *, until_served: bool = False) -> None:
    while True:
        try:
            await replica.ask(grant)
        except BrokerError:
            await asyncio.sleep(pause)
            continue
        if until_served:
            return
        await asyncio.sleep(pause)


async def tick(replica: Replica) -> None:
    while True:
        await asyncio.sleep(0.07)
        await replica.background.tick()
        await asyncio.sleep(0.18)


async def test_a_grant_that_was_doubted_for_nothing_is_served_again_within_minutes(
    house: House, replica: Replica
) -> None:
    grants = await expire(house, replica, 3)
    house.server.always(NO)
    began = house.clock.monotonic()
    while house.clock.monotonic() - began < 3600:
        for grant in grants:
            await failure_of(replica, grant)
        await asyncio.sleep(1)
    house.server.forget_script()
    back_at = house.clock.monotonic()
    await poll(replica, grants[2], 1, until_served=True)
    assert house.clock.monotonic() - back_at <= 3600
