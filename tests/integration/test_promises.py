"""What BROKER_LOCAL_CACHE_SECONDS and the lease promise, with real processes."""

import asyncio
from pathlib import Path

import httpx
import pytest

from service.container import build
from service.core.model import Caller, Scope
from service.telemetry import Metrics
from tests.support.brokers import KEY, broker_process, settings_from
from tests.support.fleet import Fleet, running_fleet
from tests.support.ports import free_port
from tests.support.servers import Server

PROMISE = 1.0
PATIENCE_SECONDS = 30


async def status(client: httpx.AsyncClient, path: str = "/tokens/alice") -> int:
    return (await client.get(path)).status_code


async def everywhere(fleet: Fleet, wanted: int) -> None:
    """Every broker answers *wanted* from the promised moment on."""
    await asyncio.sleep(PROMISE)
    assert [await status(broker.client) for broker in fleet.brokers] == [wanted] * len(fleet.brokers)


async def test_a_revoked_grant_is_refused_by_every_replica_though_redis_still_holds_it(
    tmp_path: Path, postgres: Server, redis: Server
) -> None:
    async with running_fleet(tmp_path, 2, postgres, redis, BROKER_LOCAL_CACHE_SECONDS=PROMISE) as fleet:
        await fleet.import_users(["alice"])
        unreachable = {**fleet.variables, "BROKER_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}
        async with broker_process({**unreachable, "BROKER_PORT": str(free_port())}) as without_redis:
            whole = Fleet([*fleet.brokers, without_redis], fleet.sandbox, fleet.variables)
            assert [await status(broker.client) for broker in whole.brokers] == [200, 200, 200]
            assert (await without_redis.client.delete("/grants/alice")).status_code == 200
            assert await status(without_redis.client) == 409
            await everywhere(whole, 409)


@pytest.mark.crash
async def test_a_narrowed_permission_and_a_removed_caller_are_refused_by_every_replica(
    tmp_path: Path, postgres: Server, redis: Server
) -> None:
    async with running_fleet(tmp_path, 2, postgres, redis, BROKER_LOCAL_CACHE_SECONDS=PROMISE) as fleet:
        await fleet.import_users(["alice"])
        await everywhere(fleet, 200)
        container = build(settings_from(fleet.variables), Metrics(), works_alone=False)
        try:
            await container.services.administration.remove_caller("crm")
            await container.services.administration.add_caller(
                Caller("crm", frozenset({Scope.TOKENS}), ("bob",), ("*",)), KEY
            )
            await everywhere(fleet, 403)
            await container.services.administration.remove_caller("crm")
            await everywhere(fleet, 401)
        finally:
            await container.close()


@pytest.mark.crash
@pytest.mark.parametrize("rotation", ["off", "on", "strict"])
async def test_a_process_stopped_past_its_lease_loses_no_token(
    tmp_path: Path, postgres: Server, redis: Server, rotation: str
) -> None:
    """Nobody takes over before the takeover time, so the late answer wins."""
    short = {"BROKER_UPSTREAM_DEADLINE_SECONDS": 2, "BROKER_LEASE_SECONDS": 4, "BROKER_TAKEOVER_SECONDS": 60}
    switches = (f"rotation={rotation}", "fault=delay", "delay_seconds=0.5")
    async with running_fleet(tmp_path, 2, postgres, redis, *switches, **short) as fleet:
        await fleet.import_users(["alice"])
        first, second = fleet.brokers
        asking = asyncio.create_task(first.client.get("/tokens/alice"))
        await fleet.sandbox.until_asked_to_refresh()
        first.pause()
        waiting = asyncio.create_task(second.client.get("/tokens/alice"))
        await asyncio.sleep(4.5)
        assert not waiting.done()
        first.go_on()
        answers = [await asking, await waiting]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert len({answer.json()["access_token"] for answer in answers}) == 1
        assert len(await fleet.sandbox.calls(endpoint="token", grant_type="refresh_token")) == 1


@pytest.mark.crash
async def test_a_process_stopped_past_the_takeover_adopts_the_newer_answer(
    tmp_path: Path, postgres: Server, redis: Server
) -> None:
    short = {"BROKER_UPSTREAM_DEADLINE_SECONDS": 2, "BROKER_LEASE_SECONDS": 4, "BROKER_TAKEOVER_SECONDS": 0}
    switches = ("rotation=off", "fault=delay", "delay_seconds=0.5", "fault_times=1")
    async with running_fleet(tmp_path, 2, postgres, redis, *switches, **short) as fleet:
        await fleet.import_users(["alice"])
        first, second = fleet.brokers
        asking = asyncio.create_task(first.client.get("/tokens/alice"))
        await fleet.sandbox.until_asked_to_refresh()
        first.pause()
        taken_over = await second.client.get("/tokens/alice")
        assert taken_over.status_code == 200, taken_over.text
        first.go_on()
        late = await asking
        assert late.status_code == 200, late.text
        # Where the database takes longer than 100 ms to say who won, its own answer, which works too, is handed out.
        async with asyncio.timeout(PATIENCE_SECONDS):
            while late.json()["access_token"] != taken_over.json()["access_token"]:
                await asyncio.sleep(0.05)
                late = await first.client.get("/tokens/alice")
        grant = (await second.client.get("/grants/alice")).json()
        assert (grant["state"], grant["generation"]) == ("connected", 2)
