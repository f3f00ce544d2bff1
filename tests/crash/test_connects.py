"""A connect that loses its process, its servers or its provider at every step."""

import asyncio

import pytest

from service.core.redeeming.steps import Step
from tests.crash import matrix
from tests.crash.connecting import Trip, trip_on
from tests.crash.matrix import DATABASE_KILLED, EXCHANGE, EXCHANGE_ALONE, IN_FLIGHT, NO_DATABASE, RESTARTED, Cell
from tests.crash.person import LOGIN, Page
from tests.crash.process_faults import ANSWER_DELAY_SECONDS, Strike, deeds_of
from tests.crash.resource_faults import Fault, Witness
from tests.crash.stage import Stage, here, victim
from tests.support.brokers import Broker

pytestmark = [pytest.mark.crash, pytest.mark.asyncio(loop_scope="session")]

_WITHOUT = matrix.CONNECT_PROCESS_WITHOUT_DATABASE


@pytest.mark.parametrize("cell", [*matrix.CONNECT_PROCESS.cells(), *_WITHOUT.cells()], ids=str)
async def test_a_connect_survives_its_process(stage: Stage, cell: Cell) -> None:
    database_lost = cell.table == _WITHOUT.title
    deeds = deeds_of(cell, database_lost_at=Step.CODE_ANSWERED if database_lost else None)
    async with trip_on(stage) as trip, victim(stage, deeds, with_heir=cell.fault == RESTARTED) as met:
        if cell.moment == IN_FLIGHT:
            slow = {"fault": "delay", "fault_times": 1, "fault_users": [LOGIN], "delay_seconds": ANSWER_DELAY_SECONDS}
            await stage.versature.switch(**slow)

        async def until_in_flight() -> None:
            async with asyncio.timeout(10):
                while not await _exchanges(trip):  # noqa: ASYNC110 - the sandbox has no events
                    await asyncio.sleep(0.02)

        strike = Strike(stage, cell, met, database_lost=database_lost)
        first = await strike.during(trip.person.arrive, until_in_flight)
        await trip.ends_as(cell, first, strike.survivors)


@pytest.mark.parametrize("cell", matrix.CONNECT_RESOURCES.cells(), ids=str)
async def test_a_connect_survives_its_servers(stage: Stage, cell: Cell) -> None:
    witness, faults = Witness(), [Fault(stage, cell.fault)]
    witness.at(cell.moment.removeprefix(NO_DATABASE), faults[0].begin)
    if cell.moment.startswith(NO_DATABASE):
        faults.append(Fault(stage, DATABASE_KILLED))
        witness.at(Step.CODE_ANSWERED, faults[1].begin)
    async with trip_on(stage) as trip, here(stage, witness) as broker:
        await _arrive_and_judge(trip, cell, broker, faults)


@pytest.mark.parametrize(
    "cell", [cell for cell in matrix.PROVIDER.cells() if cell.fault in {EXCHANGE, EXCHANGE_ALONE}], ids=str
)
async def test_a_connect_survives_its_provider(stage: Stage, cell: Cell) -> None:
    witness, faults = Witness(), []
    if cell.fault == EXCHANGE_ALONE:
        faults.append(Fault(stage, DATABASE_KILLED))
        witness.at(Step.STATE_TAKEN, faults[0].begin)
    async with trip_on(stage) as trip, here(stage, witness) as broker:
        await stage.versature.switch(fault=cell.moment, fault_times=1, fault_users=[LOGIN])
        await _arrive_and_judge(trip, cell, broker, faults)


async def _arrive_and_judge(trip: Trip, cell: Cell, broker: Broker, faults: list[Fault]) -> None:
    async def survivors() -> list[Broker]:
        return [trip.stage.steady, broker]

    first, *_ = await asyncio.gather(trip.person.arrive(broker, 10), *(fault.end() for fault in faults))
    assert isinstance(first, Page)
    await trip.ends_as(cell, first, survivors)


async def _exchanges(trip: Trip) -> bool:
    calls = await trip.stage.versature.calls(grant_type="authorization_code")
    return any(call["seq"] > trip.began for call in calls)
