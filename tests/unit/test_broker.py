"""Rule 8: a token that works now, or a precise problem; never an expired one, never a silent stall."""

import asyncio
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.errors import (
    BrokerError,
    GrantNotFound,
    InvalidRequest,
    InvalidUpstreamAnswer,
    ReauthorizationRequired,
    RenewalInProgress,
    StoreUnavailable,
    UpstreamUnavailable,
)
from service.core.handout import Source
from service.core.lifetimes import is_usable
from service.core.model import GrantState, Reason
from service.core.policy import Policy
from service.core.redeeming.upstream import NotSent
from tests.support.replicas import ALICE, COMPANYS, THE_COMPANY, VERSATURE, House, Replica
from tests.support.virtual_time import VirtualClock, VirtualLoop

DUE, EXPIRED = 3000, 3600


async def test_a_hit_asks_nobody_and_the_database_confirms_it_every_few_seconds(house: House, replica: Replica) -> None:
    await house.import_(replica)
    sources = []
    for _ in range(12):
        sources.append((await replica.ask()).source)
        await asyncio.sleep(1)
    assert sources == [Source.DATABASE] + [Source.LOCAL] * 11
    assert house.grants.calls["get"] == 1
    assert house.grants.calls["standings"] == 2
    assert house.server.calls == []


async def test_without_a_cache_time_the_database_is_always_asked(house: House) -> None:
    house.policy = Policy(local_cache=timedelta(0))
    replica = house.replica()
    await house.import_(replica)
    for _ in range(5):
        assert (await replica.ask()).source is Source.DATABASE
        await replica.revalidator.tick()


async def test_a_user_who_was_never_connected_is_not_found(house: House, replica: Replica) -> None:
    with pytest.raises(GrantNotFound):
        await replica.ask()
    await house.grants.ensure(ALICE)
    with pytest.raises(GrantNotFound):
        await replica.ask()
    with pytest.raises(GrantNotFound):
        await replica.reject("x")
    assert house.server.calls == []


async def test_the_company_needs_no_connecting(house: House, replica: Replica) -> None:
    first = await replica.ask(THE_COMPANY, COMPANYS)
    assert first.source is Source.URI_MISS
    assert (await replica.ask(THE_COMPANY, COMPANYS)).source is Source.LOCAL
    await asyncio.sleep(DUE)
    assert (await replica.ask(THE_COMPANY, COMPANYS)).source is Source.STALE
    call = house.server.calls[0]
    assert (call.kind, call.client_id, call.client_secret) == (
        "client_credentials",
        COMPANYS.client_id,
        "secret of company",
    )


async def test_renewal_begins_when_due_and_not_before(house: House, replica: Replica) -> None:
    await house.import_(replica)
    await asyncio.sleep(2879.9)
    assert (await replica.ask()).token.generation == 1
    await asyncio.sleep(0.1)
    handout = await replica.ask()
    assert (handout.token.generation, handout.source) == (2, Source.STALE)


async def test_whoever_meets_a_slow_renewal_gets_the_old_token_after_two_seconds(
    house: House, replica: Replica
) -> None:
    await house.import_(replica)
    await asyncio.sleep(DUE)
    house.server.fall_silent()
    began = house.clock.monotonic()
    handouts = await asyncio.gather(*(replica.ask() for _ in range(5)), house.replica().ask())
    assert house.clock.monotonic() - began == 2
    assert {(handout.token.generation, handout.source) for handout in handouts} == {(1, Source.RENEWAL_FAILING)}


async def test_a_flight_keeps_even_fresh_entries_from_being_served_behind_its_back(
    house: House, replica: Replica
) -> None:
    """A provider may end the old token at refresh: who comes during a renewal waits for the new one."""
    await house.import_(replica)
    old = (await replica.ask()).token
    silence = house.server.fall_silent()
    renewing = asyncio.create_task(replica.reject(old.value))
    await silence.arrived.wait()
    others = [asyncio.create_task(one.ask()) for one in (replica, house.replica())]
    await asyncio.sleep(1)
    silence.release()
    assert {(await other).token.value for other in others} == {(await renewing).token.value}


async def test_a_flight_counts_from_before_its_claim(house: House, replica: Replica) -> None:
    await house.import_(replica)
    old = (await replica.ask()).token
    house.grants.held["claim"] = asyncio.Event()
    renewing = asyncio.create_task(replica.reject(old.value))
    await asyncio.sleep(1)
    asking = asyncio.create_task(replica.ask())
    await asyncio.sleep(0.5)
    house.grants.held["claim"].set()
    assert (await asking).token == (await renewing).token


async def test_without_a_valid_token_a_caller_waits_as_long_as_it_may_and_is_told(
    house: House, replica: Replica
) -> None:
    await house.import_(replica)
    await asyncio.sleep(EXPIRED)
    house.server.fall_silent()
    began = house.clock.monotonic()
    with pytest.raises(RenewalInProgress) as caught:
        await replica.ask()
    assert house.clock.monotonic() - began == 15
    assert caught.value.retry_after is not None


async def test_a_token_that_ends_while_its_holder_waits_is_not_handed_out(house: House, replica: Replica) -> None:
    await house.import_(replica)
    await asyncio.sleep(3594)
    house.server.fall_silent()
    began = house.clock.monotonic()
    with pytest.raises(RenewalInProgress):
        await replica.ask()
    assert house.clock.monotonic() - began == 15


async def test_whose_token_ends_while_waiting_gets_the_new_one_like_those_who_had_none(
    house: House, replica: Replica
) -> None:
    await house.import_(replica)
    await asyncio.sleep(3594)
    silence = house.server.fall_silent()
    asyncio.get_running_loop().call_later(8, silence.release)
    handout = await replica.ask()
    assert (handout.token.generation, handout.source) == (2, Source.STALE)


async def test_the_old_token_is_served_while_valid_whatever_min_ttl_when_renewal_fails(
    house: House, replica: Replica
) -> None:
    await house.import_(replica)
    house.server.always(NotSent("x"))
    await asyncio.sleep(3590)
    handout = await replica.ask(min_ttl=timedelta(minutes=10))
    assert (handout.token.generation, handout.source) == (1, Source.RENEWAL_FAILING)
    await asyncio.sleep(4.999)
    await replica.ask()
    await asyncio.sleep(0.001)
    with pytest.raises(UpstreamUnavailable):
        await replica.ask()


async def test_min_ttl_renews_what_would_not_last(house: House, replica: Replica) -> None:
    await house.import_(replica)
    await asyncio.sleep(2000)
    assert (await replica.ask(min_ttl=timedelta(seconds=1600))).token.generation == 1
    assert (await replica.ask(min_ttl=timedelta(seconds=1601))).token.generation == 2


async def test_a_dead_grants_token_is_served_to_its_end_and_not_longer(house: House, replica: Replica) -> None:
    house.server.end(await house.import_(replica))
    await asyncio.sleep(DUE)
    for _ in range(3):
        assert (await replica.ask()).source is Source.RENEWAL_FAILING
    assert (await house.row()).state is GrantState.REAUTHORIZATION_REQUIRED
    await asyncio.sleep(595)
    with pytest.raises(ReauthorizationRequired):
        await replica.ask()
    assert house.server.count("refresh") == 1


async def test_an_answer_that_comes_after_its_own_token_has_ended_is_the_providers_fault(
    house: House, replica: Replica
) -> None:
    await house.import_(replica)
    await asyncio.sleep(EXPIRED)
    house.server.life = timedelta(seconds=5)
    silence = house.server.fall_silent()
    asyncio.get_running_loop().call_later(6, silence.release)
    with pytest.raises(InvalidUpstreamAnswer):
        await replica.ask()


async def test_while_the_database_is_away_known_tokens_are_served_until_they_end(
    house: House, replica: Replica
) -> None:
    await house.import_(replica)
    await replica.ask()
    house.grants.away = True
    await asyncio.sleep(3594)
    assert (await replica.ask()).source is Source.LOCAL
    await asyncio.sleep(1)
    with pytest.raises(StoreUnavailable):
        await replica.ask()
    with pytest.raises(StoreUnavailable):
        await house.replica().ask()


async def test_a_token_renewed_elsewhere_is_found_within_the_cache_time(house: House, replica: Replica) -> None:
    await house.import_(replica)
    await replica.ask()
    newer = await house.replica().reject((await replica.ask()).token.value)
    await asyncio.sleep(5)
    assert (await replica.ask()).token == newer.token


async def test_a_token_known_to_be_superseded_never_returns_when_the_database_goes_away(
    house: House, replica: Replica
) -> None:
    await house.import_(replica)
    await replica.ask()
    await house.replica().broker.revoke(VERSATURE, ALICE)
    await asyncio.sleep(5)
    with pytest.raises(ReauthorizationRequired):
        await replica.ask()
    house.grants.away = True
    with pytest.raises(StoreUnavailable):
        await replica.ask()


@given(st.lists(st.floats(min_value=0, max_value=1800) | st.sampled_from(["fault", "well", "away", "back", "slow"])))
def test_whatever_happens_no_token_is_handed_out_in_the_last_of_its_life(story: list[float | str]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(live_through(story))


async def live_through(story: list[float | str]) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    house = House(VirtualClock(loop))
    replica = house.replica()
    await house.import_(replica)
    for step in story:
        match step:
            case "fault":
                house.server.always(NotSent("x"))
            case "well":
                house.server.always(None)
                house.server.speak()
            case "slow":
                house.server.fall_silent()
            case "away" | "back":
                house.grants.away = step == "away"
            case float():
                await asyncio.sleep(step)
        try:
            handout = await replica.ask()
        except BrokerError:
            continue
        assert is_usable(handout.token, house.clock.now())


async def test_an_import_is_served_at_once_and_says_whether_it_created_the_grant(
    house: House, replica: Replica
) -> None:
    async def import_(refresh_token: str, access_token: str | None = None) -> tuple[int, bool]:
        grant, created = await replica.broker.import_(
            VERSATURE, ALICE, refresh_token=refresh_token, access_token=access_token, expires_in=None, scope=None
        )
        return grant.generation, created

    assert await import_("r-1", "a-1") == (1, True)
    assert (await replica.ask()).token.value == "a-1"
    assert await import_("r-2", "a-2") == (2, False)
    assert (await replica.ask()).token.value == "a-2"


async def test_an_import_without_an_access_token_is_renewed_when_asked_for(house: House, replica: Replica) -> None:
    await replica.broker.import_(
        VERSATURE, ALICE, refresh_token=house.server.log_in(), access_token=None, expires_in=None, scope=None
    )
    handout = await replica.ask()
    assert (handout.token.generation, handout.source) == (2, Source.URI_MISS)


async def test_a_repeated_import_restores_nothing_spent(house: House, replica: Replica) -> None:
    first = await house.import_(replica)
    await asyncio.sleep(EXPIRED)
    await replica.ask()
    before = await house.row()
    _, created = await replica.broker.import_(
        VERSATURE, ALICE, refresh_token=first, access_token="old", expires_in=None, scope=None
    )
    assert not created
    assert await house.row() == before
    assert (await replica.ask()).token.value != "old"


async def test_the_company_has_nothing_to_import(house: House, replica: Replica) -> None:
    with pytest.raises(InvalidRequest):
        await replica.broker.import_(
            COMPANYS, THE_COMPANY, refresh_token="r", access_token=None, expires_in=None, scope=None
        )


async def test_a_revived_grant_is_tried_again(house: House, replica: Replica) -> None:
    refresh_token = await house.import_(replica)
    house.server.end(refresh_token)
    await asyncio.sleep(EXPIRED)
    with pytest.raises(ReauthorizationRequired):
        await replica.ask()
    assert replica.broker.standing(await house.row()) == (GrantState.REAUTHORIZATION_REQUIRED, Reason.REVOKED)
    await house.grants.revive(ALICE)
    with pytest.raises(ReauthorizationRequired):
        await replica.ask()
    assert house.server.count("refresh") == 2
