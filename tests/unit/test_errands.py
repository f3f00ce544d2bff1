"""Writes that nobody waits for are repeated until the database takes them."""

import asyncio
from datetime import timedelta

import pytest

from service.core.errors import StoreUnavailable
from service.core.upkeep.errands import Errands, until_stored
from tests.support.virtual_time import VirtualClock

LONG = timedelta(hours=1)


class Database:
    """Takes what it is given from the *takes_at*-th attempt on; `attempts` are the instants of all."""

    def __init__(self, clock: VirtualClock, takes_at: int, failure: type[Exception] = StoreUnavailable) -> None:
        self.clock, self.takes_at, self.failure = clock, takes_at, failure
        self.attempts: list[float] = []

    async def store(self) -> str:
        self.attempts.append(self.clock.monotonic())
        if len(self.attempts) < self.takes_at:
            raise self.failure
        return "stored"


async def test_an_errand_is_repeated_with_growing_pauses_until_it_is_done(clock: VirtualClock) -> None:
    database = Database(clock, takes_at=7)
    assert await until_stored(database.store, clock, "something") == "stored"
    assert database.attempts == [0, 0.25, 0.75, 1.75, 3.75, 5.75, 7.75]


@pytest.mark.parametrize("failure", [StoreUnavailable, TimeoutError, RuntimeError])
async def test_whatever_the_database_says_the_errand_goes_on(clock: VirtualClock, failure: type[Exception]) -> None:
    database = Database(clock, takes_at=3, failure=failure)
    assert await until_stored(database.store, clock, "something") == "stored"


async def test_a_failure_that_stays_the_same_is_told_once(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    await until_stored(Database(clock, takes_at=50).store, clock, "something")
    assert len(caplog.records) == 1


async def test_nobody_waits_for_an_errand_and_shutdown_counts_what_is_left(clock: VirtualClock) -> None:
    errands, database = Errands(clock), Database(clock, takes_at=7)
    errands.run("something", database.store)
    errands.run("something else", Database(clock, takes_at=1).store)
    assert clock.monotonic() == 0
    assert await errands.drain(timedelta(seconds=5)) == 1
    assert await errands.drain(LONG) == 0
    assert len(database.attempts) == 7


async def test_without_errands_shutdown_waits_for_nothing(clock: VirtualClock) -> None:
    assert await Errands(clock).drain(LONG) == 0
    assert clock.monotonic() == 0


async def test_an_errand_is_cancelled_only_with_the_process(clock: VirtualClock) -> None:
    task = asyncio.ensure_future(until_stored(Database(clock, takes_at=50).store, clock, "something"))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_may_be_done_behind_our_back_is_done_twice(clock: VirtualClock) -> None:
    """A database that failed to answer may still be busy with what this undoes."""
    errands, database = Errands(clock), Database(clock, takes_at=2)
    errands.run_twice("something", database.store)
    assert await errands.drain(LONG) == 0
    assert database.attempts == [0, 0.25, 5.25]
