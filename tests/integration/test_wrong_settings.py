"""A wrong setting of ours is no grant's fault, however many grants meet it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import httpx
import pytest

from service.container import build
from service.core.model import GrantId
from service.telemetry import Metrics
from tests.support.brokers import Broker, broker_process, client_of, environment, furnish, settings_from
from tests.support.versatures import Versature, versature_process

USERS = [f"user-{number}" for number in range(1000)]
CALLERS = 100
RENEWALS_AT_ONCE = 50
"""How many requests of one broker may be under way before the first refusal of them arrives."""

WRONG_SECRET = {"VERSATURE_CLIENT_SECRET": "mistyped", "BROKER_BACKOFF_INITIAL_SECONDS": "120"}
WRONG_ID = {"VERSATURE_CLIENT_ID": "mistyped"}
WRONG_URL = {"VERSATURE_BASE_URL": "http://127.0.0.1:9/api"}


async def _import_all(versature: Versature, variables: Mapping[str, str]) -> None:
    settings = settings_from(variables)
    await furnish(settings)
    container = build(settings, Metrics())
    try:
        await container.start()
        application = container.services.directory.application("default")
        for minted in await versature.mint(*USERS):
            await container.services.broker.import_(
                application,
                GrantId(application.name, minted["user"]),
                refresh_token=minted["refresh_token"],
                access_token=None,
                expires_in=None,
                scope=None,
            )
    finally:
        await container.close()


@contextlib.asynccontextmanager
async def _brokers(folder: Path, versature: Versature, *overrides: Mapping[str, str]) -> AsyncIterator[list[Broker]]:
    """Processes on one database, each with settings of its own."""
    async with contextlib.AsyncExitStack() as stack:
        starting = [broker_process({**environment(folder, versature.base_url), **own}) for own in overrides]
        yield await asyncio.gather(*(stack.enter_async_context(broker) for broker in starting))


async def _ask_for_all(*brokers: Broker) -> list[httpx.Response]:
    """A token request for every user in the order of `USERS`; callers have a client each and share the brokers."""
    waiting, answers = iter(USERS), dict[str, httpx.Response]()

    async def call(broker: Broker) -> None:
        async with client_of(broker.base_url) as client:
            for user in waiting:
                answers[user] = await client.get(f"/tokens/{user}")

    await asyncio.gather(*(call(brokers[number % len(brokers)]) for number in range(CALLERS)))
    return [answers[user] for user in USERS]


async def _states(broker: Broker) -> list[tuple[str, str | None]]:
    found: list[tuple[str, str | None]] = []
    query = {"limit": "500"}
    while True:
        page = (await broker.client.get("/grants", params=query)).raise_for_status().json()
        found += [(item["state"], item["reason"]) for item in page["items"]]
        if page["next_cursor"] is None:
            return found
        query["cursor"] = page["next_cursor"]


def _problems(answers: Sequence[httpx.Response]) -> set[tuple[int, str]]:
    return {(answer.status_code, answer.json()["code"]) for answer in answers}


@pytest.mark.crash
async def test_a_wrong_secret_or_id_or_url_marks_none_of_1000_grants_and_all_work_when_it_is_right_again(
    tmp_path: Path,
) -> None:
    async with versature_process() as versature:
        await _import_all(versature, environment(tmp_path, versature.base_url))
        async with _brokers(tmp_path, versature, WRONG_SECRET, WRONG_ID, WRONG_URL) as brokers:
            for broker in brokers:
                assert _problems(await _ask_for_all(broker)) == {(502, "client_rejected")}
                assert await _states(broker) == [("connected", None)] * len(USERS)
        calls = await versature.calls(endpoint="token")
        assert {call["outcome"] for call in calls} == {"invalid_client"}
        assert {call["client_id"] for call in calls} == {environment(tmp_path, "")["VERSATURE_CLIENT_ID"]}
        assert len(calls) <= RENEWALS_AT_ONCE
        async with _brokers(tmp_path, versature, {}, {}) as brokers:
            answers = await _ask_for_all(*brokers)
            assert {answer.status_code for answer in answers} == {200}
            assert [await versature.whose(answer.json()["access_token"]) for answer in answers] == USERS
