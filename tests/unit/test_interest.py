"""Who is asked for is written down: soon, seldom, and in spite of a database that is away."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest

from service.core.errors import StoreUnavailable
from service.core.handout import Source
from service.core.model import GrantId
from service.core.policy import Policy
from service.core.upkeep.interest import Interest
from tests.support.memory_stores import MemoryGrantStore, MemoryRenewalQueue
from tests.support.replicas import ALICE, BOB, House, Replica
from tests.support.virtual_time import VirtualClock

DAY = 24 * 3600


class Notes(MemoryRenewalQueue):
    """Remembers what it was told to note, in whatever order."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(MemoryGrantStore(clock))
        self.noted: list[tuple[list[GrantId], datetime]] = []

    async def note_asked(self, grants: Sequence[GrantId], *, at: datetime) -> None:
        await super().note_asked(grants, at=at)
        self.noted.append((sorted(grants, key=lambda grant: grant.user), at))


@pytest.fixture
def notes(clock: VirtualClock) -> Notes:
    return Notes(clock)


async def test_everybody_asked_for_is_written_down_at_once_and_once(clock: VirtualClock, notes: Notes) -> None:
    interest, users = Interest(notes, clock, Policy()), [GrantId("versature", f"user-{number}") for number in range(10)]
    for grant in (*reversed(users), *users):
        interest.note(grant)
    await interest.flush()
    assert notes.noted == [(users, clock.now())]


async def test_when_nobody_new_was_asked_for_nothing_is_written(clock: VirtualClock, notes: Notes) -> None:
    interest = Interest(notes, clock, Policy())
    await interest.flush()
    assert notes.calls.total() == 0


@pytest.mark.parametrize("hours", [24, 240, 6])
async def test_who_is_asked_for_all_the_time_is_written_down_once_or_twice_in_a_twenty_fourth(
    clock: VirtualClock, notes: Notes, hours: int
) -> None:
    """Of the time that an asking counts, or of a day; so that nobody's asking ever grows old meanwhile."""
    interest = Interest(notes, clock, Policy(renew_active=timedelta(hours=hours)))
    period = min(hours, 24) / 24 * 3600
    for _ in range(int(4 * DAY / 60)):
        interest.note(ALICE)
        await interest.flush()
        await asyncio.sleep(60)
    written = [at for _, at in notes.noted]
    pauses = [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(written)]
    assert min(pauses) >= period
    assert max(pauses) <= 2 * period + 60


async def test_what_the_database_did_not_take_is_written_with_the_next_round(clock: VirtualClock, notes: Notes) -> None:
    interest = Interest(notes, clock, Policy())
    interest.note(ALICE)
    notes.away = True
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await interest.flush()
    notes.away = False
    interest.note(BOB)
    await interest.flush()
    assert [grants for grants, _ in notes.noted] == [[ALICE, BOB]]


async def test_a_round_that_is_cancelled_loses_nobody(clock: VirtualClock, notes: Notes) -> None:
    interest = Interest(notes, clock, Policy())
    interest.note(ALICE)
    notes.held["note_asked"] = asyncio.Event()
    flushing = asyncio.create_task(interest.flush())
    await asyncio.sleep(1)
    flushing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await flushing
    del notes.held["note_asked"]
    await interest.flush()
    assert [grants for grants, _ in notes.noted] == [[ALICE]]


async def test_who_is_asked_for_while_a_round_is_written_is_in_the_next(clock: VirtualClock, notes: Notes) -> None:
    interest = Interest(notes, clock, Policy())
    interest.note(ALICE)
    notes.held["note_asked"] = gate = asyncio.Event()
    flushing = asyncio.create_task(interest.flush())
    await asyncio.sleep(1)
    interest.note(BOB)
    gate.set()
    await flushing
    await interest.flush()
    assert [grants for grants, _ in notes.noted] == [[ALICE], [BOB]]


async def test_without_background_renewal_nothing_is_collected_or_written(clock: VirtualClock, notes: Notes) -> None:
    interest = Interest(notes, clock, Policy(renew_active=timedelta(0)))
    for _ in range(10):
        interest.note(ALICE)
        await interest.flush()
        await asyncio.sleep(3600)
    assert notes.calls == Counter()


async def notes_of(house: House, replica: Replica) -> int:
    """How often the background of *replica* writes down what it has now."""
    house.queue.calls.clear()
    await replica.background.tick()
    return house.queue.calls["note_asked"]


async def test_a_token_counts_as_asked_for_wherever_it_comes_from(clock: VirtualClock) -> None:
    """From the database, the shared cache or memory; each asking here is past the two periods of the one before."""
    house = House(clock, Policy(renew_active=timedelta(seconds=24)))
    first, second = house.replica(), house.replica()
    await house.import_(first)
    assert (await first.ask()).source is Source.DATABASE
    assert await notes_of(house, first) == 1
    assert (await second.ask()).source is Source.REDIS
    assert await notes_of(house, second) == 1
    for _ in range(2):
        await asyncio.sleep(1)
        assert await notes_of(house, second) == 0
    assert (await second.ask()).source is Source.LOCAL
    assert await notes_of(house, second) == 1
