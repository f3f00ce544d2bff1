"""How a connect ends, whatever befell it: shared by the cells of processes, resources and the provider."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import httpx

from service.core.redeeming.steps import Step
from tests.crash.callers import Callers
from tests.crash.matrix import Cell, Outcome
from tests.crash.person import Page, Person
from tests.crash.stage import Stage, until_ready
from tests.crash.verdicts import no_secret_is_left_in_escrow
from tests.support.brokers import Broker

NOT_YET = frozenset({"grant_not_found"})
AT_ONCE_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Trip:
    """One connect in one cell."""

    stage: Stage
    person: Person
    callers: Callers
    began: int

    async def ends_as(self, cell: Cell, first: Page, survivors: Callable[[], Awaitable[Sequence[Broker]]]) -> None:
        """Let the rest happen, and judge it."""
        found = await self._outcome(first, healing=cell.expected.outcome is Outcome.HEALED, survivors=survivors)
        assert found is cell.expected.outcome or _was_let_go_early(cell, first), (
            self.person.pages,
            self.callers.answers,
        )
        self.person.must_have_been_told_what_to_do()
        self.callers.must_be_honest()
        await self._no_code_was_sent_twice()

    async def _outcome(
        self, first: Page, *, healing: bool, survivors: Callable[[], Awaitable[Sequence[Broker]]]
    ) -> Outcome:
        found = Outcome.SERVED
        if not first.is_done:
            await until_ready(self.stage.steady)
            early = await survivors() if healing else [self.stage.steady]
            found = Outcome.HEALED if await self._is_connected(early, wait=healing) else Outcome.AGAIN
            if found is Outcome.AGAIN:
                assert (await self.person.try_again()).is_done
                await self.callers.until_settled([self.stage.steady])
            brokers = early if healing else await survivors()
        else:
            brokers = await survivors()
        await asyncio.sleep(AT_ONCE_SECONDS)
        last = await self.callers.until_settled(brokers)
        assert last.works
        await no_secret_is_left_in_escrow(brokers)
        return found

    async def _is_connected(self, brokers: Sequence[Broker], *, wait: bool) -> bool:
        if wait:
            return (await self.callers.until_settled(brokers)).works
        await asyncio.sleep(AT_ONCE_SECONDS)
        answer = await self.callers.ask(self.stage.steady)
        return answer is not None and answer.works

    async def _no_code_was_sent_twice(self) -> None:
        sent = [
            call["outcome"]
            for call in await self.stage.versature.calls(grant_type="authorization_code")
            if call["seq"] > self.began
        ]
        assert set(sent) <= {"issued", "not_acted"}, sent


def _was_let_go_early(cell: Cell, first: Page) -> bool:
    """A commit slower than `save_patience` lets the browser go, its answer safe in escrow, before these steps."""
    return cell.moment in {Step.CONNECTED, Step.COMPLETED} and first.is_done


@contextlib.asynccontextmanager
async def trip_on(stage: Stage, *, also: frozenset[str] = frozenset()) -> AsyncIterator[Trip]:
    """A person who has just agreed at the provider, and the callers who will want the token."""
    await stage.quiet()
    user = stage.new_user()
    calls = await stage.versature.calls()
    began = int(calls[-1]["seq"]) if calls else 0
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        person = await Person.logged_in(stage, user, http)
        yield Trip(stage, person, Callers(stage, user, also=NOT_YET | also), began)
