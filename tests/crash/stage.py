"""What every cell plays on: real servers, a sandbox, a replica that nobody harms, and the one that meets the fault."""

import asyncio
import contextlib
import itertools
import re
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from redis import Redis

from service.container import build
from service.core.model import GrantId, GrantType
from service.core.redeeming.steps import Witness
from service.core.sealing import digests
from service.telemetry import Metrics
from tests.support.brokers import Broker, broker_here, broker_process, environment, settings_from
from tests.support.crashing import Spare, Spares
from tests.support.crashing_broker import Deed
from tests.support.fleet import prepare
from tests.support.ports import free_port
from tests.support.servers import Server, new_database
from tests.support.versatures import Versature, versature_process

PUBLIC_URL = "http://127.0.0.1:8000"
"""Of all brokers, as behind a load balancer; the sandbox knows it, and nobody needs to listen there."""

DEADLINE, LEASE, TAKEOVER, WAIT = 1.0, 2.0, 2.5, 2.0
GONE_FOR_GOOD, PAST_LEASE = LEASE + TAKEOVER, LEASE + 1.0
QUIET_SECONDS = 8
ESCROW_INDEX = "token-broker:escrow"
PARTS = ("database", "redis", "callers", "escrow", "waiting")


@dataclass(frozen=True, slots=True)
class Stage:
    """The servers of one test worker. *steady* is the replica that every caller can go to."""

    folder: Path
    postgres: Server
    redis: Server
    versature: Versature
    variables: dict[str, str]
    steady: Broker
    spares: Spares
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    @property
    def database(self) -> str:
        return self.variables["BROKER_DATABASE_URL"].rpartition("/")[2]

    def new_user(self) -> str:
        return f"user{next(self._numbers)}"

    def own_variables(self, **overrides: str | float) -> dict[str, str]:
        """The settings of one more replica, with a disk of its own."""
        escrow = self.folder / f"escrow-{secrets.token_hex(4)}"
        own = {"BROKER_PORT": free_port(), "BROKER_ESCROW_DIR": escrow, **overrides}
        return {**self.variables, **{name: str(value) for name, value in own.items()}}

    async def import_(self, user: str, *, expires_in: int | None = None) -> None:
        """Give *user* a grant that the sandbox has just minted, and an access token if it is to have a life."""
        [minted] = await self.versature.mint(user)
        body: dict[str, object] = {"refresh_token": minted["refresh_token"]}
        if expires_in is not None:
            body |= {"access_token": minted["access_token"], "expires_in": expires_in}
        answer = await self.steady.client.put(f"/grants/{user}", json=body)
        assert answer.status_code in {200, 201}, answer.text

    async def leave_unfinished(self, user: str) -> None:
        """Let *user*'s grant be claimed by a process that was never heard of again, long enough ago."""
        container = build(settings_from(self.own_variables()), Metrics(), works_alone=False)
        try:
            await container.start()
            application = container.services.directory.application_for(None, GrantType.AUTHORIZATION_CODE)
            grant = GrantId("default", user)
            claimed = await container.services.grants.claim(
                grant,
                generation=1,
                attempt_id=secrets.token_hex(16),
                fingerprint=digests.fingerprint(application),
                lease=-timedelta(hours=1),
                takeover=timedelta(0),
            )
            assert claimed is not None
        finally:
            await container.close()

    async def quiet(self) -> None:
        """Return once everything is as if nothing had ever happened."""
        await self.versature.switch(fault="none", fault_users=[], delay_seconds=0)
        await until_ready(self.steady)
        with Redis.from_url(self.redis.url) as redis:
            for _ in range(QUIET_SECONDS * 20):
                if not redis.exists(ESCROW_INDEX):
                    return
                await asyncio.sleep(0.05)
        raise AssertionError("an answer of an earlier cell still waits in Redis")


async def until_ready(broker: Broker) -> None:
    """Return once *broker* has all its servers, and its escrow is empty."""
    parts = {}
    for _ in range(QUIET_SECONDS * 20):
        parts = (await broker.client.get("/readyz")).json()["parts"]
        if all(parts[name]["status"] == "ok" for name in PARTS):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"the replica does not heal: {parts}")


async def metric(broker: Broker, name: str) -> float:
    """The sum over all label values."""
    text = (await broker.client.get("/metrics")).text
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


@contextlib.asynccontextmanager
async def stage_in(folder: Path, postgres: Server, redis: Server) -> AsyncIterator[Stage]:
    async with versature_process(rotation="strict", refresh_ends_access="true") as versature:
        Redis.from_url(redis.url).flushall()
        variables = environment(
            folder,
            versature.base_url,
            BROKER_DATABASE_URL=new_database(postgres, f"c{secrets.token_hex(6)}"),
            BROKER_REDIS_URL=redis.url,
            BROKER_PUBLIC_URL=PUBLIC_URL,
            BROKER_UPSTREAM_DEADLINE_SECONDS=DEADLINE,
            BROKER_LEASE_SECONDS=LEASE,
            BROKER_TAKEOVER_SECONDS=TAKEOVER,
            BROKER_WAIT_SECONDS=WAIT,
            BROKER_LOCAL_CACHE_SECONDS=0.5,
            BROKER_RENEW_ACTIVE_HOURS=0,
            BROKER_DRAIN_SECONDS=3,
        )
        await prepare(variables)
        async with broker_process({**variables, "BROKER_ESCROW_DIR": str(folder / "steady")}) as steady:
            spares = Spares()
            try:
                yield Stage(folder, postgres, redis, versature, variables, steady, spares)
            finally:
                await spares.end()


@dataclass(frozen=True, slots=True)
class Victim:
    """The replica that meets the fault, as a process, and the one that takes its place on the same disk."""

    broker: Broker
    variables: dict[str, str]
    heir: Spare | None

    async def restart(self) -> Broker:
        assert self.heir is not None
        return await self.heir.become(self.variables)


@contextlib.asynccontextmanager
async def victim(
    stage: Stage, deeds: Sequence[Deed], *, with_heir: bool, **overrides: str | float
) -> AsyncIterator[Victim]:
    async with contextlib.AsyncExitStack() as stack:
        spares = [await stage.spares.take() for _ in range(2 if with_heir else 1)]
        for spare in spares:
            stack.push_async_callback(spare.end)
        variables = stage.own_variables(**overrides)
        yield Victim(await spares[0].become(variables, deeds), variables, spares[1] if with_heir else None)


def here(stage: Stage, witness: Witness) -> contextlib.AbstractAsyncContextManager[Broker]:
    """The replica that meets the fault, in the test's own loop."""
    return broker_here(settings_from(stage.own_variables()), witness=witness)
