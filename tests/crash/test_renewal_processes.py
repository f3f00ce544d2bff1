"""A renewal whose process dies or stops at every step, with the database well and with the database lost."""

import asyncio
import time

import pytest

from service.core.redeeming.steps import Step
from tests.crash import matrix
from tests.crash.callers import Answer, Callers
from tests.crash.matrix import PAUSED, PAUSED_LONG, PAUSED_PAST_LEASE, RECONNECTED, RESTARTED, Cell, Outcome
from tests.crash.process_faults import (
    ANSWER_DELAY_SECONDS,
    IS_MORTAL,
    OUTLASTS_CALLERS,
    SHORTLY_SECONDS,
    Strike,
    deeds_of,
)
from tests.crash.stage import GONE_FOR_GOOD, PAST_LEASE, Stage, victim
from tests.crash.verdicts import LostCount, no_secret_is_left_in_escrow, outcome_of, redeemed_once_over_each_token
from tests.support.brokers import Broker

pytestmark = [pytest.mark.crash, pytest.mark.asyncio(loop_scope="session")]

OLD_LIFE = 3
AWAKE_SECONDS = 1.0
"""For whoever wakes up to do what it still has to do."""


def _cells(table: matrix.Table) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("cell", table.cells(), ids=str)


def _callers(stage: Stage, user: str, cell: Cell) -> Callers:
    may_be_lost = cell.expected.outcome is Outcome.LOST or cell.fault == RECONNECTED
    return Callers(stage, user, may_be_lost=may_be_lost, may_be_reused=_is_reused(cell))


def _is_reused(cell: Cell) -> bool:
    """ADR 0003: the takeover shows a spent token, and what the first process holds is worth nothing when it wakes."""
    return cell.expected.outcome is Outcome.LOST and cell.fault == PAUSED_LONG


@pytest.mark.parametrize("cell", [*matrix.RENEWAL_PROCESS.cells(), *matrix.RECONNECTED_PROCESS.cells()], ids=str)
async def test_a_renewal_survives_its_process(stage: Stage, cell: Cell) -> None:
    user = await _begin(stage, cell)
    if cell.moment == Step.LOOKED_INTO_ESCROW:
        await stage.leave_unfinished(user)
    await _renewal(stage, cell, user, database_lost=False)


@_cells(matrix.RENEWAL_PROCESS_WITHOUT_DATABASE)
async def test_a_renewal_survives_its_process_and_the_loss_of_the_database(stage: Stage, cell: Cell) -> None:
    await _renewal(stage, cell, await _begin(stage, cell), database_lost=True)


@_cells(matrix.BACKGROUND_PROCESS)
async def test_a_renewal_of_the_background_survives_its_process(stage: Stage, cell: Cell) -> None:
    await stage.quiet()
    user = stage.new_user()
    lost = await LostCount.beginning(stage.steady)
    with_heir = cell.fault == RESTARTED
    async with victim(stage, deeds_of(cell), with_heir=with_heir, BROKER_RENEW_ACTIVE_HOURS=24) as met:
        await stage.import_(user, expires_in=OLD_LIFE)
        callers = _callers(stage, user, cell)
        noted = await callers.ask(met.broker)
        assert noted is not None
        assert noted.works
        strike = Strike(stage, cell, met)
        await strike.befallen()
        began = time.monotonic()
        if cell.fault == PAUSED:
            await asyncio.sleep(SHORTLY_SECONDS)
        first = await callers.ask(stage.steady)
        assert first is not None
        await _ends(stage, cell, strike, callers, first, lost, began)


async def _begin(stage: Stage, cell: Cell) -> str:
    await stage.quiet()
    user = stage.new_user()
    await stage.import_(user)
    if cell.moment == matrix.IN_FLIGHT:
        slow = {"fault": "delay", "fault_times": 1, "fault_users": [user], "delay_seconds": ANSWER_DELAY_SECONDS}
        await stage.versature.switch(**slow)
    return user


async def _renewal(stage: Stage, cell: Cell, user: str, *, database_lost: bool) -> None:
    deeds = deeds_of(cell, database_lost_at=Step.ANSWERED if database_lost else None)
    lost = await LostCount.beginning(stage.steady)
    callers = _callers(stage, user, cell)

    async def ask(broker: Broker, patience: float) -> Answer | None:
        return await callers.ask(broker, patience=patience)

    async def until_in_flight() -> None:
        async with asyncio.timeout(10):
            while not await stage.versature.redemptions(user):  # noqa: ASYNC110 - the sandbox has no events
                await asyncio.sleep(0.02)

    async with victim(stage, deeds, with_heir=cell.fault == RESTARTED) as met:
        began = time.monotonic()
        strike = Strike(stage, cell, met, database_lost=database_lost)
        first = await strike.during(ask, until_in_flight)
        await _ends(stage, cell, strike, callers, first, lost, began)


async def _ends(
    stage: Stage, cell: Cell, strike: Strike, callers: Callers, first: Answer, lost: LostCount, began: float
) -> None:
    """Let the rest happen, and judge it."""
    if cell.fault in OUTLASTS_CALLERS:
        pause = PAST_LEASE if cell.fault == PAUSED_PAST_LEASE else GONE_FOR_GOOD
        while (left := began + pause + SHORTLY_SECONDS - time.monotonic()) > 0:
            # No longer than the pause: a caller who waits beyond it would see the takeover.
            await callers.ask(stage.steady, patience=max(left, SHORTLY_SECONDS))
            await asyncio.sleep(SHORTLY_SECONDS)
    if cell.fault in {PAUSED_LONG, RECONNECTED}:
        await callers.until_settled([stage.steady])
    if cell.fault == RECONNECTED:
        await stage.import_(callers.user)
        await callers.until_settled([stage.steady])
    brokers = await strike.survivors()
    if cell.fault not in IS_MORTAL:
        await asyncio.sleep(AWAKE_SECONDS)
    last = await callers.until_settled(brokers)
    found = Outcome.AGAIN if cell.fault == RECONNECTED and last.works else outcome_of(first, last)
    assert found is cell.expected.outcome, callers.answers
    callers.must_be_honest()
    if cell.fault != RECONNECTED:
        lost_it = found is Outcome.LOST
        await redeemed_once_over_each_token(stage, callers.user, lost=lost_it, reused=_is_reused(cell))
        assert await lost.is_right(found, stage.steady, brokers[1:])
    await no_secret_is_left_in_escrow(brokers)
