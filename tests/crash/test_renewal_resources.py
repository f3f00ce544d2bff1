"""A renewal that loses the database or Redis at every step, or its provider's answer."""

import asyncio

import pytest

from service.core.redeeming.steps import Step
from tests.crash import matrix
from tests.crash.callers import Answer, Callers
from tests.crash.matrix import DATABASE_KILLED, NO_DATABASE, REFRESH, REFRESH_ALONE, UNFINISHED, Cell, Outcome
from tests.crash.resource_faults import Fault, Witness
from tests.crash.stage import Stage, here
from tests.crash.verdicts import LostCount, no_secret_is_left_in_escrow, outcome_of, redeemed_once_over_each_token
from tests.support.brokers import Broker

pytestmark = [pytest.mark.crash, pytest.mark.asyncio(loop_scope="session")]

UNREADABLE = "invalid_upstream_answer"


@pytest.mark.parametrize("cell", matrix.RENEWAL_RESOURCES.cells(), ids=str)
async def test_a_renewal_survives_its_servers(stage: Stage, cell: Cell) -> None:
    await stage.quiet()
    user, witness, fault = stage.new_user(), Witness(), Fault(stage, cell.fault)
    await stage.import_(user)
    faults = [fault]
    moment = Step.CLAIMED if cell.moment == UNFINISHED else Step(cell.moment.removeprefix(NO_DATABASE))
    witness.at(moment, fault.begin)
    if cell.moment.startswith(NO_DATABASE):
        faults.append(Fault(stage, DATABASE_KILLED))
        witness.at(Step.ANSWERED, faults[-1].begin)
    if cell.moment in {UNFINISHED, Step.LOOKED_INTO_ESCROW}:
        await stage.leave_unfinished(user)
    async with here(stage, witness) as broker:
        await _ask_and_judge(stage, cell, Callers(stage, user), broker, faults)


@pytest.mark.parametrize(
    "cell", [cell for cell in matrix.PROVIDER.cells() if cell.fault in {REFRESH, REFRESH_ALONE}], ids=str
)
async def test_a_renewal_survives_its_provider(stage: Stage, cell: Cell) -> None:
    await stage.quiet()
    user, witness, faults = stage.new_user(), Witness(), []
    await stage.import_(user)
    if cell.fault == REFRESH_ALONE:
        faults.append(Fault(stage, DATABASE_KILLED))
        witness.at(Step.OPENED, faults[0].begin)
    await stage.versature.switch(fault=cell.moment, fault_times=1, fault_users=[user])
    callers = Callers(
        stage,
        user,
        may_be_lost=cell.expected.outcome is Outcome.LOST,
        also=frozenset({UNREADABLE} if cell.moment == "unreadable" else ()),
    )
    async with here(stage, witness) as broker:
        await _ask_and_judge(stage, cell, callers, broker, faults)


async def _ask_and_judge(stage: Stage, cell: Cell, callers: Callers, broker: Broker, faults: list[Fault]) -> None:
    """Let a caller meet the faults, see them over, and judge what everybody was told."""
    lost = await LostCount.beginning(stage.steady)
    first, *_ = await asyncio.gather(callers.ask(broker), *(fault.end() for fault in faults))
    assert isinstance(first, Answer)
    last = await callers.until_settled([stage.steady, broker])
    found = outcome_of(first, last)
    assert found is cell.expected.outcome, callers.answers
    callers.must_be_honest()
    await redeemed_once_over_each_token(stage, callers.user, lost=found is Outcome.LOST)
    assert await lost.is_right(found, stage.steady, [broker])
    await no_secret_is_left_in_escrow([stage.steady, broker])
