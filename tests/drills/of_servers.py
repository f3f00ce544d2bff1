"""Drills of processes, the database and Redis."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial

import httpx
import psycopg
from redis import Redis

from tests.drills.drill import drill
from tests.drills.scene import ADMIN_KEY, Replica, Scene, SetClock, until
from tests.support.servers import Server

CALLERS, USERS = 102, 100


@contextlib.contextmanager
def killed(server: Server) -> Iterator[None]:
    server.kill()
    try:
        yield
    finally:
        server.start()


@drill("TokenBrokerDown")
async def a_broker_is_killed(scene: Scene) -> None:
    await scene.prepare()
    replica = await scene.start()
    await scene.calm(replica)
    replica.broker.send(signal.SIGKILL)
    await until(lambda: _is_gone(replica), "the broker lives on")
    await scene.trouble(replica)
    ended = await scene.terminal.bare(BROKER_PORT="a port").run("serve")
    assert (ended.code, "BROKER_PORT" in ended.err) == (2, True), "all wrong settings are named"
    await scene.healed(await scene.start())


async def _is_gone(replica: Replica) -> bool:
    return await replica.metrics() is None


@drill("TokenBrokerRedisAway")
async def redis_is_killed(scene: Scene) -> None:
    scene.with_redis()
    await scene.prepare()
    replica = await scene.start()
    await scene.import_(replica, "alice")
    assert await replica.token("alice") == 200
    await scene.calm(replica)
    with killed(scene.redis):
        await scene.import_(replica, "bob")
        assert await replica.token("bob") == 200, "what it costs is speed"
        await replica.shows("token_broker_redis_bypassed", lambda value: value == 1)
        assert "Redis cannot be asked" in await scene.doctor_says("redis")
        await scene.trouble(replica)
    await replica.shows("token_broker_redis_bypassed", lambda value: value == 0)
    await replica.is_part("redis", "ready")
    await scene.healed(replica)


@drill("TokenBrokerRedisAway")
async def redis_is_full(scene: Scene) -> None:
    scene.with_redis()
    await scene.prepare()
    replica = await scene.start()
    await scene.calm(replica)
    with Redis.from_url(scene.redis.url) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
        try:
            await replica.is_part("redis", "degraded")
            assert "takes nothing new" in await scene.doctor_says("redis")
            await scene.import_(replica, "alice")
            assert await replica.token("alice") == 200
            await scene.trouble(replica)
        finally:
            client.config_set("maxmemory", "0")
    await replica.is_part("redis", "ready")
    await scene.healed(replica)


@drill("TokenBrokerDatabaseAway")
async def the_database_is_killed(scene: Scene) -> None:
    scene.on_postgresql()
    await scene.prepare()
    replica = await scene.start()
    await scene.import_(replica, "alice")
    assert await replica.token("alice") == 200
    await scene.calm(replica)
    with killed(scene.postgres):
        await until(lambda: _answers(replica, "stranger", 503), "a stranger's token needs the database")
        assert await replica.token("alice") == 200, "cached tokens flow"
        await replica.shows("token_broker_database_bypassed", lambda value: value == 1)
        await scene.trouble(replica)
    await replica.shows("token_broker_database_bypassed", lambda value: value == 0)
    await replica.is_part("database", "ready")
    assert await replica.token("stranger") == 404
    await scene.healed(replica)


async def _answers(replica: Replica, user: str, status: int) -> bool:
    return await replica.token(user) == status


@drill("TokenBrokerEscrowWaiting", "TokenBrokerDatabaseAway", "TokenBrokerEscrowBroken")
async def an_answer_has_waited_for_ten_minutes_when_its_disk_is_lost_too(scene: Scene) -> None:
    disk, lost = scene.folder / "disk", scene.folder / "lost"
    disk.mkdir()
    scene.set(BROKER_ESCROW_DIR=str(disk / "escrow"))
    scene.on_postgresql()
    await scene.prepare()
    before = await scene.start_here(SetClock(-timedelta(minutes=10)))
    await scene.import_(before, "alice")
    await scene.calm(before)
    await scene.versature.switch(fault="delay", delay_seconds=0.5)
    asking = asyncio.create_task(before.token("alice"))
    await until(lambda: _was_asked(scene), "nobody asked the provider")
    with killed(scene.postgres):
        assert await asking == 200, "the answer is not lost, nor kept from the caller"
        await before.stop()
        after = await scene.start()
        await after.shows("token_broker_escrow_oldest_age_seconds", lambda value: value > 300)
        await after.is_part("database", "degraded")
        disk.rename(lost)
        await after.is_part("escrow", "degraded")
        await after.is_part("waiting", "degraded")
        await scene.trouble(after)
        lost.rename(disk)
    await after.shows("token_broker_escrow_entries", lambda value: value == 0)
    await after.is_part("database", "ready")
    await scene.healed(after)
    assert len(await scene.versature.redemptions("alice")) == 1
    assert (await after.client.get("/grants/alice")).json()["generation"] == 2


async def _was_asked(scene: Scene) -> bool:
    return len(await scene.versature.redemptions()) > 0


@drill("TokenBrokerEscrowBroken")
async def the_disk_of_the_escrow_is_not_there(scene: Scene) -> None:
    disk = scene.folder / "disk"
    disk.mkdir()
    scene.set(BROKER_ESCROW_DIR=str(disk / "escrow"))
    await scene.prepare()
    replica = await scene.start()
    await scene.calm(replica)
    disk.rename(scene.folder / "lost")
    await replica.is_part("escrow", "degraded")
    assert "mount or make it" in await scene.doctor_says("escrow")
    await scene.trouble(replica)
    (scene.folder / "lost").rename(disk)
    await replica.is_part("escrow", "ready")
    await scene.healed(replica)


@drill("TokenBrokerDatabaseBehind")
async def the_database_is_restored_from_a_backup(scene: Scene) -> None:
    """With the provider's tokens living for a second at first, so that what the backup holds is due."""
    scene.with_redis()
    await scene.prepare()
    database, backup = scene.folder / "broker.db", scene.folder / "backup.db"
    replica = await scene.start(BROKER_RENEW_ACTIVE_HOURS=0)
    await scene.import_(replica, "alice")
    await scene.versature.switch(token_lifetime_seconds=1)
    assert await replica.token("alice") == 200
    await scene.calm(replica)
    await replica.stop()
    backup.write_bytes(database.read_bytes())
    await scene.versature.switch(token_lifetime_seconds=3600)
    replica = await scene.start(BROKER_RENEW_ACTIVE_HOURS=0)
    await until(lambda: _answers(replica, "alice", 200), "no token")
    await asyncio.sleep(1)
    assert (await replica.client.get("/tokens/alice")).json()["expires_in"] > 1
    await replica.stop()
    database.write_bytes(backup.read_bytes())
    replica = await scene.start()
    redeemed = len(await scene.versature.redemptions("alice"))
    await replica.client.get("/tokens/alice")
    await replica.shows("token_broker_database_behind_grants", lambda value: value == 1)
    await scene.trouble(replica)
    assert len(await scene.versature.redemptions("alice")) == redeemed, "a spent refresh token is not sent again"
    scene.with_redis()  # emptied: what showed it is gone
    await until(lambda: _answers(replica, "alice", 409), "nobody is told to connect again")
    assert (await replica.client.get("/tokens/alice")).json()["reason"] == "lost_in_transit"
    await scene.versature.switch(token_lifetime_seconds=1)
    await scene.reconnect(replica, "alice")
    await until(lambda: _answers(replica, "alice", 200), "the new grant does not work")
    await replica.shows("token_broker_database_behind_grants", lambda value: value == 0)
    assert await replica.token("alice") == 200
    await scene.healed(replica)


@drill("TokenBrokerAuditBacklog")
async def the_audit_waits_for_the_database(scene: Scene) -> None:
    scene.on_postgresql()
    await scene.prepare()
    replica = await scene.start()
    users = [f"user{number}" for number in range(USERS)]
    await scene.import_(replica, *users, expires_in=3600)
    keys = [(await _add_caller(replica, f"caller{number}")) for number in range(CALLERS)]
    await asyncio.gather(*(replica.token(user) for user in users))
    for key in keys:
        await until(partial(_is_known, replica, key), "a new key is not known")
    await replica.shows("token_broker_audit_backlog_entries", lambda value: value < USERS)
    await scene.calm(replica)
    with killed(scene.postgres):
        for key in keys:
            assert await _served_in_a_row(replica, key, users) == USERS
        await replica.shows("token_broker_audit_backlog_entries", lambda value: value > 10_000)
        await scene.trouble(replica)
    await replica.shows("token_broker_audit_backlog_entries", lambda value: value < USERS)
    await scene.healed(replica)
    audit = await replica.client.get(
        "/audit?user=user7&action=token&limit=500", headers={"Authorization": f"Bearer {ADMIN_KEY}"}
    )
    callers = {entry["caller"] for entry in audit.raise_for_status().json()["items"]}
    assert callers >= {f"caller{number}" for number in range(CALLERS)}


async def _add_caller(replica: Replica, name: str) -> str:
    body = {"name": name, "scopes": ["tokens"], "users": ["*"]}
    answer = await replica.client.post("/callers", json=body, headers={"Authorization": f"Bearer {ADMIN_KEY}"})
    return str(answer.raise_for_status().json()["key"]["key"])


async def _is_known(replica: Replica, key: str) -> bool:
    return (await replica.client.get("/me", headers={"Authorization": f"Bearer {key}"})).is_success


async def _served_in_a_row(replica: Replica, key: str, users: Sequence[str]) -> int:
    """How many of *users*' tokens are handed out to *key*, asked for over one connection without waiting."""
    url = httpx.URL(replica.broker.base_url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    for user in users:
        end = "Connection: close\r\n" if user == users[-1] else ""
        head = f"GET /tokens/{user} HTTP/1.1\r\nHost: {url.host}\r\nAuthorization: Bearer {key}\r\n{end}\r\n"
        writer.write(head.encode())
    await writer.drain()
    answers = await reader.read(-1)
    writer.close()
    await writer.wait_closed()
    return answers.count(b"HTTP/1.1 200 ")


@drill("TokenBrokerSlow")
async def somebody_holds_a_lock_in_the_database(scene: Scene) -> None:
    scene.on_postgresql()
    scene.set(BROKER_LOCAL_CACHE_SECONDS=0)
    await scene.prepare()
    replica = await scene.start()
    await scene.import_(replica, "alice", expires_in=3600)
    for _ in range(3):
        assert await replica.token("alice") == 200
        await scene.calm(replica)
    url = scene.variables["BROKER_DATABASE_URL"].replace("+psycopg", "")
    async with await psycopg.AsyncConnection.connect(url) as connection:
        for _minute in range(15):
            await connection.execute("LOCK TABLE grants IN ACCESS EXCLUSIVE MODE")
            asking = asyncio.create_task(replica.token("alice"))
            await asyncio.sleep(0.3)
            await connection.rollback()
            assert await asking == 200
            await scene.trouble(replica)
    for _minute in range(15):
        assert await replica.token("alice") == 200
        await scene.healed(replica)
