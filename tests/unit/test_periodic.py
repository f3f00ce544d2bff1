"""Periodic work comes round again, whatever happened the last time."""

import asyncio
import logging
from datetime import timedelta

import pytest

from service.core.errors import StoreUnavailable
from service.core.upkeep.periodic import every
from tests.support.virtual_time import VirtualClock

PERIOD = timedelta(seconds=10)


class Work:
    """Done each time; fails the first times, once with each of *failures*."""

    def __init__(self, clock: VirtualClock, *failures: Exception, lasts: float = 0) -> None:
        self.clock, self.failures, self.lasts = clock, list(failures), lasts
        self.done_at: list[float] = []

    async def __call__(self) -> None:
        self.done_at.append(self.clock.monotonic())
        await asyncio.sleep(self.lasts)
        if self.failures:
            raise self.failures.pop(0)


async def live(work: Work, seconds: float, *, at_once: bool = False) -> asyncio.Task[None]:
    task = asyncio.create_task(every(PERIOD, work, work.clock, "some work", at_once=at_once))
    await asyncio.sleep(seconds)
    return task


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_work_is_done_after_each_period_until_cancelled(clock: VirtualClock) -> None:
    work = Work(clock)
    await stop(await live(work, 35))
    await asyncio.sleep(100)
    assert work.done_at == [10, 20, 30]


async def test_work_that_nobody_should_wait_for_is_done_at_once_and_then_after_each_period(clock: VirtualClock) -> None:
    work = Work(clock)
    await stop(await live(work, 25, at_once=True))
    assert work.done_at == [0, 10, 20]


async def test_the_period_lies_between_the_end_of_one_round_and_the_next(clock: VirtualClock) -> None:
    work = Work(clock, lasts=5)
    await stop(await live(work, 45))
    assert work.done_at == [10, 25, 40]


@pytest.mark.parametrize(
    ("failure", "level"),
    [(StoreUnavailable(), logging.WARNING), (ValueError(), logging.ERROR)],
    ids=["database away", "a bug"],
)
async def test_work_that_fails_is_told_by_name_and_comes_round_again(
    clock: VirtualClock, failure: Exception, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    work = Work(clock, failure)
    await stop(await live(work, 25))
    assert work.done_at == [10, 20]
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert (record.levelno, record.__dict__["what"]) == (level, "some work")


async def test_a_long_outage_is_told_when_it_begins_and_when_it_is_over(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    work = Work(clock, StoreUnavailable(), StoreUnavailable(), ValueError(), StoreUnavailable())
    await stop(await live(work, 65))
    assert work.done_at == [10, 20, 30, 40, 50, 60]
    told = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert told == [
        (logging.WARNING, "periodic work is left out while the database is away"),
        (logging.ERROR, "periodic work crashed"),
        (logging.INFO, "periodic work goes on"),
    ]
