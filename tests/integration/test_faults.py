"""Every fault of the provider, met by every kind of token request: the documented problem, and nothing lost by it.

All tests share one world, and each has users of its own; time goes on from one to the next.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import get_args

import httpx
import pytest
import pytest_asyncio

from sandbox.faults import FAULTS
from sandbox.switches import FaultName
from service.core.model import GrantId
from tests.support.brokers import Broker
from tests.support.browser import browser_of, connect, invite
from tests.support.world import World, world_in

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIFE = 3600
SLOW = {"delay", "drip"}
DEADLINE_SECONDS = "0.5"
"""Only for brokers that meet slow answers, for this is the machine's own time."""

UNAVAILABLE = (503, "upstream_unavailable")
UNREADABLE = (502, "invalid_upstream_answer")
REJECTED = (502, "client_rejected")
DEAD = (409, "reauthorization_required")
EXPIRED = (410, "authorization_expired")


@dataclass(frozen=True)
class Expected:
    """What callers and browsers are told: status and code."""

    refresh: tuple[int, str]
    company: tuple[int, str]
    exchange: tuple[int, str]


def _everywhere(problem: tuple[int, str]) -> Expected:
    return Expected(problem, problem, problem)


EXPECTED: dict[FaultName, Expected] = {
    "delay": _everywhere(UNAVAILABLE),
    "drip": _everywhere(UNREADABLE),
    "drop_before": _everywhere(UNAVAILABLE),
    "drop_after": _everywhere(UNAVAILABLE),
    "rate_limited": _everywhere(UNAVAILABLE),
    "rate_limited_retry_after": _everywhere(UNAVAILABLE),
    "server_error": _everywhere(UNAVAILABLE),
    "server_error_after": _everywhere(UNAVAILABLE),
    "invalid_client": _everywhere(REJECTED),
    "invalid_grant": Expected(DEAD, UNREADABLE, EXPIRED),
    "refused_without_code": _everywhere(UNREADABLE),
    "html": _everywhere(UNREADABLE),
    "truncated": _everywhere(UNREADABLE),
    "unreadable": _everywhere(UNREADABLE),
    "empty": _everywhere(UNREADABLE),
    "huge": _everywhere(UNREADABLE),
    "redirect": _everywhere(UNREADABLE),
}


@dataclass(frozen=True)
class Scene:
    """The shared world with its two brokers, one of which has no patience."""

    world: World
    patient: Broker
    impatient: Broker

    async def begin(self) -> None:
        """Let whatever was before be over."""
        await self.world.versature.switch(fault="none", rotation="strict")
        self.world.clock.advance(LIFE)

    async def breaks(self, fault: FaultName, **switches: object) -> Broker:
        """Let the next token request meet *fault*, and only that one; returns the broker to ask."""
        await self.world.versature.switch(fault=fault, fault_times=1, delay_seconds=60, **switches)
        return self.impatient if fault in SLOW else self.patient

    async def import_(self, user: str, *, expires_in: int | None = None) -> str:
        """Make *user* known to the brokers, with a token of that life or none; returns it."""
        [minted] = await self.world.versature.mint(user)
        access = {} if expires_in is None else {"access_token": minted["access_token"], "expires_in": expires_in}
        taken = await self.patient.client.put(
            f"/grants/{user}", json={"refresh_token": minted["refresh_token"], **access}
        )
        assert taken.status_code == 201, taken.text
        return str(minted["access_token"])

    async def token_requests(self) -> int:
        return len(await self.world.versature.calls(endpoint="token"))

    async def after_retry(self, broker: Broker, problem: httpx.Response, user: str) -> httpx.Response:
        """What a token request for *user* gets as soon as *problem* allows another try."""
        self.world.clock.advance(int(problem.headers["Retry-After"]))
        return await broker.client.get(f"/tokens/{user}")

    async def works(self, answer: httpx.Response, user: str) -> bool:
        assert answer.status_code == 200, answer.text
        return await self.world.versature.whose(answer.json()["access_token"]) == user


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    async with (
        world_in(tmp_path_factory.mktemp("faults")) as world,
        world.broker() as patient,
        world.broker(BROKER_UPSTREAM_DEADLINE_SECONDS=DEADLINE_SECONDS) as impatient,
    ):
        yield Scene(world, patient, impatient)


def _is(answer: httpx.Response, problem: tuple[int, str]) -> bool:
    return (answer.status_code, answer.json()["code"]) == problem


async def test_every_fault_of_the_sandbox_is_expected_here() -> None:
    assert set(EXPECTED) == set(get_args(FaultName)) - {"none"}


@pytest.mark.parametrize("fault", [name for name in EXPECTED if name != "invalid_grant"])
async def test_a_refresh_that_meets_a_fault_is_the_documented_problem_and_only_a_spent_token_is_lost(
    scene: Scene, fault: FaultName
) -> None:
    await scene.begin()
    user = f"{fault}-expired"
    await scene.import_(user)
    broker = await scene.breaks(fault)
    answer = await broker.client.get(f"/tokens/{user}")
    assert _is(answer, EXPECTED[fault].refresh), answer.text
    asked = await scene.token_requests()
    again = await broker.client.get(f"/tokens/{user}")
    assert again.status_code in {502, 503}
    assert await scene.token_requests() == asked, "failure is cheap: the provider is left alone"
    assert (await broker.client.get(f"/grants/{user}")).json()["state"] == "connected"
    last = await scene.after_retry(broker, again, user)
    if FAULTS[fault].acts:
        assert _is(last, DEAD), last.text
        assert last.json()["reason"] == "lost_in_transit"
    else:
        assert await scene.works(last, user)


@pytest.mark.parametrize("fault", [name for name in EXPECTED if name != "invalid_grant"])
async def test_a_valid_token_is_handed_out_although_its_renewal_meets_a_fault_and_the_next_renewal_works(
    scene: Scene, fault: FaultName
) -> None:
    await scene.begin()
    user = f"{fault}-due"
    old = await scene.import_(user, expires_in=LIFE)
    scene.world.clock.advance(0.85 * LIFE)
    broker = await scene.breaks(fault, rotation="off")
    for _ in range(2):
        answer = await broker.client.get(f"/tokens/{user}")
        assert await scene.works(answer, user)
        assert answer.json()["access_token"] == old
        assert answer.headers["Cache-Status"].endswith("detail=renewal_failing")
    scene.world.clock.advance(0.15 * LIFE)
    assert await scene.works(await broker.client.get(f"/tokens/{user}"), user)


async def test_a_refused_refresh_token_is_dead_without_further_calls_until_it_is_revived(scene: Scene) -> None:
    await scene.begin()
    await scene.import_("refused")
    broker = await scene.breaks("invalid_grant")
    asked = await scene.token_requests()
    for _ in range(3):
        answer = await broker.client.get("/tokens/refused")
        assert _is(answer, DEAD), answer.text
        assert answer.json()["reason"] == "revoked"
        assert answer.json()["connect"]["method"] == "POST"
    assert await scene.token_requests() == asked + 1
    async with scene.world.container() as container:
        await container.services.grants.revive(GrantId("default", "refused"))
    assert await scene.works(await broker.client.get("/tokens/refused"), "refused")


@pytest.mark.parametrize("fault", EXPECTED)
async def test_client_credentials_that_meet_a_fault_are_the_documented_problem_and_work_afterwards(
    scene: Scene, fault: FaultName
) -> None:
    await scene.begin()
    broker = await scene.breaks(fault)
    answer = await broker.client.get("/tokens/@company")
    assert _is(answer, EXPECTED[fault].company), answer.text
    asked = await scene.token_requests()
    again = await broker.client.get("/tokens/@company")
    assert _is(again, EXPECTED[fault].company), again.text
    assert await scene.token_requests() == asked, "failure is cheap: the provider is left alone"
    assert await scene.works(await scene.after_retry(broker, again, "@company"), "@company")


@pytest.mark.parametrize("fault", EXPECTED)
async def test_a_code_exchange_that_meets_a_fault_harms_no_grant_and_its_link_works_again(
    scene: Scene, fault: FaultName
) -> None:
    await scene.begin()
    await connect(scene.patient, "alice")
    before = (await scene.patient.client.get("/grants/alice")).json()
    broker = await scene.breaks(fault)
    link = await invite(broker, "alice")
    async with browser_of(broker) as browser:
        failed = await browser.walk(link, "alice")
        status, code = EXPECTED[fault].exchange
        assert failed.status_code == status
        assert code in failed.text
        assert (await broker.client.get("/grants/alice")).json() == before
        assert await scene.works(await broker.client.get("/tokens/alice"), "alice")
        assert (await browser.walk(link, "alice")).status_code == 303
    assert (await broker.client.get("/grants/alice")).json()["generation"] == before["generation"] + 1
    assert await scene.works(await broker.client.get("/tokens/alice"), "alice")


async def test_a_rate_limit_is_passed_on_as_long_as_the_provider_wants(scene: Scene) -> None:
    await scene.begin()
    broker = await scene.breaks("rate_limited_retry_after", retry_after_seconds=77)
    asked = await scene.token_requests()
    assert (await broker.client.get("/tokens/@company")).headers["Retry-After"] == "77"
    scene.world.clock.advance(76)
    assert (await broker.client.get("/tokens/@company")).status_code == 503
    assert await scene.token_requests() == asked + 1
