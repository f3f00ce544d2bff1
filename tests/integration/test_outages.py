"""Redis and PostgreSQL lost, hung, full and back, under load."""

import asyncio
import contextlib
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from redis import Redis

from tests.support.brokers import broker_process
from tests.support.fleet import Fleet, running_fleet
from tests.support.ports import free_port
from tests.support.servers import Server, postgres_server, redis_server

pytestmark = pytest.mark.crash

USERS = [f"user{number}" for number in range(20)]


@dataclass
class Load:
    """Everybody's token asked for again and again, from every broker."""

    fleet: Fleet
    answers: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    async def ask(self, user: str, turn: int) -> None:
        broker = self.fleet.brokers[turn % len(self.fleet.brokers)]
        answer = await broker.client.get(f"/tokens/{user}")
        self.answers[answer.status_code] += 1
        if answer.status_code != 200:
            self.failures.append(answer.text)

    async def rounds(self, count: int) -> None:
        """Ask for everybody *count* times, a little apart."""
        for turn in range(count):
            await asyncio.gather(*(self.ask(user, turn) for user in USERS))
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def loaded_fleet(
    folder: Path, postgres: Server, redis: Server, life: float = 3600, **overrides: str | int | float
) -> AsyncIterator[tuple[Fleet, Load]]:
    """Two brokers that have handed out everybody's token once."""
    switches = (f"token_lifetime_seconds={life}", "rotation=strict")
    async with running_fleet(folder, 2, postgres, redis, *switches, **overrides) as fleet:
        await fleet.import_users(USERS)
        load = Load(fleet)
        await load.rounds(2)
        yield fleet, load


async def redemptions(fleet: Fleet) -> int:
    return len(await fleet.sandbox.calls(endpoint="token", grant_type="refresh_token"))


def flush(server: Server) -> Callable[[], None]:
    client = Redis.from_url(server.url)
    client.flushall()
    return client.close


def kill(server: Server) -> Callable[[], None]:
    server.kill()
    return server.start


def hang(server: Server) -> Callable[[], None]:
    server.pause()
    return server.go_on


def fill(server: Server) -> Callable[[], None]:
    client = Redis.from_url(server.url)
    client.config_set("maxmemory", "1")
    client.config_set("maxmemory-policy", "noeviction")

    def undo() -> None:
        client.config_set("maxmemory", "0")

    return undo


def make_read_only(server: Server) -> Callable[[], None]:
    client = Redis.from_url(server.url)
    client.replicaof("127.0.0.1", "1")

    def undo() -> None:
        client.replicaof("NO", "ONE")

    return undo


async def test_redis_in_trouble_costs_no_answer_and_no_redemption(tmp_path: Path, postgres: Server) -> None:
    with redis_server() as redis:
        async with loaded_fleet(tmp_path, postgres, redis, BROKER_LOCAL_CACHE_SECONDS=0) as (fleet, load):
            before = await redemptions(fleet)
            for trouble in (flush, kill, hang, fill, make_read_only):
                undo = trouble(redis)
                try:
                    await load.rounds(20)
                finally:
                    undo()
                await load.rounds(10)
                assert load.failures == [], trouble.__name__
                assert await redemptions(fleet) == before, trouble.__name__


async def test_a_grant_renewed_while_redis_hangs_is_redeemed_once(tmp_path: Path, postgres: Server) -> None:
    with redis_server() as redis:
        async with loaded_fleet(tmp_path, postgres, redis, life=4) as (fleet, load):
            redis.pause()
            await load.rounds(80)
            redis.go_on()
            await load.rounds(20)
            assert load.failures == []
            calls = await fleet.sandbox.calls(endpoint="token", grant_type="refresh_token")
            assert {call["outcome"] for call in calls} == {"issued"}
            assert max(Counter(call["refresh_token_digest"] for call in calls).values()) == 1


def exhaust(server: Server) -> Callable[[], None]:
    """Take every connection that the server has, the brokers' own included."""
    taken: list[psycopg.Connection[tuple[object, ...]]] = []
    first = psycopg.connect(server.url.replace("+psycopg", ""), autocommit=True)
    first.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    with contextlib.suppress(psycopg.OperationalError):
        while True:
            taken.append(psycopg.connect(server.url.replace("+psycopg", "")))
    taken.append(first)

    def undo() -> None:
        for connection in taken:
            connection.close()

    return undo


async def test_the_database_in_trouble_leaves_cached_users_served_and_heals_by_itself(
    tmp_path: Path, redis: Server
) -> None:
    with postgres_server() as postgres:
        async with loaded_fleet(tmp_path, postgres, redis) as (fleet, load):
            before = await redemptions(fleet)
            for trouble in (kill, hang, exhaust):
                undo = trouble(postgres)
                try:
                    await load.rounds(60)
                    await strangers_are_told_to_come_back(fleet)
                    ready = [await broker.client.get("/readyz") for broker in fleet.brokers]
                finally:
                    undo()
                assert load.failures == [], trouble.__name__
                states = {(answer.status_code, answer.json()["status"]) for answer in ready}
                assert states == {(200, "degraded")}, trouble.__name__
                await until_ready(fleet)
                await load.rounds(10)
                assert load.failures == [], trouble.__name__
                assert await redemptions(fleet) == before, trouble.__name__
                assert (await fleet.brokers[1].client.get("/tokens/stranger")).status_code == 404


async def strangers_are_told_to_come_back(fleet: Fleet) -> None:
    for broker in fleet.brokers:
        answer = await broker.client.get(f"/tokens/stranger{secrets.token_hex(4)}")
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
        assert int(answer.headers["Retry-After"]) >= 1


async def until_ready(fleet: Fleet) -> None:
    for broker in fleet.brokers:
        for _ in range(200):
            if (await broker.client.get("/readyz")).json()["status"] == "ready":
                break
            await asyncio.sleep(0.1)
        else:
            raise AssertionError("the broker did not heal")


async def test_a_cold_replica_without_a_database_says_503_until_it_has_read_its_callers(
    tmp_path: Path, redis: Server
) -> None:
    with postgres_server() as postgres:
        async with running_fleet(tmp_path, 1, postgres, redis) as fleet:
            postgres.kill()
            async with broker_process({**fleet.variables, "BROKER_PORT": str(free_port())}) as cold:
                answer = await cold.client.get("/tokens/alice")
                assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
                assert (await cold.client.get("/readyz")).status_code == 503
                postgres.start()
                await until_ready(Fleet([cold], fleet.sandbox, fleet.variables))
                assert (await cold.client.get("/tokens/alice")).status_code == 404
