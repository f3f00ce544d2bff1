"""Rules 1, 7 and 8: what callers use is renewed before they have to wait, once, and at a bearable pace."""

import asyncio
import itertools
from dataclasses import replace
from datetime import timedelta

import pytest

from service.core.errors import StoreUnavailable, UpstreamUnavailable
from service.core.model import COMPANY, Application, GrantId, GrantType
from service.core.policy import Policy
from service.core.records import REST
from service.core.redeeming.upstream import ClientRefused, NotSent
from service.core.upkeep.background import BackgroundRenewer
from tests.support.fake_server import Silence
from tests.support.replicas import (
    ALICE,
    BOB,
    COMPANYS,
    DRAIN,
    HOUR,
    THE_COMPANY,
    VERSATURE,
    House,
    Replica,
    application,
)
from tests.support.virtual_time import VirtualClock

DUE = 2880.0
"""When a token of an hour is due, without jitter."""

AWAY = UpstreamUnavailable("The provider cannot be reached.")


async def process(house: House, settings: Application = VERSATURE) -> Replica:
    replica = house.replica(settings=settings)
    await replica.directory.check()
    return replica


async def import_many(house: House, replica: Replica, count: int) -> list[GrantId]:
    """As many grants, all of them asked for just now."""
    grants = [GrantId("versature", f"user-{number}") for number in range(count)]
    for grant in grants:
        await house.import_(replica, grant)
    await house.queue.note_asked(grants, at=house.clock.now())
    return grants


async def work(seconds: float, *replicas: Replica) -> None:
    """Let the background of *replicas* do its rounds for a while."""
    for _ in range(int(seconds)):
        for replica in replicas:
            await replica.background.tick()
        await asyncio.sleep(1)


async def generations(house: House, grants: list[GrantId]) -> list[int]:
    return [(await house.row(grant)).generation for grant in grants]


async def test_who_was_asked_for_is_renewed_when_due_and_no_caller_waits(house: House) -> None:
    replica = await process(house)
    await house.import_(replica)
    await replica.ask()
    await work(DUE - 1, replica)
    assert house.server.calls == []
    await work(3, replica)
    assert house.server.count("refresh") == 1
    before = house.clock.now()
    assert (await replica.ask()).token.generation == 2
    assert (house.clock.now(), house.server.count("refresh")) == (before, 1)


async def test_who_was_not_asked_for_is_left_alone(house: House) -> None:
    replica = await process(house)
    await house.import_(replica)
    await work(2 * HOUR.total_seconds(), replica)
    assert house.server.calls == []


async def test_renewing_goes_on_for_a_day_after_the_last_asking_and_ends_then(house: House) -> None:
    replica = await process(house)
    await house.import_(replica)
    await replica.ask()
    for _ in range(3 * 24 * 60):
        await replica.background.tick()
        await asyncio.sleep(60)
    last = house.server.calls[-1].at - house.server.calls[0].at + timedelta(seconds=DUE)
    assert timedelta(hours=23) <= last <= timedelta(hours=24)


async def test_an_idle_grant_is_kept_alive_before_its_refresh_token_ends(house: House) -> None:
    replica = await process(house)
    await house.import_(replica)
    await asyncio.sleep(timedelta(days=80).total_seconds() - 1)
    await work(1, replica)
    assert house.server.calls == []
    await work(2, replica)
    assert house.server.count("refresh") == 1
    assert (await house.row()).refresh_expires_at == house.server.calls[0].at + timedelta(days=90)
    await work(2, replica)
    assert house.server.count("refresh") == 1


async def test_with_no_active_hours_only_what_would_end_is_renewed(clock: VirtualClock) -> None:
    house = House(clock, Policy(renew_active=timedelta(0)))
    replica = await process(house)
    await house.import_(replica)
    await replica.ask()
    await work(HOUR.total_seconds(), replica)
    await house.queue.note_asked([ALICE], at=house.clock.now())  # as a process with other settings would
    await work(1, replica)
    assert house.server.calls == []
    await asyncio.sleep(timedelta(days=80).total_seconds())
    await work(2, replica)
    assert house.server.count("refresh") == 1


async def test_several_replicas_send_one_request_per_grant_and_renewal(house: House) -> None:
    replicas = [await process(house) for _ in range(4)]
    grants = await import_many(house, replicas[0], 30)
    await asyncio.sleep(DUE)
    for _ in range(20):
        await asyncio.gather(*(replica.background.tick() for replica in replicas))
        await asyncio.sleep(1)
    assert await generations(house, grants) == [2] * 30
    assert house.server.count("refresh") == 30
    assert (house.server.reused, house.server.overlapping) == ([], [])


async def test_the_fleet_keeps_one_pace_however_many_replicas_there_are(house: House) -> None:
    replicas = [await process(house) for _ in range(4)]
    await import_many(house, replicas[0], 100)
    await asyncio.sleep(DUE)
    began = house.clock.now()
    await work(9, *replicas)
    assert 80 <= house.server.count("refresh") <= 100
    sent = [(call.at - began).total_seconds() for call in house.server.calls]
    for second in range(9):
        assert sum(second <= at < second + 1 for at in sent) <= 20


@pytest.mark.parametrize("pace", [2.0, 0.5])
async def test_the_pace_is_what_the_policy_says(clock: VirtualClock, pace: float) -> None:
    house = House(clock, Policy(renew_per_second=pace))
    replica = await process(house)
    await import_many(house, replica, 100)
    await asyncio.sleep(DUE)
    await work(40, replica)
    assert 40 * pace - 1 <= house.server.count("refresh") <= 40 * pace + 1


async def test_no_more_are_in_the_air_than_one_process_may_have(house: House) -> None:
    replica = await process(house)
    await import_many(house, replica, 60)
    await asyncio.sleep(DUE)
    silence = house.server.fall_silent()
    await work(8, replica)
    assert house.server.most_at_once == len(house.server.calls) == 20
    silence.release()
    house.server.speak()
    await work(8, replica)
    assert house.server.count("refresh") == 60


async def in_the_air(house: House) -> tuple[Replica, Silence]:
    """The background renews alice, and the provider takes its time."""
    replica = await process(house)
    await house.import_(replica)
    await replica.ask()
    await asyncio.sleep(HOUR.total_seconds())
    silence = house.server.fall_silent()
    await replica.background.tick()
    await silence.arrived.wait()
    house.server.speak()
    return replica, silence


async def test_callers_join_the_flight_of_the_background_and_need_not_poll_for_its_end(house: House) -> None:
    replica, silence = await in_the_air(house)
    callers = [asyncio.create_task(replica.ask()) for _ in range(20)]
    await asyncio.sleep(5)
    reads = house.grants.calls["get"]
    await asyncio.sleep(5)
    assert house.grants.calls["get"] == reads
    released_at = house.clock.monotonic()
    silence.release()
    handouts = await asyncio.gather(*callers)
    assert house.clock.monotonic() == released_at
    assert {handout.token.generation for handout in handouts} == {2}
    assert all(handout.collapsed for handout in handouts)
    assert (house.server.count("refresh"), house.grants.calls["claim"]) == (1, 0)


async def test_a_caller_who_was_just_about_to_claim_waits_for_the_background_instead(house: House) -> None:
    replica = await process(house)
    await house.import_(replica)
    await replica.ask()
    await asyncio.sleep(HOUR.total_seconds())
    house.grants.held["claim"] = gate = asyncio.Event()
    asking = asyncio.create_task(replica.ask())
    await asyncio.sleep(0.01)
    await replica.background.tick()
    gate.set()
    assert (await asking).token.generation == 2
    assert house.server.count("refresh") == 1
    assert (await house.row()).claim is None


async def test_shutdown_waits_for_what_the_background_has_in_the_air(house: House) -> None:
    replica, silence = await in_the_air(house)
    assert await replica.renewer.drain(timedelta(seconds=1)) == 1
    silence.release()
    assert await replica.renewer.drain(HOUR) == 0
    assert (await house.row()).generation == 2


async def test_a_process_that_ends_leaves_to_others_what_it_could_not_finish(house: House) -> None:
    ending, other = await process(house), await process(house)
    grants = await import_many(house, ending, 3)
    await asyncio.sleep(DUE)
    ending.shutdown.begin()
    await asyncio.sleep((DRAIN - house.policy.upstream_deadline).total_seconds() + 0.1)
    await ending.background.tick()
    assert [(await house.row(grant)).claim for grant in grants] == [None, None, None]
    await work(2, other)
    assert await generations(house, grants) == [2, 2, 2]


async def test_while_the_applications_circuit_is_open_nothing_is_claimed_and_then_one(house: House) -> None:
    replica = await process(house)
    await import_many(house, replica, 10)
    await asyncio.sleep(DUE)
    pause = replica.breaker.trip(VERSATURE, GrantType.AUTHORIZATION_CODE, AWAY, timedelta(seconds=30))
    await work(pause.total_seconds(), replica)
    assert (house.queue.calls["claim_due"], house.server.calls) == (0, [])
    silence = house.server.fall_silent()
    await work(5, replica)
    assert len(house.server.calls) == 1
    silence.release()
    house.server.speak()
    await work(5, replica)
    assert house.server.count("refresh") == 10


async def test_a_circuit_that_opens_while_a_batch_is_claimed_gives_the_claims_back(house: House) -> None:
    replica = await process(house)
    grants = await import_many(house, replica, 10)
    await asyncio.sleep(DUE)
    house.queue.held["claim_due"] = gate = asyncio.Event()
    ticking = asyncio.create_task(replica.background.tick())
    await asyncio.sleep(0.01)
    replica.breaker.trip(VERSATURE, GrantType.AUTHORIZATION_CODE, AWAY, timedelta(seconds=30))
    gate.set()
    await ticking
    await asyncio.sleep(0.1)
    rows = [await house.row(grant) for grant in grants]
    assert [(row.claim, row.unfinished_generation) for row in rows] == [(None, None)] * 10
    assert house.server.calls == []


@pytest.mark.parametrize("troubled", list(GrantType))
async def test_trouble_of_one_grant_type_neither_costs_nor_hinders_the_other(house: House, troubled: GrantType) -> None:
    both = application("versature")
    company = GrantId("versature", COMPANY)
    replica = await process(house, both)
    await house.import_(replica)
    await replica.ask(company, both)
    await house.queue.note_asked([ALICE, company], at=house.clock.now())
    await asyncio.sleep(DUE)
    replica.breaker.trip(both, troubled, AWAY, timedelta(minutes=10))
    house.server.calls.clear()
    claims: list[GrantId] = []
    house.grants.watch = lambda grant: claims.append(grant.id) if grant.claim else None
    await work(60, replica)
    sound = ALICE if troubled is GrantType.CLIENT_CREDENTIALS else company
    assert claims == [sound]
    assert (await house.row(sound)).generation == 2


async def test_a_crowd_of_users_who_are_due_keeps_nobody_else_waiting(house: House) -> None:
    both = application("versature")
    company = GrantId("versature", COMPANY)
    replica = await process(house, both)
    await import_many(house, replica, 100)
    await replica.ask(company, both)
    await house.queue.note_asked([company], at=house.clock.now())
    await asyncio.sleep(DUE)
    await work(4, replica)
    assert (await house.row(company)).generation == 2


async def test_a_probe_that_could_not_be_opened_leaves_its_place_to_the_next(house: House) -> None:
    replica = await process(house)
    await undecryptable(house, replica)
    await asyncio.sleep(DUE)
    pause = replica.breaker.trip(VERSATURE, GrantType.AUTHORIZATION_CODE, AWAY, None)
    await asyncio.sleep(pause.total_seconds())
    await work(1, replica)
    assert replica.breaker.room(VERSATURE, GrantType.AUTHORIZATION_CODE) == 1
    assert house.server.calls == []


async def test_a_setback_is_respected_until_its_time_is_over(house: House) -> None:
    replica = await process(house)
    await house.import_(replica)
    await replica.ask()
    await asyncio.sleep(DUE)
    house.server.always(NotSent("x"))
    await work(70, replica)
    times = [call.at for call in house.server.calls]
    pauses = [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(times)]
    assert pauses == [1, 2, 4, 8, 16, 32]


async def test_the_applications_trouble_costs_the_background_one_probe_at_a_time(house: House) -> None:
    replica = await process(house)
    await import_many(house, replica, 50)
    await asyncio.sleep(DUE)
    house.server.always(ClientRefused("x"))
    await work(127, replica)
    at_first = 10  # what a second's pace lets off together
    assert house.server.count("refresh") <= at_first + 6  # and probes after 1, 3, 7, 15, 31 and 63 seconds


async def undecryptable(house: House, replica: Replica) -> None:
    await house.import_(replica)
    await house.import_(replica, BOB)
    his = await house.row(BOB)
    house.grants.put(replace(await house.row(), refresh_sealed=his.refresh_sealed))
    await house.queue.note_asked([ALICE], at=house.clock.now())


async def test_a_grant_that_cannot_be_opened_is_not_claimed_again_and_again(house: House) -> None:
    replica = await process(house)
    await undecryptable(house, replica)
    await asyncio.sleep(DUE)
    claims: list[GrantId] = []
    house.grants.watch = lambda grant: claims.append(grant.id) if grant.claim else None
    await work(100, replica)
    assert claims == [ALICE]
    assert house.server.calls == []


async def test_an_idle_grant_that_cannot_be_opened_is_not_claimed_again_and_again_either(house: House) -> None:
    replica = await process(house)
    await undecryptable(house, replica)
    await asyncio.sleep(timedelta(days=80).total_seconds())
    claims: list[GrantId] = []
    house.grants.watch = lambda grant: claims.append(grant.id) if grant.claim else None
    await work(100, replica)
    assert claims.count(ALICE) <= 1


async def test_a_grant_that_could_not_be_opened_is_tried_again_after_a_rest(house: House) -> None:
    replica = await process(house)
    await undecryptable(house, replica)
    await asyncio.sleep(DUE)
    await work(2, replica)
    mine = (await house.row()).refresh_sealed
    assert mine is not None
    house.grants.put(replace(await house.row(), refresh_sealed=mine.replace(b'"bob"', b'"alice"')))
    await work(10, replica)
    assert house.server.calls == []
    await asyncio.sleep(REST.total_seconds())
    await work(2, replica)
    assert house.server.count("refresh") == 1


async def test_a_database_that_is_away_leaves_a_round_out_and_the_next_goes_on(house: House) -> None:
    replica = await process(house)
    await house.import_(replica)
    await replica.ask()
    await asyncio.sleep(DUE)
    house.queue.away = True
    with pytest.raises(StoreUnavailable):
        await replica.background.tick()
    house.queue.away = False
    await work(2, replica)
    assert (await house.row()).generation == 2


async def test_the_companys_token_is_renewed_too(house: House) -> None:
    replica = await process(house, COMPANYS)
    await replica.ask(THE_COMPANY, COMPANYS)
    await work(DUE + 3, replica)
    assert house.server.count("client_credentials") == 2


async def test_before_the_applications_are_known_nothing_happens(house: House) -> None:
    replica = house.replica(settings=VERSATURE)
    assert isinstance(replica.background, BackgroundRenewer)
    await replica.background.tick()
    assert house.queue.calls["claim_due"] == 0
