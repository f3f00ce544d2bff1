"""Several broker processes on PostgreSQL and Redis, and a sandbox process for them to talk to."""

import asyncio
import contextlib
import secrets
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from redis import Redis

from service.adapters.sql_database import Database
from service.adapters.sql_migrations import migrate
from service.core.clock import SystemClock
from tests.support.brokers import Broker, broker_process, environment, furnish, settings_from
from tests.support.ports import free_port
from tests.support.servers import Server, new_database


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The sandbox as a process, with its control API."""

    base_url: str
    client: httpx.AsyncClient

    async def switch(self, **switches: object) -> None:
        (await self.client.patch("/sandbox/switches", json=switches)).raise_for_status()

    async def calls(self, **which: str) -> list[dict[str, Any]]:
        answer = await self.client.get("/sandbox/calls", params=which)
        return list(answer.raise_for_status().json()["items"])

    async def until_asked_to_refresh(self) -> None:
        """Return once a refresh token has arrived."""
        for _ in range(1000):
            if await self.calls(endpoint="token", grant_type="refresh_token"):
                return
            await asyncio.sleep(0.02)
        raise AssertionError("nobody asked the sandbox")

    async def mint(self, users: Sequence[str]) -> dict[str, str]:
        """A new refresh token for each of *users*."""
        answer = await self.client.post("/sandbox/grants", json={"users": list(users)})
        return {item["user"]: item["refresh_token"] for item in answer.raise_for_status().json()["items"]}


@contextlib.asynccontextmanager
async def sandbox_process(*switches: str) -> AsyncIterator[Sandbox]:
    port = free_port()
    options = [part for switch in switches for part in ("--switch", switch)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sandbox", "--port", str(port), *options, stdout=asyncio.subprocess.DEVNULL
    )
    base_url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(base_url=base_url, timeout=30, trust_env=False) as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get("/sandbox/switches")).is_success:
                        break
                await asyncio.sleep(0.05)
            yield Sandbox(base_url, client)
    finally:
        process.terminate()
        await process.wait()


@dataclass(frozen=True, slots=True)
class Fleet:
    """Brokers that share a database and a Redis."""

    brokers: Sequence[Broker]
    sandbox: Sandbox
    variables: dict[str, str]

    async def import_users(self, users: Sequence[str]) -> None:
        """Give every user a grant that the sandbox has just minted."""
        for user, token in (await self.sandbox.mint(users)).items():
            answer = await self.brokers[0].client.put(f"/grants/{user}", json={"refresh_token": token})
            assert answer.status_code == 201, answer.text


@contextlib.asynccontextmanager
async def running_fleet(
    folder: Path, count: int, postgres: Server, redis: Server | None, *switches: str, **overrides: str | int | float
) -> AsyncIterator[Fleet]:
    """*count* brokers on a database of their own, started together."""
    async with sandbox_process(*switches) as sandbox, contextlib.AsyncExitStack() as stack:
        shared: dict[str, str | int | float] = {
            "BROKER_DATABASE_URL": new_database(postgres, f"t{secrets.token_hex(6)}"),
            **({"BROKER_REDIS_URL": redis.url} if redis else {}),
            **overrides,
        }
        if redis:
            Redis.from_url(redis.url).flushall()
        variables = environment(folder, sandbox.base_url, **shared)
        await prepare(variables)
        brokers = [
            await stack.enter_async_context(broker_process({**variables, "BROKER_PORT": str(free_port())}))
            for _ in range(count)
        ]
        yield Fleet(brokers, sandbox, variables)


async def prepare(variables: dict[str, str]) -> None:
    """Migrate the database, as an operator would before the first start, and store the caller."""
    settings = settings_from(variables)
    database = Database(settings.broker_database_url.get_secret_value(), pool_size=1, clock=SystemClock())
    await migrate(database)
    await database.close()
    await furnish(settings)
