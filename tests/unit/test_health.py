"""Whether this process should get requests, as its parts say."""

import asyncio
from datetime import timedelta

import pytest

from service.core.condition.health import READY, Health, PartHealth, Readiness
from tests.support.clock import FakeClock
from tests.support.virtual_time import VirtualClock


class SettableClock(FakeClock):
    """Its hands can be set to another time; what it counts monotonically goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.set_by = timedelta(0)

    def monotonic(self) -> float:
        return super().monotonic() - self.set_by.total_seconds()

    def set(self, by: timedelta) -> None:
        self.advance(by)
        self.set_by += by


@pytest.mark.parametrize("by", [timedelta(0), timedelta(hours=-1), timedelta(hours=1)])
async def test_an_answer_is_kept_for_a_second_whatever_is_done_to_the_clock(by: timedelta) -> None:
    """One of the parts tells that the clock is wrong."""
    clock, asked = SettableClock(), 0

    async def check() -> PartHealth:
        nonlocal asked
        asked += 1
        return READY

    health = Health(clock)
    health.register("part", check)
    await health.parts()
    clock.set(by)
    await health.parts()
    assert asked == 1
    clock.advance(timedelta(seconds=1))
    await health.parts()
    assert asked == 2


async def test_a_part_that_hangs_is_degraded_after_half_a_second(clock: VirtualClock) -> None:
    async def hang() -> PartHealth:
        await asyncio.Event().wait()
        return READY

    health, began = Health(clock), clock.monotonic()
    health.register("part", hang)
    assert (await health.parts())["part"].readiness is Readiness.DEGRADED
    assert clock.monotonic() - began == 0.5


async def test_a_crowd_that_asks_at_once_costs_each_part_one_question() -> None:
    asked, gate = 0, asyncio.Event()

    async def check() -> PartHealth:
        nonlocal asked
        asked += 1
        await gate.wait()
        return READY

    health = Health(FakeClock())
    health.register("part", check)
    crowd = [asyncio.create_task(health.parts()) for _ in range(100)]
    await asyncio.sleep(0)
    crowd[0].cancel()
    gate.set()
    assert await asyncio.gather(*crowd[1:]) == [{"part": READY}] * 99
    assert asked == 1
