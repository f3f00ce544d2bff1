"""Where drills take place: a provider whose clock can be set, real servers, brokers as processes, and a terminal."""

import asyncio
import contextlib
import gc
import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import httpx
from redis import Redis

from service.core.clock import SystemClock
from tests.drills.watch import Phase, Watch
from tests.integration.terminal import Terminal
from tests.support.brokers import Broker, broker_here, broker_process, environment, settings_from
from tests.support.browser import connect
from tests.support.fleet import prepare
from tests.support.ports import free_port
from tests.support.servers import Server, new_database
from tests.support.versatures import Versature, versature_here

ADMIN_KEY = "vtb_drill_admin"
PATIENCE_SECONDS = 30
QUICK: dict[str, str | float] = {
    "BROKER_UPSTREAM_DEADLINE_SECONDS": 1,
    "BROKER_LEASE_SECONDS": 2,
    "BROKER_TAKEOVER_SECONDS": 0,
    "BROKER_WAIT_SECONDS": 1,
    "BROKER_BACKOFF_INITIAL_SECONDS": 0.2,
    "BROKER_BACKOFF_MAX_SECONDS": 0.5,
    "BROKER_DRAIN_SECONDS": 1,
    "BROKER_ADMIN_KEY": ADMIN_KEY,
}


class SetClock(SystemClock):
    """The machine's clock, or one that is wrong by *ahead*."""

    def __init__(self, ahead: timedelta = timedelta(0)) -> None:
        self.ahead = ahead

    def now(self) -> datetime:
        return super().now() + self.ahead

    def timestamp(self) -> float:
        return super().timestamp() + self.ahead.total_seconds()


@dataclass(slots=True)
class Replica:
    """A broker that comes and goes, always at the same address."""

    broker: Broker
    _stack: contextlib.AsyncExitStack = field(repr=False)

    @property
    def client(self) -> httpx.AsyncClient:
        return self.broker.client

    async def token(self, user: str) -> int:
        """Ask for *user*'s token; returns the status."""
        return (await self.client.get(f"/tokens/{user}")).status_code

    async def metrics(self) -> str | None:
        """As a scraper gets them, from a broker that a load balancer asks for its readiness."""
        try:
            await self.client.get("/readyz")
            return (await self.client.get("/metrics")).raise_for_status().text
        except (httpx.HTTPError, RuntimeError):  # it is down, or its client was closed with it
            return None

    async def shows(self, series: str, judge: Callable[[float], bool]) -> None:
        """Return once the sum of all *series*, a pattern, is as *judge* wants it."""
        await until(lambda: self.is_seen(series, judge), f"{series} did not move")

    async def is_seen(self, series: str, judge: Callable[[float], bool]) -> bool:
        """Whether the sum of all *series*, a pattern, is as *judge* wants it."""
        found = re.findall(rf"^{series} (\S+)$", await self.metrics() or "", re.MULTILINE)
        return judge(sum(map(float, found)))

    async def is_part(self, part: str, state: str) -> None:
        """Return once the *part* of readiness shows as *state*."""
        await self.shows(f'token_broker_part_state{{part="{part}",state="{state}"}}', lambda value: value == 1)

    async def stop(self) -> None:
        await self._stack.aclose()


@dataclass(frozen=True, slots=True)
class Scene:
    """One drill's own world."""

    folder: Path
    watch: Watch
    versature: Versature
    provider_clock: SetClock
    postgres: Server
    redis: Server
    variables: dict[str, str]
    _stack: contextlib.AsyncExitStack

    @property
    def terminal(self) -> Terminal:
        """Where the operator types, with the brokers' settings."""
        return Terminal(self.folder, self.variables)

    def set(self, **settings: str | float) -> None:
        """Change what brokers are started with from now on."""
        self.variables.update({name: str(value) for name, value in settings.items()})

    def on_postgresql(self) -> None:
        """Use a new database of PostgreSQL instead of SQLite's file."""
        self.set(BROKER_DATABASE_URL=new_database(self.postgres, f"d{secrets.token_hex(6)}"))

    def with_redis(self) -> None:
        with Redis.from_url(self.redis.url) as client:
            client.flushall()
        self.set(BROKER_REDIS_URL=self.redis.url)

    async def prepare(self) -> None:
        await prepare(self.variables)

    async def start(self, **overrides: str | float) -> Replica:
        """A broker as a process of its own."""
        variables = {**self.variables, **{name: str(value) for name, value in overrides.items()}}
        return await self._run(broker_process(variables))

    async def start_here(self, clock: SetClock) -> Replica:
        """A broker in this process, whose clock is *clock*."""
        return await self._run(broker_here(settings_from(self.variables), clock=clock, works_alone=True))

    async def _run(self, running: contextlib.AbstractAsyncContextManager[Broker]) -> Replica:
        stack = await self._stack.enter_async_context(contextlib.AsyncExitStack())
        return Replica(await stack.enter_async_context(running), stack)

    async def import_(self, replica: Replica, *users: str, expires_in: int | None = None) -> None:
        """Give *users* grants that the provider has just minted, with access tokens if they are to have a life."""
        for minted in await self.versature.mint(*users):
            body: dict[str, object] = {"refresh_token": minted["refresh_token"]}
            if expires_in is not None:
                body |= {"access_token": minted["access_token"], "expires_in": expires_in}
            answer = await replica.client.put(f"/grants/{minted['user']}", json=body)
            assert answer.status_code in {200, 201}, answer.text

    async def reconnect(self, replica: Replica, user: str) -> None:
        """Let the person behind *user* log in again."""
        assert (await connect(replica.broker, user, "alice")).status_code == 303

    async def doctor_says(self, part: str) -> str:
        """What the doctor has to say of *part*: `ok: …`, or what to do."""
        ended = await self.terminal.run("doctor", "--json")
        [found] = [check for check in json.loads(ended.out)["checks"] if check["name"] == part]
        return f"ok: {found['detail']}" if found["ok"] else str(found["detail"])

    async def calm(self, *replicas: Replica) -> None:
        await self.watch.scrape(Phase.CALM, *replicas)

    async def trouble(self, *replicas: Replica) -> None:
        await self.watch.scrape(Phase.TROUBLE, *replicas)

    async def healed(self, *replicas: Replica) -> None:
        await self.watch.scrape(Phase.HEALED, *replicas)


async def until(happened: Callable[[], Awaitable[bool]], otherwise: str) -> None:
    """Return once it has *happened*."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not await happened():
        assert time.monotonic() < end, otherwise
        await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def scene_in(folder: Path, alerts: tuple[str, ...], postgres: Server, redis: Server) -> AsyncIterator[Scene]:
    """A scene for a drill of *alerts*, with SQLite and without Redis unless the drill wants them."""
    clock, port = SetClock(), free_port()
    async with (
        versature_here(clock, [f"http://127.0.0.1:{port}/oauth/callback"]) as versature,
        contextlib.AsyncExitStack() as stack,
    ):
        variables = environment(folder, versature.base_url, BROKER_PORT=port, **QUICK)
        yield Scene(folder, Watch(alerts), versature, clock, postgres, redis, variables, stack)
    gc.collect()  # connections to a database that was killed, of brokers in this process: while warnings are ignored
