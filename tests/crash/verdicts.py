"""What must be true at the end of a cell, whatever happened in it."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tests.crash.callers import Answer
from tests.crash.matrix import Outcome
from tests.crash.stage import Stage, metric
from tests.support.brokers import Broker

ESCROW_SECONDS = 10
_LOST = "token_broker_lost_grants_total"


def outcome_of(first: Answer, last: Answer) -> Outcome:
    """What came of it for the caller whose *first* answer this was."""
    if last.status == 409:
        return Outcome.LOST
    assert last.works, "a token that does not work is all there is"
    return Outcome.SERVED if first.status == 200 and first.works else Outcome.HEALED


async def no_secret_is_left_in_escrow(brokers: Sequence[Broker]) -> None:
    """Every replica knows of no answer that waits, within a few rounds of its looking."""
    async with asyncio.timeout(ESCROW_SECONDS):
        for broker in brokers:
            while await metric(broker, "token_broker_escrow_entries"):  # noqa: ASYNC110 - a metric has no events
                await asyncio.sleep(0.1)


async def redeemed_once_over_each_token(stage: Stage, user: str, *, lost: bool, reused: bool = False) -> None:
    """Nobody sent a refresh token that had been acted on; one last try is what tells a lost grant."""
    by_token: dict[str, list[str]] = defaultdict(list)
    for call in await stage.versature.redemptions(user):
        by_token[call["refresh_token_digest"]].append(call["outcome"])
    tries = [[outcome for outcome in outcomes if outcome != "not_acted"] for outcomes in by_token.values()]
    allowed = [["issued", "invalid_grant"]] if lost else [["issued"]]
    assert tries in ([allowed, [*allowed, ["invalid_grant"]]] if reused else [allowed]), tries


@dataclass(frozen=True, slots=True)
class LostCount:
    """How many losses the replicas have counted since it began."""

    before: float

    @classmethod
    async def beginning(cls, steady: Broker) -> "LostCount":
        return cls(await metric(steady, _LOST))

    async def is_right(self, found: Outcome, steady: Broker, others: Sequence[Broker]) -> bool:
        """Whether a loss was counted, and nothing else."""
        counted = await metric(steady, _LOST) - self.before + sum([await metric(other, _LOST) for other in others])
        return (counted > 0) == (found is Outcome.LOST)
