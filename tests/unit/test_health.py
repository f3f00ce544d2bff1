"""Whether this process should get requests, as its parts say."""

from datetime import timedelta

import pytest

from service.core.condition.health import KEPT, READY, Health, PartHealth
from tests.support.clock import FakeClock


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
    clock.advance(KEPT)
    await health.parts()
    assert asked == 2
