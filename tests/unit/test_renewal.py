"""Rules 1 to 3: one redemption, which outlives its callers, journalled before it is sent."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from service.core.absent import NoTokenCache
from service.core.errors import (
    ClientRejected,
    ReauthorizationRequired,
    RenewalInProgress,
    UpstreamUnavailable,
)
from service.core.handout import Handout
from service.core.model import COMPANY, GrantId, GrantState, GrantType, Reason
from service.core.policy import Policy
from service.core.redeeming.upstream import Ambiguous
from tests.support.fake_server import Lost
from tests.support.replicas import ALICE, COMPANYS, DRAIN, HOUR, THE_COMPANY, VERSATURE, House, Replica, application

LEASE_AND_TAKEOVER = timedelta(seconds=60)


async def expire(house: House, *replicas: Replica) -> None:
    """Let alice be connected and her access token end."""
    await house.import_(replicas[0])
    await asyncio.sleep(3600)


async def expire_many(house: House, replica: Replica, count: int) -> list[GrantId]:
    """As many users whose access tokens have ended."""
    users = [GrantId("versature", f"user-{number}") for number in range(count)]
    for user in users:
        await house.import_(replica, user)
    await asyncio.sleep(3600)
    return users


async def abandon(house: House, replica: Replica) -> None:
    """*replica* dies during a renewal: it has sent its request and never does anything again."""
    silence = house.server.fall_silent()
    waiting = asyncio.create_task(replica.ask())
    await silence.arrived.wait()
    waiting.cancel()
    house.server.speak()


async def test_callers_at_once_share_one_redemption(house: House, replica: Replica) -> None:
    await expire(house, replica)
    handouts = await asyncio.gather(*(replica.ask() for _ in range(300)))
    assert house.server.count("refresh") == 1
    assert len({handout.token.value for handout in handouts}) == 1
    assert sum(handout.collapsed for handout in handouts) == 299


async def test_replicas_at_once_redeem_once(house: House) -> None:
    replicas = [house.replica() for _ in range(4)]
    await expire(house, *replicas)
    handouts = await asyncio.gather(*(replica.ask() for replica in replicas for _ in range(50)))
    assert house.server.count("refresh") == 1
    assert len({handout.token.value for handout in handouts}) == 1
    assert sum(handout.collapsed for handout in handouts) == 199


async def test_the_companys_first_token_is_fetched_once_by_all_replicas(house: House) -> None:
    replicas = [house.replica() for _ in range(4)]
    handouts = await asyncio.gather(*(replica.ask(THE_COMPANY, COMPANYS) for replica in replicas for _ in range(10)))
    assert house.server.count("client_credentials") == 1
    assert len({handout.token.value for handout in handouts}) == 1


@pytest.mark.parametrize("redis", [True, False], ids=["told by Redis", "told by the row"])
async def test_the_loser_of_a_claim_waits_for_the_winners_token_and_asks_nobody(
    house: House, monkeypatch: pytest.MonkeyPatch, redis: bool
) -> None:
    if not redis:
        monkeypatch.setattr(house, "shared", NoTokenCache())
    winner, loser = house.replica(), house.replica()
    await expire(house, winner)
    silence = house.server.fall_silent()
    won = asyncio.create_task(winner.ask())
    await silence.arrived.wait()
    lost = asyncio.create_task(loser.ask())
    await asyncio.sleep(5)
    silence.release()
    assert (await lost).token == (await won).token
    assert ((await lost).collapsed, (await won).collapsed) == (True, False)
    assert (house.server.count("refresh"), house.grants.calls["claim"]) == (1, 1)


async def test_whoever_waits_in_vain_for_a_process_that_died_is_told_when_its_claim_is_over(house: House) -> None:
    dead, other = house.replica(), house.replica()
    await expire(house, dead)
    await abandon(house, dead)
    first = asyncio.create_task(other.ask())
    await asyncio.sleep(1)
    later = asyncio.create_task(other.ask())  # who joins hears how the flight itself ends
    for asking in (first, later):
        with pytest.raises(RenewalInProgress) as failure:
            await asking
        assert failure.value.retry_after is not None
        too_long = failure.value.retry_after - (LEASE_AND_TAKEOVER - house.policy.wait)
        assert timedelta(seconds=-1) < too_long <= timedelta(0)


async def test_a_claim_that_was_given_back_meanwhile_tells_nobody_to_stay_away(house: House) -> None:
    holder, other = house.replica(), house.replica()
    await expire(house, holder)
    row, half = await house.row(), LEASE_AND_TAKEOVER / 2
    await house.grants.claim(
        ALICE, generation=1, attempt_id="another", fingerprint=row.fingerprint, lease=half, takeover=half
    )
    house.server.fall_silent()
    asking = asyncio.create_task(other.ask())
    await asyncio.sleep(7)
    await house.grants.release(ALICE, attempt_id="another")
    with pytest.raises(RenewalInProgress) as failure:
        await asking
    assert failure.value.retry_after == timedelta(seconds=1)
    house.server.speak()


async def test_whoever_gives_up_before_an_answer_may_be_there_is_told_to_come_back_soon(house: House) -> None:
    house.policy = replace(house.policy, wait=timedelta(seconds=3))
    replica, other = house.replica(), house.replica()
    await expire(house, replica)
    house.server.fall_silent()
    first = asyncio.create_task(replica.ask())
    await asyncio.sleep(0.1)
    for asked in (replica, other):
        with pytest.raises(RenewalInProgress) as failure:
            await asked.ask()
        assert failure.value.retry_after == timedelta(seconds=1)
    with pytest.raises(RenewalInProgress):
        await first
    house.server.speak()


async def test_whoever_waits_for_a_renewal_that_finds_the_grant_dead_hears_it_at_once(house: House) -> None:
    winner, loser = house.replica(), house.replica()
    house.server.end(await house.import_(winner))
    await asyncio.sleep(3600)
    silence = house.server.fall_silent()
    waiting = [asyncio.create_task(replica.ask()) for replica in (winner, loser)]
    await silence.arrived.wait()
    await asyncio.sleep(5)
    silence.release()
    released_at = house.clock.monotonic()
    for asking in waiting:
        with pytest.raises(ReauthorizationRequired):
            await asking
    assert house.clock.monotonic() - released_at < 1
    assert house.server.count("refresh") == 1


async def test_a_caller_who_hangs_up_harms_nobody_and_the_renewal_is_saved(house: House, replica: Replica) -> None:
    await expire(house, replica)
    silence = house.server.fall_silent()
    caller = asyncio.create_task(replica.ask())
    await silence.arrived.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    silence.release()
    assert await replica.renewer.drain(HOUR) == 0
    assert (await house.row()).generation == 2
    assert (await house.stored())[1] in house.server.good


async def test_shutdown_waits_for_flights_and_counts_those_that_do_not_land(house: House, replica: Replica) -> None:
    await expire(house, replica)
    silence = house.server.fall_silent()
    caller = asyncio.create_task(replica.ask())
    await silence.arrived.wait()
    assert await replica.renewer.drain(timedelta(seconds=10)) == 1
    asyncio.get_running_loop().call_later(3, silence.release)
    assert await replica.renewer.drain(timedelta(seconds=10)) == 0
    assert (await caller).token.generation == 2


async def test_a_process_that_ends_still_renews_what_it_has_the_time_for(house: House, replica: Replica) -> None:
    await expire(house, replica)
    replica.shutdown.begin()
    await asyncio.sleep((DRAIN - house.policy.upstream_deadline).total_seconds())
    assert (await replica.ask()).token.generation == 2


async def test_a_process_that_ends_sends_nothing_that_it_could_not_wait_for_and_leaves_it_to_others(
    house: House, replica: Replica
) -> None:
    await expire(house, replica)
    replica.shutdown.begin()
    await asyncio.sleep((DRAIN - house.policy.upstream_deadline).total_seconds() + 0.1)
    replica.shutdown.begin()
    with pytest.raises(RenewalInProgress):
        await replica.ask()
    assert house.server.count("refresh") == 0
    assert (await house.replica().ask()).token.generation == 2


async def test_the_claim_is_in_the_database_before_anything_is_sent(house: House, replica: Replica) -> None:
    await expire(house, replica)
    silence = house.server.fall_silent()
    asked_at = house.clock.now()
    caller = asyncio.create_task(replica.ask())
    await silence.arrived.wait()
    claim = (await house.row()).claim
    assert claim is not None
    assert (claim.started_at, claim.lease_until) == (asked_at, asked_at + timedelta(seconds=30))
    silence.release()
    await caller
    assert (await house.row()).claim is None


async def test_a_claim_that_cannot_be_written_sends_nothing(house: House, replica: Replica) -> None:
    await expire(house, replica)
    house.grants.away_for = {"claim"}
    with pytest.raises(Exception, match="database"):
        await replica.ask()
    assert house.server.calls == []


@pytest.mark.parametrize(("seconds", "sent"), [(20, 1), (20.1, 0)])
async def test_nothing_is_sent_when_the_lease_has_less_left_than_the_deadline(
    house: House, replica: Replica, seconds: float, sent: int
) -> None:
    await expire(house, replica)
    house.grants.held["claim"] = asyncio.Event()
    flight, _ = replica.renewer.fly(VERSATURE, await house.row())
    asyncio.get_running_loop().call_later(seconds, house.grants.held["claim"].set)
    await asyncio.wait({flight})
    assert house.server.count("refresh") == sent
    assert isinstance(flight.exception(), RenewalInProgress) is (not sent)
    row = await house.row()
    assert (row.claim, row.failures, row.unfinished_generation) == (None, 0, None)


async def test_nobody_redeems_over_an_unfinished_attempt_before_its_takeover(house: House) -> None:
    dead, alive = house.replica(), house.replica()
    await expire(house, dead)
    house.server.acts_late = True
    await abandon(house, dead)
    claim = (await house.row()).claim
    assert claim is not None
    handout: Handout | None = None
    while handout is None:
        try:
            handout = await alive.ask()
        except RenewalInProgress:
            assert house.server.count("refresh") == 1
    first, second = house.server.calls
    assert second.token == first.token
    assert timedelta(0) < second.at - claim.lease_until - timedelta(seconds=30) < timedelta(seconds=1)
    assert handout.token.generation == 2


async def test_a_process_whose_clock_is_ahead_takes_nothing_over_early(house: House) -> None:
    """The clock of the database decides."""
    dead, hasty = house.replica(), house.replica(clock=house.clock.ahead(timedelta(seconds=50)))
    await expire(house, dead)
    house.server.acts_late = True
    await abandon(house, dead)
    await asyncio.sleep(20)
    with pytest.raises(RenewalInProgress):
        await hasty.ask()
    assert house.server.count("refresh") == 1
    await asyncio.sleep(26)
    assert (await hasty.ask()).token.generation == 2


async def test_an_attempt_without_an_answer_is_an_unfinished_one_too(house: House, replica: Replica) -> None:
    """Callers without a valid token are told at once until the takeover, and then one of them tries."""
    await expire(house, replica)
    house.server.script(Ambiguous("The provider did not answer in time."))
    asked_at = house.clock.now()
    with pytest.raises(UpstreamUnavailable) as caught:
        await replica.ask()
    assert caught.value.retry_after == LEASE_AND_TAKEOVER
    await asyncio.sleep(59)
    for other in (replica, house.replica()):
        with pytest.raises(UpstreamUnavailable) as caught:
            await other.ask()
        assert caught.value.retry_after == timedelta(seconds=1)
    assert house.clock.now() == asked_at + timedelta(seconds=59)
    assert house.server.count("refresh") == 1
    await asyncio.sleep(1)
    assert (await replica.ask()).token.generation == 2


async def test_an_answer_lost_on_its_way_is_told_as_lost_in_transit(house: House, replica: Replica) -> None:
    await expire(house, replica)
    house.server.script(Lost())
    with pytest.raises(UpstreamUnavailable):
        await replica.ask()
    await asyncio.sleep(60)
    with pytest.raises(ReauthorizationRequired) as caught:
        await replica.ask()
    assert caught.value.reason is Reason.LOST_IN_TRANSIT
    row = await house.row()
    assert (row.state, row.reason) == (GrantState.REAUTHORIZATION_REQUIRED, Reason.LOST_IN_TRANSIT)


@pytest.mark.parametrize(
    ("later_ones_worked", "reason"), [(0, Reason.LOST_IN_TRANSIT), (1, Reason.REVOKED)], ids=["none", "one"]
)
async def test_an_unfinished_attempt_is_remembered_until_a_later_refresh_token_has_worked(
    house: House, replica: Replica, later_ones_worked: int, reason: Reason
) -> None:
    await expire(house, replica)
    house.server.script(Ambiguous("never arrived there"))
    with pytest.raises(UpstreamUnavailable):
        await replica.ask()
    await asyncio.sleep(60)
    for _ in range(1 + later_ones_worked):
        await replica.ask()
        await asyncio.sleep(3600)
    house.server.end((await house.stored())[1] or "")
    with pytest.raises(ReauthorizationRequired) as caught:
        await replica.ask()
    assert caught.value.reason is reason


async def test_the_company_has_nothing_to_lose_and_needs_no_takeover(house: House) -> None:
    dead, alive = house.replica(), house.replica()
    silence = house.server.fall_silent()
    waiting = asyncio.create_task(dead.ask(THE_COMPANY, COMPANYS))
    await silence.arrived.wait()
    waiting.cancel()
    house.server.speak()
    began = house.clock.now()
    with pytest.raises(RenewalInProgress):
        await alive.ask(THE_COMPANY, COMPANYS)
    await asyncio.sleep(14)
    await alive.ask(THE_COMPANY, COMPANYS)
    assert timedelta(seconds=30) < house.clock.now() - began < timedelta(seconds=31)


async def test_a_process_has_only_so_many_renewals_under_way_and_all_get_their_turn(house: House) -> None:
    house.policy = Policy(renewals_at_once=3)
    replica = house.replica()
    users = await expire_many(house, replica, 20)
    handouts = await asyncio.gather(*(replica.ask(user) for user in users))
    assert house.server.most_at_once == 3
    assert all(handout.token.generation == 2 for handout in handouts)


async def test_all_applications_together_have_twice_as_many_renewals_under_way(house: House) -> None:
    house.policy = Policy(renewals_at_once=2)
    replica = house.replica()
    several = [application(f"app-{number}", GrantType.CLIENT_CREDENTIALS) for number in range(9)]
    silence = house.server.fall_silent()
    waiting = [asyncio.create_task(replica.ask(GrantId(each.name, COMPANY), each)) for each in several]
    await silence.arrived.wait()
    await asyncio.sleep(1)
    assert len(house.server.calls) == 4
    silence.release()
    await asyncio.gather(*waiting)
    assert len(house.server.calls) == 9


async def test_an_application_whose_provider_hangs_keeps_no_other_waiting(house: House) -> None:
    house.policy = Policy(renewals_at_once=3)
    replica = house.replica()
    users = await expire_many(house, replica, 4)
    silence = house.server.fall_silent()
    waiting = [asyncio.create_task(replica.ask(user)) for user in users]
    await silence.arrived.wait()
    await asyncio.sleep(1)
    house.server.speak()
    before = house.clock.now()
    for grant, settings in ((THE_COMPANY, COMPANYS), (GrantId("versature", COMPANY), application("versature"))):
        assert (await replica.ask(grant, settings)).token.generation == 1
    assert (house.clock.now(), house.server.count("refresh")) == (before, 3)
    silence.release()
    await asyncio.gather(*waiting)


async def test_a_refused_registration_costs_no_more_requests_than_are_under_way(house: House) -> None:
    """Those that wait for their turn hear of it before they send anything, and no grant takes harm."""
    house.policy = Policy(renewals_at_once=3)
    replica = house.replica()
    users = await expire_many(house, replica, 100)
    house.server.refuses.add(VERSATURE.client_id)
    failures = await asyncio.gather(*(replica.ask(user) for user in users), return_exceptions=True)
    assert {type(failure) for failure in failures} == {ClientRejected}
    assert house.server.count("refresh") <= 3
    mended = replace(VERSATURE, client_id=VERSATURE.client_id, sealed_secret=VERSATURE.sealed_secret, vendor_id="7")
    house.server.refuses.clear()
    assert {(await replica.ask(user, mended)).token.generation for user in users} == {2}


async def test_another_application_than_the_one_it_was_issued_to_never_sees_a_refresh_token(
    house: House, replica: Replica
) -> None:
    await expire(house, replica)
    before = await house.row()
    for other in (
        replace(VERSATURE, client_id="another"),
        replace(VERSATURE, token_url="https://elsewhere.example/oauth/token/"),
    ):
        with pytest.raises(ClientRejected):
            await replica.ask(ALICE, other)
    assert house.server.calls == []
    assert await house.row() == before
    await replica.ask()
