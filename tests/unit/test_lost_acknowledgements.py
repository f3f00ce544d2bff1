"""Rules 3 and 4: what the database did without our knowing, or did not do though we asked, is put right."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from service.core.errors import BrokerError, ReauthorizationRequired, StoreUnavailable, UpstreamUnavailable
from service.core.model import Grant, GrantId, GrantState, Reason
from service.core.redeeming.upstream import Ambiguous, ClientRefused, NotSent
from tests.support.memory_stores import MemoryGrantStore, MemoryRenewalQueue
from tests.support.replicas import ALICE, HOUR, VERSATURE, House, Replica


async def expire(house: House, replica: Replica) -> str:
    refresh_token = await house.import_(replica)
    await asyncio.sleep(3600)
    return refresh_token


async def failure_of(replica: Replica) -> BrokerError:
    with pytest.raises(BrokerError) as caught:
        await replica.ask()
    return caught.value


async def test_a_claim_whose_commit_went_unheard_is_given_back_and_blocks_nobody(house: House) -> None:
    claimer, other = house.replica(), house.replica()
    await expire(house, claimer)
    house.grants.mute.add("claim")
    assert isinstance(await failure_of(claimer), StoreUnavailable)
    await asyncio.sleep(0.1)
    row = await house.row()
    assert (row.claim, row.unfinished_generation) == (None, None)
    began = house.clock.monotonic()
    assert (await other.ask()).token.generation == 2
    assert house.clock.monotonic() - began < 1


async def test_a_claim_whose_commit_went_unheard_makes_no_later_refusal_a_lost_answer(
    house: House, replica: Replica
) -> None:
    house.server.end(await expire(house, replica))
    house.grants.mute.add("claim")
    await failure_of(replica)
    await asyncio.sleep(0.1)
    failure = await failure_of(replica)
    assert isinstance(failure, ReauthorizationRequired)
    assert failure.reason is Reason.REVOKED
    assert house.lost.total() == 0


async def test_the_giving_back_waits_for_the_database_too(house: House, replica: Replica) -> None:
    await expire(house, replica)
    house.grants.mute.add("claim")
    house.grants.away_for = {"release"}
    await failure_of(replica)
    await asyncio.sleep(10)
    assert (await house.row()).claim is not None
    house.grants.away_for = set()
    await asyncio.sleep(2)
    assert (await house.row()).claim is None
    assert (await replica.ask()).token.generation == 2


class SlowToCommit(MemoryGrantStore):
    """Its next claim fails, and is committed all the same `late` seconds after that."""

    late: float | None = None

    async def claim(self, grant: GrantId, **values: Any) -> Grant | None:
        if self.late is None:
            return await super().claim(grant, **values)
        asyncio.get_running_loop().call_later(self.late, self._commit, grant, values)
        self.late = None
        raise StoreUnavailable

    def _commit(self, grant: GrantId, values: dict[str, Any]) -> None:
        self.committed = asyncio.ensure_future(super().claim(grant, **values))


async def test_a_claim_that_is_committed_only_after_it_failed_is_given_back_too(house: House) -> None:
    house.grants = slow = SlowToCommit(house.clock)
    house.queue = MemoryRenewalQueue(slow)
    replica = house.replica()
    await expire(house, replica)
    slow.late = 3
    await failure_of(replica)
    await asyncio.sleep(4)
    assert (await house.row()).claim is not None
    await asyncio.sleep(2)
    assert (await house.row()).claim is None
    assert (await house.row()).unfinished_generation is None


async def test_a_giving_back_that_comes_late_takes_nobody_elses_claim_away(house: House) -> None:
    claimer, other = house.replica(), house.replica()
    await expire(house, claimer)
    house.grants.mute.add("claim")
    await failure_of(claimer)
    silence = house.server.fall_silent()
    asking = asyncio.create_task(other.ask())
    await silence.arrived.wait()
    held = (await house.row()).claim
    await asyncio.sleep(7)
    assert (await house.row()).claim == held
    silence.release()
    assert (await asking).token.generation == 2


async def background_loses_the_answer(house: House) -> Replica:
    replica = house.replica(settings=VERSATURE)
    await replica.directory.check()
    await expire(house, replica)
    await house.queue.note_asked([ALICE], at=house.clock.now())
    house.queue.mute.add("claim_due")
    with pytest.raises(StoreUnavailable):
        await replica.background.tick()
    return replica


async def test_claims_of_the_background_whose_commit_went_unheard_block_nobody(house: House) -> None:
    await background_loses_the_answer(house)
    await asyncio.sleep(1)
    assert (await house.replica().ask()).token.generation == 2


async def test_claims_of_the_background_whose_commit_went_unheard_make_no_later_refusal_a_lost_answer(
    house: House,
) -> None:
    replica = await background_loses_the_answer(house)
    house.server.end(next(iter(house.server.good)))
    await asyncio.sleep(61)
    failure = await failure_of(replica)
    assert isinstance(failure, ReauthorizationRequired)
    assert failure.reason is Reason.REVOKED


async def test_a_death_that_the_database_did_not_take_is_written_when_it_is_back(house: House) -> None:
    replica = house.replica()
    house.server.end(await expire(house, replica))
    house.grants.away_for = {"declare_dead"}
    assert isinstance(await failure_of(replica), StoreUnavailable)
    await asyncio.sleep(20)
    assert (await house.row()).state is GrantState.CONNECTED
    house.grants.away_for = set()
    await asyncio.sleep(2)
    row = await house.row()
    assert (row.state, row.reason, row.claim) == (GrantState.REAUTHORIZATION_REQUIRED, Reason.REVOKED, None)
    assert house.server.count("refresh") == 1


async def test_a_death_whose_commit_went_unheard_is_one_death(house: House, replica: Replica) -> None:
    await expire(house, replica)
    house.server.script(Ambiguous("x"))
    house.server.end(next(iter(house.server.good)))
    await failure_of(replica)
    await asyncio.sleep(61)
    house.grants.mute.add("declare_dead")
    await failure_of(replica)
    await asyncio.sleep(1)
    failure = await failure_of(replica)
    assert isinstance(failure, ReauthorizationRequired)
    assert failure.reason is Reason.LOST_IN_TRANSIT
    assert house.lost == {"versature": 1}
    assert await replica.errands.drain(HOUR) == 0


async def test_a_setback_that_the_database_did_not_take_is_written_when_it_is_back(
    house: House, replica: Replica
) -> None:
    await expire(house, replica)
    house.server.always(NotSent("x"))
    house.grants.away_for = {"note_setback"}
    failed_at: datetime = house.clock.now()
    assert isinstance(await failure_of(replica), UpstreamUnavailable)
    await asyncio.sleep(20)
    assert (await house.row()).claim is not None
    house.grants.away_for = set()
    await asyncio.sleep(2)
    row = await house.row()
    assert (row.claim, row.failures) == (None, 1)
    assert row.last_error is not None
    assert (row.last_error.code, row.last_error.at) == (UpstreamUnavailable.code, failed_at)
    assert row.retry_at == failed_at + timedelta(seconds=1)
    house.server.forget_script()
    assert (await replica.ask()).token.generation == 2
    assert (await house.row()).unfinished_generation is None


async def test_a_release_that_the_database_did_not_take_is_written_when_it_is_back(
    house: House, replica: Replica
) -> None:
    await expire(house, replica)
    house.server.script(ClientRefused("x"))
    house.grants.away_for = {"release"}
    await failure_of(replica)
    await asyncio.sleep(20)
    assert (await house.row()).claim is not None
    house.grants.away_for = set()
    await asyncio.sleep(2)
    row = await house.row()
    assert (row.claim, row.unfinished_generation, row.failures) == (None, None, 0)
    assert (await replica.ask()).token.generation == 2
