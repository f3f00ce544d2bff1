import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta

import pytest

from service.core.errors import StoreUnavailable
from service.core.handout import Source
from service.core.local_cache import STAYS_IN_USE
from service.core.model import GrantId
from service.core.records import Standing
from service.core.upkeep.revalidation import Confirmer, Revalidator
from tests.support.memory_stores import MemoryGrantStore
from tests.support.replicas import ALICE, BOB, HOUR, VERSATURE, House, Replica


def revalidator(house: House, replica: Replica) -> Revalidator:
    return Revalidator(house.grants, replica.directory, replica.local, replica.lane, house.clock)


async def test_one_query_a_tick_keeps_every_used_entry_in_memory(house: House, replica: Replica) -> None:
    for grant in (ALICE, BOB):
        await house.import_(replica, grant)
        await replica.ask(grant)
    ticks = revalidator(house, replica)
    for _ in range(5):
        await asyncio.sleep(2)
        assert {(await replica.ask(grant)).source for grant in (ALICE, BOB)} == {Source.LOCAL}
        await ticks.tick()
    assert house.grants.calls["standings"] == 5
    assert house.grants.calls["get"] == 2


async def test_who_is_asked_for_now_and_then_stays_confirmed_and_who_is_not_is_left_alone(
    house: House, replica: Replica
) -> None:
    for grant in (ALICE, BOB):
        await house.import_(replica, grant)
        for _ in range(2):
            await replica.ask(grant)
    ticks, confirmed = revalidator(house, replica), []
    for number in range(2 * STAYS_IN_USE):
        await asyncio.sleep(1)
        began = house.clock.now()
        await ticks.tick()
        entry = replica.local.peek(BOB)
        confirmed.append(entry is not None and entry.confirmed_at >= began)
        if number % STAYS_IN_USE == 0:
            assert (await replica.ask(ALICE)).source is Source.LOCAL
    assert confirmed == [True] * STAYS_IN_USE + [False] * STAYS_IN_USE
    assert (await replica.ask(ALICE)).source is Source.LOCAL


async def test_a_revocation_elsewhere_is_seen_by_the_next_tick(house: House, replica: Replica) -> None:
    await house.import_(replica)
    for _ in range(2):
        await replica.ask()
    await house.replica().broker.revoke(VERSATURE, ALICE)
    await revalidator(house, replica).tick()
    assert replica.local.get(ALICE) is None


async def test_an_entry_is_never_served_unconfirmed_for_longer_than_promised(house: House, replica: Replica) -> None:
    await house.import_(replica)
    await replica.ask()
    await house.replica().broker.revoke(VERSATURE, ALICE)
    house.clock.advance(house.policy.local_cache - timedelta(milliseconds=1))
    assert (await replica.ask()).source is Source.LOCAL
    house.clock.advance(timedelta(milliseconds=1))
    with pytest.raises(Exception, match="revoked"):
        await replica.ask()


async def test_an_entry_that_another_replica_is_renewing_is_not_confirmed(house: House, replica: Replica) -> None:
    await house.import_(replica)
    await replica.ask()
    row = await house.row()
    await house.grants.claim(
        ALICE, generation=1, attempt_id="other", fingerprint=row.fingerprint, lease=HOUR, takeover=timedelta(0)
    )
    entry = replica.local.get(ALICE)
    assert entry is not None
    before = entry.confirmed_at
    house.clock.advance(timedelta(seconds=1))
    await revalidator(house, replica).tick()
    assert (replica.local.get(ALICE), entry.confirmed_at) == (entry, before)


async def test_a_cached_token_of_the_same_generation_and_another_history_is_not_handed_out(house: House) -> None:
    stranger = House(house.clock)
    stranger.shared = house.shared
    theirs = stranger.replica()
    await stranger.import_(theirs)
    await theirs.ask()
    house.clock.advance(timedelta(seconds=1))
    ours = house.replica()
    await house.import_(ours)
    handout = await ours.ask()
    assert handout.source is Source.DATABASE
    assert handout.token.value == (await house.stored())[0].value  # type: ignore[union-attr]


async def test_requests_that_come_while_a_query_runs_share_the_next_one(house: House, replica: Replica) -> None:
    await house.import_(replica)
    await house.import_(replica, BOB)
    gate = house.grants.held["standings"] = asyncio.Event()
    confirmer = Confirmer(house.grants, house.clock)
    first = asyncio.create_task(confirmer.confirm(ALICE))
    await asyncio.sleep(0.01)
    later = [asyncio.create_task(confirmer.confirm(grant)) for grant in (ALICE, BOB) * 10]
    await asyncio.sleep(0.01)
    later[0].cancel()
    gate.set()
    assert (await first)[1] is not None
    assert all(standing is not None for _, standing in await asyncio.gather(*later[1:]))
    assert house.grants.calls["standings"] == 2


async def test_a_query_that_fails_is_everybodys_and_the_next_one_is_asked_anew(house: House, replica: Replica) -> None:
    await house.import_(replica)
    confirmer = Confirmer(house.grants, house.clock)
    house.grants.away = True
    for failure in await asyncio.gather(*(confirmer.confirm(ALICE) for _ in range(3)), return_exceptions=True):
        assert isinstance(failure, StoreUnavailable)
    house.grants.away = False
    assert (await confirmer.confirm(ALICE))[1] is not None


class Odd(Exception):
    """What no store is meant to raise."""


async def test_an_unforeseen_failure_leaves_nobody_waiting(house: House, replica: Replica) -> None:
    class Broken(MemoryGrantStore):
        async def standings(self, grants: Sequence[GrantId]) -> Mapping[GrantId, Standing]:
            raise Odd

    confirmer = Confirmer(Broken(house.clock), house.clock)
    for _ in range(2):
        with pytest.raises(Odd):
            await asyncio.wait_for(confirmer.confirm(ALICE), 1)


async def test_a_token_that_ends_while_it_is_being_confirmed_is_not_handed_out(house: House, replica: Replica) -> None:
    await house.import_(replica, life=timedelta(seconds=20))
    await replica.ask()
    house.clock.advance(timedelta(seconds=6))
    gate = house.grants.held["standings"] = asyncio.Event()
    asking = asyncio.create_task(replica.ask())
    await asyncio.sleep(0.01)
    house.clock.advance(timedelta(seconds=30))
    gate.set()
    handout = await asking
    assert handout.token.expires_at > house.clock.now()
    assert handout.source is Source.STALE


async def test_an_ended_local_entry_does_not_hide_what_redis_has(house: House, replica: Replica) -> None:
    elsewhere = house.replica()
    await house.import_(replica, life=timedelta(seconds=20))
    await replica.ask()
    await asyncio.sleep(21)
    renewed = await elsewhere.ask()
    house.grants.away = True
    handout = await replica.ask()
    assert (handout.source, handout.token) == (Source.REDIS, renewed.token)


async def test_a_token_of_another_history_that_comes_into_redis_later_is_not_handed_out_either(house: House) -> None:
    stranger = House(house.clock)
    stranger.shared = house.shared
    theirs, ours = stranger.replica(), house.replica()
    await stranger.import_(theirs)
    house.clock.advance(timedelta(seconds=1))
    await house.import_(ours)
    await theirs.ask()
    handout = await house.replica().ask()
    assert handout.token == (await house.stored())[0]


async def test_a_token_that_ends_while_the_database_keeps_everybody_waiting_and_then_fails_is_not_handed_out(
    house: House, replica: Replica
) -> None:
    await house.import_(replica, life=timedelta(seconds=20))
    await replica.ask()
    house.clock.advance(timedelta(seconds=6))
    gate = house.grants.held["standings"] = asyncio.Event()
    asking = asyncio.create_task(replica.ask())
    await asyncio.sleep(0.01)
    house.clock.advance(timedelta(seconds=30))
    house.grants.away = True
    gate.set()
    with pytest.raises(StoreUnavailable):
        await asking
