"""Real processes: a sandbox, and brokers that share nothing but one SQLite file."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from tests.support.brokers import Broker, broker_process, client_of, environment, furnish, settings_from
from tests.support.versatures import Versature, versature_process

SECONDS_OF_ASKING = 60
SECONDS_BETWEEN = 0.3
LIFE = 5
MOST_REDEMPTIONS = 18
"""A life of 5 s is renewed after 3.5 s to 4 s: at most 17 times in 60 s, and once to begin with."""

CALLERS = 300


@contextlib.asynccontextmanager
async def _two_brokers(folder: Path, versature: Versature, **overrides: str) -> AsyncIterator[list[Broker]]:
    environments = [environment(folder, versature.base_url, **overrides) for _ in range(2)]
    await furnish(settings_from(environments[0]))
    async with contextlib.AsyncExitStack() as stack:
        starting = [stack.enter_async_context(broker_process(variables)) for variables in environments]
        yield await asyncio.gather(*starting)


async def _import(versature: Versature, broker: Broker, *users: str, expires_in: int | None = None) -> None:
    """Make *users* known to the broker, with access tokens of that life or none at all."""
    for minted in await versature.mint(*users):
        access = {} if expires_in is None else {"access_token": minted["access_token"], "expires_in": expires_in}
        tokens = {"refresh_token": minted["refresh_token"], **access}
        taken = await broker.client.put(f"/grants/{minted['user']}", json=tokens)
        assert taken.status_code == 201, taken.text


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.02)


async def _until_redeemed(versature: Versature, user: str) -> None:
    """Wait until the sandbox has acted on a refresh token of *user*, whose answer may still be held back."""

    async def redeemed() -> bool:
        return bool(await versature.redemptions(user))

    await _until(redeemed)


async def _until_saved(broker: Broker, user: str) -> None:
    """Wait until the answer of *user*'s first renewal is in the database."""

    async def saved() -> bool:
        generation: int = (await broker.client.get(f"/grants/{user}")).json()["generation"]
        return generation == 2

    await _until(saved)


async def _holds_a_working_token_after_one_redemption(versature: Versature, broker: Broker, user: str) -> bool:
    answer = await broker.client.get(f"/tokens/{user}")
    assert answer.status_code == 200, answer.text
    assert len(await versature.redemptions(user)) == 1
    return await versature.whose(answer.json()["access_token"]) == user


@pytest.mark.crash
async def test_only_working_tokens_for_a_minute_from_two_brokers_though_each_renewal_ends_the_token_before(
    tmp_path: Path,
) -> None:
    async with (
        versature_process(token_lifetime_seconds=LIFE, rotation="strict", refresh_ends_access=True) as versature,
        _two_brokers(tmp_path, versature) as brokers,
    ):
        await _import(versature, brokers[0], "alice")
        seen, time = set[str](), asyncio.get_running_loop().time
        began = time()
        for number in range(round(SECONDS_OF_ASKING / SECONDS_BETWEEN)):
            await asyncio.sleep(began + number * SECONDS_BETWEEN - time())
            answer = await brokers[number % 2].client.get("/tokens/alice")
            assert answer.status_code == 200, answer.text
            assert await versature.whose(answer.json()["access_token"]) == "alice"
            seen.add(answer.json()["access_token"])
        redemptions = await versature.redemptions()
        assert {call["outcome"] for call in redemptions} == {"issued"}
        assert len({call["refresh_token_digest"] for call in redemptions}) == len(redemptions) == len(seen)
        assert 60 / LIFE < len(redemptions) <= MOST_REDEMPTIONS


async def test_300_callers_of_two_brokers_on_one_expired_token_cost_one_upstream_call_and_get_equal_answers(
    tmp_path: Path,
) -> None:
    async with (
        versature_process(rotation="strict") as versature,
        _two_brokers(tmp_path, versature) as brokers,
        contextlib.AsyncExitStack() as stack,
    ):
        await _import(versature, brokers[0], "alice", expires_in=1)
        await asyncio.sleep(1)
        await versature.switch(fault="delay", delay_seconds=0.5)
        callers = [
            await stack.enter_async_context(client_of(brokers[number % 2].base_url)) for number in range(CALLERS)
        ]
        answers = await asyncio.gather(*(caller.get("/tokens/alice") for caller in callers))
        assert {answer.status_code for answer in answers} == {200}
        assert len({(answer.json()["access_token"], answer.json()["expires_at"]) for answer in answers}) == 1
        assert await versature.whose(answers[0].json()["access_token"]) == "alice"
        assert len(await versature.redemptions()) == 1


async def test_a_renewal_is_saved_though_its_caller_hangs_up(tmp_path: Path) -> None:
    async with versature_process(rotation="strict", fault="delay", delay_seconds=1) as versature:
        variables = environment(tmp_path, versature.base_url)
        await furnish(settings_from(variables))
        async with broker_process(variables) as broker:
            await _import(versature, broker, "alice")
            async with client_of(broker.base_url) as caller:
                asking = asyncio.create_task(caller.get("/tokens/alice"))
                await _until_redeemed(versature, "alice")
                asking.cancel()
            await _until_saved(broker, "alice")
            assert await _holds_a_working_token_after_one_redemption(versature, broker, "alice")


@pytest.mark.crash
async def test_sigterm_waits_for_a_renewal_that_nobody_waits_for_any_more_and_its_answer_is_saved(
    tmp_path: Path,
) -> None:
    async with versature_process(rotation="strict", fault="delay", delay_seconds=1.5) as versature:
        variables = environment(tmp_path, versature.base_url, BROKER_WAIT_SECONDS=0.2)
        await furnish(settings_from(variables))
        async with broker_process(variables) as broker:
            await _import(versature, broker, "alice")
            sent_away = await broker.client.get("/tokens/alice")
            assert (sent_away.status_code, sent_away.json()["code"]) == (503, "renewal_in_progress")
            await _until_redeemed(versature, "alice")
            assert broker.process is not None
            broker.process.terminate()
            assert await broker.process.wait() == 0
        async with broker_process(variables) as broker:
            assert await _holds_a_working_token_after_one_redemption(versature, broker, "alice")


@pytest.mark.crash
async def test_after_a_kill_in_the_middle_of_redemptions_unrotated_grants_work_and_rotated_ones_are_lost_in_transit(
    tmp_path: Path,
) -> None:
    deadline, lease, takeover = 1, 2, 1
    async with versature_process(fault="delay", delay_seconds=60) as versature:
        variables = environment(
            tmp_path,
            versature.base_url,
            BROKER_UPSTREAM_DEADLINE_SECONDS=deadline,
            BROKER_LEASE_SECONDS=lease,
            BROKER_TAKEOVER_SECONDS=takeover,
        )
        await furnish(settings_from(variables))
        async with broker_process(variables) as broker:
            await _import(versature, broker, "unrotated", "rotated")
            asking = []
            for user, rotation in (("unrotated", "off"), ("rotated", "strict")):
                await versature.switch(rotation=rotation)
                asking.append(asyncio.create_task(broker.client.get(f"/tokens/{user}")))
                await _until_redeemed(versature, user)
            assert broker.process is not None
            broker.process.kill()
            await broker.process.wait()
            for answer in await asyncio.gather(*asking, return_exceptions=True):
                assert isinstance(answer, httpx.TransportError)
        await versature.switch(fault="none")
        async with broker_process(variables) as broker:
            unrotated, rotated = await asyncio.gather(
                _ask_until_settled(broker, "unrotated"), _ask_until_settled(broker, "rotated")
            )
            assert unrotated.status_code == 200, unrotated.text
            assert await versature.whose(unrotated.json()["access_token"]) == "unrotated"
            assert (rotated.status_code, rotated.json()["code"]) == (409, "reauthorization_required")
            assert rotated.json()["reason"] == "lost_in_transit"
        for user in ("unrotated", "rotated"):
            first, second = await versature.redemptions(user)
            # A request leaves within lease - deadline of its claim, and the next claim comes after lease + takeover.
            assert second["at"] - first["at"] > deadline + takeover


async def _ask_until_settled(broker: Broker, user: str) -> httpx.Response:
    """The first answer to *user*'s token request that is not "not yet"."""
    async with asyncio.timeout(30):
        while True:
            answer = await broker.client.get(f"/tokens/{user}")
            if answer.status_code != 503:
                return answer
            assert answer.json()["code"] in {"renewal_in_progress", "upstream_unavailable"}
            await asyncio.sleep(int(answer.headers["Retry-After"]))
