"""Callers of one user's token: every answer they get is judged at once."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx

from tests.crash.stage import Stage
from tests.support.brokers import Broker

PAUSE_SECONDS = 0.15
SETTLED_SECONDS = 15
PATIENCE_SECONDS = 10

NOT_NOW = frozenset({"renewal_in_progress", "upstream_unavailable", "store_unavailable"})


@dataclass(frozen=True, slots=True)
class Answer:
    """What a caller was told; `works` is what the provider says of the token at that moment."""

    status: int
    code: str | None = None
    reason: str | None = None
    token: str | None = field(default=None, repr=False)
    works: bool = False
    failing: bool = False


@dataclass(slots=True)
class Callers:
    """Ask for *user*'s token, report one that does not work, and keep every answer.

    *also* are problems that this user may meet besides `NOT_NOW`; only who `may_be_reused` may get a token that does
    not work, and then only until it is reported.
    """

    stage: Stage
    user: str
    may_be_lost: bool = False
    may_be_reused: bool = False
    also: frozenset[str] = frozenset()
    answers: list[Answer] = field(default_factory=list)

    async def ask(self, broker: Broker, *, patience: float = PATIENCE_SECONDS) -> Answer | None:
        """One answer, or None when the broker broke off or did not answer within *patience*."""
        try:
            async with asyncio.timeout(patience):
                answer = await self._judged(await broker.client.get(f"/tokens/{self.user}"))
                if answer.token is not None and not answer.works:
                    report = {"access_token": answer.token}
                    answer = await self._judged(await broker.client.post(f"/tokens/{self.user}/rejected", json=report))
                return answer
        except (TimeoutError, httpx.TransportError):
            return None

    async def until_settled(self, brokers: Sequence[Broker]) -> Answer:
        """Ask all *brokers* until they agree on a working token, or on that the user must connect again."""
        try:
            async with asyncio.timeout(SETTLED_SECONDS):
                while True:
                    round_ = [await self.ask(broker) for broker in brokers]
                    first = round_[0]
                    if first is not None and first.status in {200, 409} and len({*round_}) == 1:
                        return first
                    await asyncio.sleep(PAUSE_SECONDS)
        except TimeoutError:
            raise AssertionError(f"the replicas did not agree: {self.answers[-6:]}") from None

    async def _judged(self, response: httpx.Response) -> Answer:
        body = response.json()
        if response.status_code == 200:
            token = body["access_token"]
            works = await self.stage.versature.whose(token) is not None
            failing = response.headers["Cache-Status"].endswith("detail=renewal_failing")
            answer = Answer(200, token=token, works=works, failing=failing)
        else:
            answer = Answer(response.status_code, body["code"], body.get("reason"))
        if response.status_code == 503:
            assert int(response.headers["Retry-After"]) >= 1
        self.answers.append(answer)
        return answer

    def must_be_honest(self) -> None:
        """No answer was a token that does not work, nor an error that is not known."""
        for answer in self.answers:
            match answer.status:
                case 200:
                    fine = answer.works or answer.failing or self.may_be_reused
                    assert fine, "a token that does not work was handed out"
                case 409:
                    assert self.may_be_lost, answer
                    assert answer.reason == "lost_in_transit"
                case _:
                    assert answer.code in NOT_NOW | self.also, answer
