"""At most one flight per key, which outlives everybody who waits for it."""

import asyncio
from datetime import timedelta

import pytest

from service.core.errors import UpstreamUnavailable
from service.core.singleflight import Flights, wait_for_flight

LONG = timedelta(hours=1)


class Work:
    """Counts its starts, and ends when told."""

    def __init__(self, result: str | Exception = "done") -> None:
        self.starts, self.end, self._result = 0, asyncio.Event(), result

    async def __call__(self) -> str:
        self.starts += 1
        await self.end.wait()
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


async def test_everybody_who_comes_during_a_flight_shares_it() -> None:
    flights, work = Flights[str, str](), Work()
    joined = [flights.join("a", work) for _ in range(100)]
    work.end.set()
    assert await asyncio.gather(*(wait_for_flight(task, LONG) for task, _ in joined)) == ["done"] * 100
    assert work.starts == 1
    assert [collapsed for _, collapsed in joined] == [False] + [True] * 99


async def test_other_keys_fly_on_their_own_and_a_landed_flight_is_forgotten() -> None:
    flights, work = Flights[str, str](), Work()
    one, _ = flights.join("a", work)
    two, collapsed = flights.join("b", work)
    assert (flights.running("a"), flights.running("c"), len(flights), collapsed) == (True, False, 2, False)
    work.end.set()
    await asyncio.gather(one, two)
    assert (flights.running("a"), len(flights)) == (False, 0)
    _, collapsed = flights.join("a", work)
    assert not collapsed


async def test_a_waiter_who_goes_away_or_gives_up_harms_nobody() -> None:
    flights, work = Flights[str, str](), Work()
    task, _ = flights.join("a", work)
    impatient = asyncio.create_task(wait_for_flight(task, timedelta(seconds=1)))
    leaving = asyncio.create_task(wait_for_flight(task, LONG))
    staying = asyncio.create_task(wait_for_flight(task, LONG))
    with pytest.raises(TimeoutError):
        await impatient
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert not task.done()
    work.end.set()
    assert await staying == "done"


async def test_a_failure_reaches_everybody_and_nobody_has_to_hear_it() -> None:
    flights, work = Flights[str, str](), Work(UpstreamUnavailable("gone"))
    task, _ = flights.join("a", work)
    waiting = [asyncio.create_task(wait_for_flight(task, LONG)) for _ in range(3)]
    unheard, _ = flights.join("b", work)
    work.end.set()
    failures = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(failure) for failure in failures] == [UpstreamUnavailable] * 3
    await asyncio.wait({unheard})
    assert len(flights) == 0


async def test_drain_waits_for_every_flight() -> None:
    flights, work = Flights[str, str](), Work()
    task, _ = flights.join("a", work)
    asyncio.get_running_loop().call_later(5, work.end.set)
    assert await flights.drain(timedelta(seconds=10)) == 0
    assert task.result() == "done"


async def test_drain_gives_up_after_its_time_and_counts_what_is_left() -> None:
    flights, work = Flights[str, str](), Work()
    task, _ = flights.join("a", work)
    assert await flights.drain(timedelta(seconds=10)) == 1
    assert not task.done()
    assert await Flights[str, str]().drain(LONG) == 0
