"""Rule 4: an answer of the provider is never lost by us, and never published over a revocation."""

import asyncio
from collections.abc import Awaitable
from datetime import timedelta

import pytest

from service.core.errors import BrokerError, ReauthorizationRequired, RenewalInProgress, StoreUnavailable
from service.core.handout import Handout, Source
from service.core.model import GrantState, Reason
from tests.support.fake_server import Rotation
from tests.support.replicas import ALICE, HOUR, REVOCABLE, VERSATURE, House, Replica


async def quietly(asking: Awaitable[Handout]) -> BrokerError | Handout:
    try:
        return await asking
    except BrokerError as failure:
        return failure


async def test_an_answer_while_the_database_is_away_is_published_and_saved_later(
    house: House, replica: Replica
) -> None:
    asking, silence = await house.held_answer(replica)
    others = [asyncio.create_task(replica.ask()) for _ in range(5)]
    await asyncio.sleep(1)
    house.grants.away = True
    silence.release()
    answered_at = house.clock.monotonic()
    token = (await asking).token
    assert house.clock.monotonic() - answered_at == pytest.approx(0.1)
    assert {(await other).token for other in others} == {token}
    [entry] = replica.spool.kept.values()
    assert (entry.grant, entry.generation) == (ALICE, 1)
    assert list(house.copy.kept.values()) == [entry]
    await asyncio.sleep(600)
    assert (await replica.ask()).token == token
    house.grants.away = False
    assert await replica.saver.drain(HOUR) == 0
    row = await house.row()
    assert (row.generation, row.saved_attempt_id, row.claim) == (2, entry.attempt_id, None)
    assert (replica.spool.kept, house.copy.kept) == ({}, {})
    assert (await house.stored())[1] in house.server.good
    assert (await house.replica().ask()).token == token
    assert house.server.count("refresh") == 1


async def test_a_database_that_can_be_read_but_not_written_makes_nobody_redeem_again(
    house: House, replica: Replica
) -> None:
    """For hours, far beyond the claim's takeover; the published token is served to its end and not longer."""
    house.server.rotation = Rotation.STRICT
    asking, silence = await house.held_answer(replica)
    house.grants.away_for = {"save"}
    silence.release()
    token = (await asking).token
    for _ in range(119):
        await asyncio.sleep(30)
        assert (await replica.ask()).token == token
    await asyncio.sleep(3600)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await replica.ask()
    assert house.server.count("refresh") == 1
    house.grants.away_for = set()
    assert await replica.saver.drain(HOUR) == 0
    assert (await replica.ask()).token.generation == 3
    assert house.server.reused == []


async def test_while_an_answer_waits_for_the_database_a_rejection_of_its_predecessor_gets_it(
    house: House, replica: Replica
) -> None:
    await house.import_(replica)
    old = (await replica.ask()).token
    house.grants.away_for = {"save"}
    new = (await replica.reject(old.value)).token
    assert (await replica.reject(old.value)).token == new
    with pytest.raises(BrokerError):
        await replica.reject(new.value)
    assert house.server.count("refresh") == 1


async def test_a_commit_whose_answer_was_lost_counts_once(house: House, replica: Replica) -> None:
    asking, silence = await house.held_answer(replica)
    house.grants.mute.add("save")
    silence.release()
    token = (await asking).token
    assert await replica.saver.drain(HOUR) == 0
    row = await house.row()
    assert (row.generation, token.generation) == (2, 2)
    assert (await house.stored())[0] == token


async def test_a_process_paused_past_its_lease_wins_if_nobody_took_over(house: House, replica: Replica) -> None:
    asking, silence = await house.held_answer(replica)
    house.clock.advance(timedelta(minutes=10))
    silence.release()
    await quietly(asking)
    assert await replica.renewer.drain(HOUR) == 0
    assert (await house.row()).generation == 2
    assert (await house.stored())[1] in house.server.good
    assert (await house.replica().ask()).token.generation == 2


async def test_a_process_paused_past_its_lease_adopts_the_token_of_whoever_took_over(house: House) -> None:
    house.server.rotation = Rotation.OFF
    paused, other = house.replica(), house.replica()
    asking, silence = await house.held_answer(paused)
    house.clock.advance(61)
    newer = (await other.ask()).token
    before = await house.row()
    flight, collapsed = paused.renewer.fly(VERSATURE, before)
    assert collapsed
    silence.release()
    assert await flight == newer
    await quietly(asking)
    assert await house.row() == before
    assert (await paused.ask()).token == newer


async def test_an_import_during_a_renewal_wins_and_its_token_is_what_callers_get(
    house: House, replica: Replica
) -> None:
    asking, silence = await house.held_answer(replica)
    await house.import_(house.replica())
    before = await house.row()
    silence.release()
    handout = await asking
    assert handout.token == (await house.stored())[0]
    assert await house.row() == before


async def test_an_import_without_a_token_during_a_renewal_wins_too(house: House, replica: Replica) -> None:
    asking, silence = await house.held_answer(replica)
    refresh_token = house.server.log_in()
    await replica.broker.import_(
        VERSATURE, ALICE, refresh_token=refresh_token, access_token=None, expires_in=None, scope=None
    )
    silence.release()
    with pytest.raises(RenewalInProgress):
        await asking
    assert (await house.stored())[1] == refresh_token
    assert (await replica.ask()).token.generation == 3


async def test_a_late_save_revives_a_grant_that_was_declared_dead_meanwhile(house: House) -> None:
    paused, other = house.replica(), house.replica()
    asking, silence = await house.held_answer(paused)
    house.clock.advance(61)
    with pytest.raises(ReauthorizationRequired) as caught:
        await other.ask()
    assert caught.value.reason is Reason.LOST_IN_TRANSIT
    silence.release()
    await quietly(asking)
    assert await paused.renewer.drain(HOUR) == 0
    row = await house.row()
    assert (row.state, row.reason, row.generation) == (GrantState.CONNECTED, None, 2)
    assert (await other.ask()).token == (await house.stored())[0]


async def test_a_grant_whose_late_answer_came_before_it_could_be_declared_dead_does_not_count_as_lost(
    house: House,
) -> None:
    paused, other = house.replica(), house.replica()
    asking, silence = await house.held_answer(paused)
    house.clock.advance(61)
    house.grants.held["declare_dead"] = dying = asyncio.Event()
    too_late = asyncio.create_task(other.ask())
    await asyncio.sleep(1)
    silence.release()
    await quietly(asking)
    assert await paused.renewer.drain(HOUR) == 0
    dying.set()
    assert isinstance(await quietly(too_late), RenewalInProgress)
    assert (await house.row()).generation == 2
    assert house.lost.total() == 0


@pytest.mark.parametrize("pause", [0, 61], ids=["in time", "after the lease"])
async def test_over_a_revocation_the_late_answer_is_revoked_upstream_and_never_published(
    house: House, replica: Replica, pause: float
) -> None:
    await house.import_(replica)
    silence = house.server.fall_silent()
    flight, _ = replica.renewer.fly(REVOCABLE, await house.row())
    await silence.arrived.wait()
    house.server.speak()
    await house.replica().broker.revoke(REVOCABLE, ALICE)
    house.clock.advance(pause)
    before = await house.row()
    silence.release()
    with pytest.raises(ReauthorizationRequired) as caught:
        await flight
    assert caught.value.by_us
    assert house.server.good == set()
    assert len(house.server.revoked) == 2
    assert await house.shared_token() is None
    assert len(replica.local) == 0
    assert await house.row() == before


async def test_whoever_waits_while_the_grant_is_revoked_does_not_get_the_old_token(
    house: House, replica: Replica
) -> None:
    await house.import_(replica)
    await asyncio.sleep(3000)
    silence = house.server.fall_silent()
    asking = asyncio.create_task(replica.ask())
    await silence.arrived.wait()
    await replica.broker.revoke(VERSATURE, ALICE)
    silence.release()
    with pytest.raises(ReauthorizationRequired) as caught:
        await asking
    assert caught.value.by_us


async def test_an_answer_published_from_memory_is_withdrawn_when_the_database_returns_with_a_revocation(
    house: House, replica: Replica
) -> None:
    """Another replica still reached the database and revoked the grant in it."""
    asking, silence = await house.held_answer(replica)
    house.grants.away_for = {"save"}
    silence.release()
    await asking
    await house.replica().broker.revoke(VERSATURE, ALICE)
    house.grants.away_for = set()
    assert await replica.saver.drain(HOUR) == 0
    with pytest.raises(ReauthorizationRequired):
        await replica.ask()


async def test_an_answer_for_a_grant_without_a_revocation_url_is_simply_dropped(house: House, replica: Replica) -> None:
    asking, silence = await house.held_answer(replica)
    await replica.broker.revoke(VERSATURE, ALICE)
    silence.release()
    with pytest.raises(ReauthorizationRequired):
        await asking
    assert house.server.revoked == []
    assert (await house.row()).state is GrantState.REVOKED


async def test_shutdown_waits_for_unsaved_answers_and_counts_what_is_left(house: House, replica: Replica) -> None:
    asking, silence = await house.held_answer(replica)
    house.grants.away_for = {"save"}
    silence.release()
    assert (await asking).source is Source.STALE
    assert replica.custody.holds(ALICE)
    assert await replica.saver.drain(timedelta(seconds=10)) == 1
    house.grants.away_for = set()
    assert await replica.saver.drain(timedelta(seconds=10)) == 0
    assert not replica.custody.holds(ALICE)


async def test_what_is_published_is_what_was_saved_and_reaches_the_shared_cache(house: House, replica: Replica) -> None:
    asking, silence = await house.held_answer(replica)
    silence.release()
    token = (await asking).token
    assert (await house.stored())[0] == token
    assert await house.shared_token() == token
    assert replica.spool.kept == {}


async def test_a_revocation_while_an_answer_is_slowly_put_into_escrow_keeps_its_token_from_everybody(
    house: House, replica: Replica
) -> None:
    """The database takes its time too, and has been asked meanwhile."""
    await house.import_(replica)
    await asyncio.sleep(3600)
    replica.spool.held["put"] = gate = asyncio.Event()
    house.grants.away_for = {"save"}
    asking = asyncio.create_task(replica.ask(app=REVOCABLE))
    await asyncio.sleep(0.3)
    await house.replica().broker.revoke(REVOCABLE, ALICE)
    house.grants.away_for = set()
    await asyncio.sleep(2)
    silence = house.server.fall_silent()  # the provider takes its time to take the answer back
    gate.set()
    await silence.arrived.wait()
    await asyncio.sleep(1)
    assert (asking.done(), await house.shared_token(), len(replica.local)) == (False, None, 0)
    silence.release()
    with pytest.raises(ReauthorizationRequired):
        await asking
    assert await replica.saver.drain(HOUR) == 0
    assert (await house.shared_token(), len(replica.local)) == (None, 0)
    assert house.server.good == set()
    assert (replica.spool.kept, house.copy.kept) == ({}, {})


async def test_a_token_from_escrow_does_not_count_as_confirmed_by_the_database(house: House, replica: Replica) -> None:
    await house.import_(replica)
    await asyncio.sleep(3600)
    house.grants.away_for = {"save"}
    token = (await replica.ask()).token
    entry = replica.local.peek(ALICE)
    assert entry is not None
    assert entry.token == token
    assert entry.serve_until <= house.clock.timestamp()
    await house.replica().broker.revoke(VERSATURE, ALICE)
    with pytest.raises(ReauthorizationRequired):
        await replica.ask()


async def test_a_token_from_escrow_is_not_handed_out_for_a_rejection_once_it_has_ended(
    house: House, replica: Replica
) -> None:
    await house.import_(replica)
    old = (await replica.ask()).token
    house.grants.away_for = {"save"}
    new = (await replica.reject(old.value)).token
    house.clock.advance(new.expires_at - house.clock.now())
    with pytest.raises(BrokerError):
        await replica.reject(old.value)
