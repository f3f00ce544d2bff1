"""Rules 3, 7 and 9: what the background leaves behind while others are away is little, and hinders nobody."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from service.core.errors import StoreUnavailable
from service.core.model import Grant, GrantId
from service.core.records import Due, Force
from service.core.upkeep.background import MOST_UNHEARD
from tests.support.memory_stores import MemoryGrantStore, MemoryRenewalQueue
from tests.support.replicas import ALICE, HOUR, VERSATURE, House, Replica

DUE = 2880
TICK = 0.25
NO_TIME = timedelta(0)


async def process(house: House) -> Replica:
    replica = house.replica(settings=VERSATURE)
    await replica.directory.check()
    return replica


async def work(seconds: float, replica: Replica) -> None:
    """As the periodic duties of a process would, whatever happens."""
    for _ in range(int(seconds / TICK)):
        with contextlib.suppress(StoreUnavailable):
            await replica.background.tick()
        await asyncio.sleep(TICK)


class NotAsked(MemoryRenewalQueue):
    """Behind a bypass: while it is away, nobody even tries to reach it."""

    async def claim_due(self, due: Due, *, attempt_id: str, lease: timedelta, takeover: timedelta) -> Sequence[Grant]:
        raise StoreUnavailable(asked=False)


class NeverClaims(MemoryGrantStore):
    """The same, where a caller's claim is asked for."""

    async def claim(
        self,
        grant: GrantId,
        *,
        generation: int,
        attempt_id: str,
        fingerprint: bytes,
        lease: timedelta,
        takeover: timedelta,
        force: Force | None = None,
    ) -> Grant | None:
        raise StoreUnavailable(asked=False)


class SlowToSay(MemoryRenewalQueue):
    """Claims, and takes its time to say what; `claimed` tells when it has."""

    def __init__(self, house: House) -> None:
        super().__init__(house.grants)
        self.claimed = asyncio.Event()

    async def claim_due(self, due: Due, *, attempt_id: str, lease: timedelta, takeover: timedelta) -> Sequence[Grant]:
        found = await super().claim_due(due, attempt_id=attempt_id, lease=lease, takeover=takeover)
        self.claimed.set()
        await asyncio.sleep(1)
        return found


async def test_an_hour_without_the_database_leaves_a_handful_of_errands_and_few_calls(house: House) -> None:
    replica = await process(house)
    house.grants.away = house.queue.away = True
    await work(3600, replica)
    assert await replica.errands.drain(NO_TIME) <= 3
    assert house.queue.calls["release_all"] <= 3600 / 2 + 10
    house.queue.calls.clear()
    house.grants.away = house.queue.away = False
    assert await replica.errands.drain(HOUR) == 0
    assert 0 < house.queue.calls["release_all"] <= 2 * MOST_UNHEARD


async def test_what_the_database_was_not_even_asked_for_is_not_given_back(house: House) -> None:
    house.queue = NotAsked(house.grants)
    replica = await process(house)
    await work(600, replica)
    assert await replica.errands.drain(NO_TIME) == 0
    assert house.queue.calls["release_all"] == 0


async def test_a_claim_that_the_database_was_not_even_asked_for_is_not_given_back(house: House) -> None:
    house.grants = NeverClaims(house.clock)
    replica = await process(house)
    await house.import_(replica)
    await asyncio.sleep(3600)
    with pytest.raises(StoreUnavailable):
        await replica.ask()
    assert await replica.errands.drain(NO_TIME) == 0


async def test_a_batch_whose_asking_was_cancelled_is_given_back(house: House) -> None:
    house.queue = queue = SlowToSay(house)
    replica = await process(house)
    await house.import_(replica)
    await house.queue.note_asked([ALICE], at=house.clock.now())
    await asyncio.sleep(DUE)
    ticking = asyncio.create_task(replica.background.tick())
    await queue.claimed.wait()
    assert (await house.row()).claim is not None
    ticking.cancel()
    began = house.clock.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await ticking
    assert await replica.errands.drain(HOUR) == 0
    assert house.clock.monotonic() - began == 1, "it is over as soon as it is known what was claimed"
    row = await house.row()
    assert (row.claim, row.unfinished_generation) == (None, None)
    assert house.server.calls == []


async def test_a_batch_whose_asking_was_cancelled_and_then_failed_is_given_back_twice(house: House) -> None:
    replica = await process(house)
    await house.import_(replica)
    await house.queue.note_asked([ALICE], at=house.clock.now())
    await asyncio.sleep(DUE)
    house.queue.held["claim_due"] = gate = asyncio.Event()
    ticking = asyncio.create_task(replica.background.tick())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    ticking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ticking
    house.queue.mute.add("claim_due")
    gate.set()
    assert await replica.errands.drain(HOUR) == 0
    assert house.queue.calls["release_all"] == 2
    assert (await house.row()).claim is None
    assert house.server.calls == []


async def test_a_batch_lost_while_an_earlier_one_is_given_back_for_the_last_time_is_given_back_too(
    house: House,
) -> None:
    replica = await process(house)
    await house.import_(replica)
    await house.queue.note_asked([ALICE], at=house.clock.now())
    await asyncio.sleep(DUE - 10)
    house.queue.mute.add("claim_due")
    with pytest.raises(StoreUnavailable):
        await replica.background.tick()
    await asyncio.sleep(1)
    house.queue.held["release_all"] = gate = asyncio.Event()
    await asyncio.sleep(9)  # alice is due; the second giving back has begun
    house.queue.mute.add("claim_due")
    with pytest.raises(StoreUnavailable):
        await replica.background.tick()
    assert (await house.row()).claim is not None
    gate.set()
    assert await replica.errands.drain(HOUR) == 0
    assert (await house.row()).claim is None


async def stuck(house: House, replica: Replica, count: int) -> list[GrantId]:
    """Grants over each of which some attempt is unfinished, so that escrow has to be looked into."""
    grants = [GrantId("versature", f"stuck-{number}") for number in range(count)]
    for grant in grants:
        await house.import_(replica, grant)
    await house.queue.note_asked(grants, at=house.clock.now())
    await asyncio.sleep(DUE)
    for grant in grants:
        house.grants.put(replace(await house.row(grant), unfinished_generation=1))
    return grants


async def test_grants_stuck_for_want_of_escrow_cost_little_and_keep_no_other_from_being_renewed(house: House) -> None:
    replica = await process(house)
    grants = await stuck(house, replica, 30)
    house.copy.away = True
    healthy = [GrantId("versature", f"healthy-{number}") for number in range(10)]
    for grant in healthy:
        await house.import_(replica, grant, life=timedelta(minutes=10))
    await house.queue.note_asked(healthy, at=house.clock.now())
    writes: Counter[GrantId] = Counter()
    ended: set[GrantId] = set()

    def watch(grant: Grant) -> None:
        writes[grant.id] += 1
        if grant.id in healthy and grant.claim and (grant.access_expires_at or house.clock.now()) <= house.clock.now():
            ended.add(grant.id)

    house.grants.watch = watch
    sent = house.server.count("refresh")
    await work(3600, replica)
    assert [(await house.row(grant)).generation for grant in healthy] == [3] * 10
    assert ended == set()
    assert max(writes[grant] for grant in grants) <= 50
    assert house.server.count("refresh") - sent == 20
    house.copy.away = False
    await work(310, replica)
    assert [(await house.row(grant)).claim for grant in grants] == [None] * 30
    assert house.server.count("refresh") - sent >= 50
