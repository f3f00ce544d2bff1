"""An upgrade under traffic, as docs/deployment.md tells it: nobody is told anything but a token."""

import asyncio
import contextlib
import random
import secrets
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.support.brokers import Broker, broker_process, client_of, environment
from tests.support.expansion import migrate_from, next_version
from tests.support.fleet import Sandbox, prepare, sandbox_process
from tests.support.programs import needs_nginx
from tests.support.proxy import Proxy, proxy_before
from tests.support.servers import Server, new_database

SERVICES, USERS_OF_EACH, REQUESTS_FOR_EACH = 30, 20, 10
HOSTS = ("127.0.0.2", "127.0.0.3")
PAUSE_SECONDS = 2.0
PATIENCE_SECONDS = 100
Answers = Counter[str]


@needs_nginx
@pytest.mark.crash
async def test_an_upgrade_by_one_migration_under_traffic_fails_no_request(
    tmp_path: Path, postgres: Server, redis: Server
) -> None:
    async with sandbox_process("rotation=strict") as sandbox:
        url = new_database(postgres, f"t{secrets.token_hex(6)}")
        variables = environment(tmp_path, sandbox.base_url, BROKER_DATABASE_URL=url, BROKER_REDIS_URL=redis.url)
        await prepare(variables)
        answers: Answers = Counter()
        async with contextlib.AsyncExitStack() as life, asyncio.timeout(PATIENCE_SECONDS):
            starting = [life.enter_async_context(broker_process(_at(host, variables))) for host in HOSTS]
            olds = await asyncio.gather(*starting)
            port = int(variables["BROKER_PORT"])
            proxy = await life.enter_async_context(proxy_before(tmp_path, {"broker": HOSTS}, port))
            over = asyncio.Event()
            traffic = asyncio.gather(*(_serve(number, proxy, sandbox, answers, over) for number in range(SERVICES)))
            await asyncio.sleep(PAUSE_SECONDS)
            newer = next_version(tmp_path / "next", ["applications", "grants"])
            await migrate_from(newer, variables)
            for host, old in zip(HOSTS, olds, strict=True):
                await _ended(old)
                new = await life.enter_async_context(broker_process(_at(host, variables), tree=newer))
                while not (await new.client.get("/readyz")).is_success:  # noqa: ASYNC110 - there is only HTTP to tell
                    await asyncio.sleep(0.05)
            await asyncio.sleep(PAUSE_SECONDS)
            over.set()
            await traffic
        assert set(answers) == {"served"}, answers
        refreshes = await sandbox.calls(endpoint="token", grant_type="refresh_token")
        assert {call["outcome"] for call in refreshes} == {"issued"}
        assert max(Counter(call["refresh_token_digest"] for call in refreshes).values()) == 1
        assert len(refreshes) > 2 * SERVICES, "next to nothing was renewed meanwhile"


def _at(host: str, variables: dict[str, str]) -> dict[str, str]:
    return {**variables, "BROKER_HOST": host}


async def _ended(broker: Broker) -> None:
    """Asked to end as by any service manager."""
    assert broker.process is not None
    broker.process.terminate()
    await broker.process.wait()


async def _serve(number: int, proxy: Proxy, sandbox: Sandbox, answers: Answers, over: asyncio.Event) -> None:
    """One service: brings in one user after the other, whose first token has to be renewed, and asks for tokens."""
    minted = await sandbox.mint([f"user{number}-{place}" for place in range(USERS_OF_EACH)])
    async with client_of(proxy.internal_url) as client:
        for user, refresh_token in minted.items():
            imported = client.build_request("PUT", f"/grants/{user}", json={"refresh_token": refresh_token})
            asking = client.build_request("GET", f"/tokens/{user}")
            for request in (imported, *REQUESTS_FOR_EACH * [asking]):
                if not over.is_set():
                    await _send(client, request, answers)
                    await asyncio.sleep(random.uniform(0.02, 0.2))


async def _send(client: httpx.AsyncClient, request: httpx.Request, answers: Answers) -> None:
    try:
        answer = await client.send(request)
    except httpx.TransportError as failure:
        answers[type(failure).__name__] += 1
    else:
        answers["served" if answer.is_success else answer.text] += 1
