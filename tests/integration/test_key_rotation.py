"""Key rotation beside brokers that serve: real processes on SQLite and on PostgreSQL."""

import asyncio
import base64
import contextlib
import json
import os
import random
import secrets
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import insert, select, update

from service.adapters.keyring import AesKeyring
from service.adapters.sql_database import Database
from service.adapters.sql_grant_rows import token_values
from service.adapters.sql_sealed import SqlSealedRows
from service.adapters.tables import grants, to_micros
from service.container import build
from service.core.model import AccessToken, GrantId, GrantState
from service.core.sealing.inventory import Stock
from service.core.sealing.resealing import Kind, Resealed
from service.core.sealing.rotation import Pace, Rotation
from service.lifecycle import Container
from service.telemetry import Metrics
from tests.support.brokers import Broker, broker_process, environment, settings_from
from tests.support.fleet import prepare
from tests.support.servers import Server, new_database
from tests.support.versatures import Versature, versature_process

pytestmark = pytest.mark.crash  # kills a rotation half-way, and takes its time

OLD = "old:" + base64.b64encode(b"o" * 32).decode()
NEW = "new:" + base64.b64encode(b"n" * 32).decode()
GRANTS = int(os.environ.get("ROTATED_GRANTS", "2000"))
REQUESTS_PER_SECOND = 200
RENEWING_SECONDS = float(os.environ.get("RENEWING_SECONDS", "8"))

Minted = Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Ground:
    """A database with the old key, and the sandbox that issued what is in it."""

    versature: Versature
    variables: dict[str, str]

    def having(self, *keys: str) -> dict[str, str]:
        return {**self.variables, "BROKER_ENCRYPTION_KEYS": ",".join(keys)}

    @contextlib.asynccontextmanager
    async def container(self, *keys: str) -> AsyncIterator[Container]:
        container = build(settings_from(self.having(*keys)), Metrics(), works_alone=False)
        try:
            await container.start()
            yield container
        finally:
            await container.close()

    async def fill(self, count: int) -> Minted:
        """*count* grants with tokens that live for an hour, all at once: logging them in one by one would take long."""
        minted = await self.versature.mint(*(f"user{number:05}" for number in range(count)))
        at = datetime.now(UTC).replace(microsecond=0)
        async with self.container(OLD) as container:
            application = container.services.directory.application("default")
            rows = []
            for one in minted:
                grant = GrantId("default", one["user"])
                access = AccessToken(
                    one["access_token"], None, at, at + timedelta(hours=1), at + timedelta(minutes=48), 1
                )
                tokens = container.core.vault.seal(
                    grant, application, access=access, refresh_token=one["refresh_token"], scope=None, at=at
                )
                row: dict[str, object] = {
                    "application": grant.application,
                    "user": grant.user,
                    "state": GrantState.CONNECTED,
                }
                row |= {"generation": 1, "failures": 0, "spent_digests": "", "imported_digests": ""}
                row |= {"obtained_at": to_micros(at), "renewed_at": to_micros(at)}
                rows.append(row | token_values(tokens))
            for start in range(0, count, 500):
                async with container.database.write() as connection:
                    await connection.execute(insert(grants), rows[start : start + 500])
        return minted

    async def generations(self) -> Counter[int]:
        async with self.container(NEW, OLD) as container, container.database.read() as connection:
            return Counter((await connection.execute(select(grants.c.generation))).scalars())

    async def forgive(self) -> None:
        """Let every grant be renewed by force once more."""
        async with self.container(NEW, OLD) as container, container.database.write() as connection:
            await connection.execute(update(grants).values(forced_until=None, forced_interval=None))

    async def under(self, key_id: str) -> int:
        async with self.container(NEW, OLD) as container:
            return (await container.rotation.status()).count(key_id)

    async def start_rotation(self, *options: str) -> asyncio.subprocess.Process:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("BROKER_", "VERSATURE_"))}
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service", "keys", "rotate", *options),
            env={**kept, **self.having(NEW, OLD)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def rotate(self, *options: str) -> Counter[str]:
        """How many secrets of each kind one command sealed anew; it must end well."""
        process = await self.start_rotation(*options)
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode() + out.decode()
        lines = [line.split(": ") for line in out.decode().splitlines() if line.startswith("sealed anew: ")]
        return Counter({kind: int(count) for _, kind, count in lines})


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'broker.db'}"
    return new_database(request.getfixturevalue("postgres"), f"t{secrets.token_hex(6)}")


@pytest.fixture
async def ground(tmp_path: Path, database_url: str) -> AsyncIterator[Ground]:
    async with versature_process(rotation="strict") as versature:
        variables = environment(
            tmp_path, versature.base_url, BROKER_DATABASE_URL=database_url, BROKER_ENCRYPTION_KEYS=OLD
        )
        await prepare(variables)
        yield Ground(versature, variables)


class Traffic:
    """Requests at a steady rate for as long as something else lasts."""

    def __init__(self, broker: Broker, users: Sequence[str]) -> None:
        self._broker, self._users = broker, users
        self.answers: Counter[int] = Counter()
        self.slowest = 0.0

    async def during(self, work: Awaitable[Counter[str]]) -> Counter[str]:
        task = asyncio.ensure_future(work)
        began_at, asked = time.monotonic(), list[asyncio.Task[None]]()
        while not task.done():
            asked.append(asyncio.create_task(self._ask(random.choice(self._users))))
            await asyncio.sleep(max(0.0, began_at + len(asked) / REQUESTS_PER_SECOND - time.monotonic()))
        await asyncio.gather(*asked)
        return await task

    async def _ask(self, user: str) -> None:
        began_at = time.monotonic()
        answer = await self._broker.client.get(f"/tokens/{user}")
        self.answers[answer.status_code] += 1
        self.slowest = max(self.slowest, time.monotonic() - began_at)


async def renewed(broker: Broker, user: str, application: str = "default") -> str:
    """The token that comes after the present one is reported as rejected."""
    which = {"application": application}
    token = (await broker.client.get(f"/tokens/{user}", params=which)).json()["access_token"]
    answer = await broker.client.post(f"/tokens/{user}/rejected", params=which, json={"access_token": token})
    assert answer.status_code == 200, answer.text
    assert answer.json()["access_token"] != token
    return str(answer.json()["access_token"])


async def test_a_rotation_beside_traffic_fails_no_request_and_leaves_nothing_under_the_old_key(ground: Ground) -> None:
    minted = await ground.fill(GRANTS)
    tokens = {one["user"]: one["access_token"] for one in minted}
    async with broker_process(ground.having(NEW, OLD)) as broker:
        assert (await broker.client.get("/tokens/@company")).status_code == 200
        traffic, began_at = Traffic(broker, list(tokens)), time.monotonic()
        done = await traffic.during(ground.rotate())
        seconds = time.monotonic() - began_at
        sys.stderr.write(f"\n{done} in {seconds:.1f} s; {traffic.answers}; slowest {traffic.slowest:.3f} s\n")
        assert set(traffic.answers) == {200}, traffic.answers
        # A crowded machine does not let the test itself ask as often as it would.
        assert traffic.answers.total() > REQUESTS_PER_SECOND * seconds * 0.1
        # @company's own access token was fetched by a broker that has the new key first.
        assert done == {"refresh token": GRANTS, "access token": GRANTS, "client secret": 1}
        await renewed(broker, "@company", "company")
    assert await ground.under("old") == 0
    # The company's grant was fetched and renewed; nothing but renewals moves a generation.
    assert await ground.generations() == {1: GRANTS, 2: 1}
    await ground.forgive()
    async with broker_process(ground.having(NEW)) as broker:
        for user in random.sample(sorted(tokens), 50):
            answer = await broker.client.get(f"/tokens/{user}")
            assert (answer.status_code, answer.json()["access_token"]) == (200, tokens[user])
        assert await ground.versature.whose(await renewed(broker, "user00000")) == "user00000"
        await renewed(broker, "@company", "company")
        assert (await broker.client.get("/readyz")).json()["parts"]["keys"]["status"] == "ok"


async def test_a_rotation_that_was_killed_half_way_is_finished_by_the_next(ground: Ground) -> None:
    await ground.fill(400)
    killed = await ground.start_rotation("--batch", "10", "--per-second", "200")
    await _until(lambda: _at_least(ground, 100))
    killed.kill()
    await killed.communicate()
    left = await ground.under("old")
    assert 0 < left < 801
    # A batch that was committed while the process died counts as done.
    assert (await ground.rotate("--per-second", "10000")).total() == left
    assert (await ground.under("old"), await ground.generations()) == (0, {1: 400})


async def test_two_rotations_at_once_share_the_work(ground: Ground) -> None:
    await ground.fill(400)
    both = await asyncio.gather(*(ground.rotate("--batch", "20", "--per-second", "1000") for _ in range(2)))
    assert both[0] + both[1] == {"refresh token": 400, "access token": 400, "client secret": 1}
    assert (await ground.under("old"), await ground.generations()) == (0, {1: 400})


class _Over(Exception):
    """The time for sealing anew is over."""


class _Slow(SqlSealedRows):
    """Takes its time between reading and writing, so that renewals come between; until it is over."""

    def __init__(self, database: Database, ends_at: float) -> None:
        super().__init__(database)
        self._ends_at = ends_at
        self.written = self.missed = 0

    async def replace(self, kind: Kind, changes: Sequence[Resealed]) -> int:
        if time.monotonic() > self._ends_at:
            raise _Over
        await asyncio.sleep(0.2)
        written = await super().replace(kind, changes)
        self.written += written
        self.missed += len(changes) - written
        return written


async def _seal_to_and_fro(ground: Ground, ends_at: float, *keys: str) -> _Slow:
    """What was sealed anew under the first of *keys* until then, and what somebody else had changed by then."""
    keyring = AesKeyring(settings_from(ground.having(*keys)).broker_encryption_keys)
    async with ground.container(*keys) as container:
        rows = _Slow(container.database, ends_at)
        stock = Stock(rows, {}, keyring, container.core.vault)
        rotation = Rotation(
            rows, keyring, stock, container.services.audit, container.clock, container.core.recovery.replay
        )
        with contextlib.suppress(_Over):
            while time.monotonic() < ends_at:  # the other may have been the last to change anything
                assert not (await rotation.run(Pace(per_second=100_000))).stuck
        return rows


async def test_rotations_to_and_fro_lose_no_refresh_token_that_is_renewed_meanwhile(ground: Ground) -> None:
    await ground.versature.switch(token_lifetime_seconds=1)
    users = [one["user"] for one in await ground.fill(20)]
    async with broker_process(ground.having(NEW, OLD)) as broker:
        for user in users:
            await renewed(broker, user)
        await ground.forgive()
        ends_at, answers = time.monotonic() + RENEWING_SECONDS, Counter[int]()

        async def ask(user: str) -> None:
            while time.monotonic() < ends_at:
                answers[(await broker.client.get(f"/tokens/{user}")).status_code] += 1
                await asyncio.sleep(random.uniform(0.01, 0.1))

        (to, fro), _ = await asyncio.gather(
            asyncio.gather(_seal_to_and_fro(ground, ends_at, NEW, OLD), _seal_to_and_fro(ground, ends_at, OLD, NEW)),
            asyncio.gather(*(ask(user) for user in users)),
        )
        # Two rotations at once on one file may keep a renewal waiting for longer than a token of a second lives.
        assert set(answers) <= {200, 503}, answers
        assert answers[200] > 0.9 * sum(answers.values()), answers
        for user in users:
            assert await ground.versature.whose(await renewed(broker, user)) == user
    redemptions = await ground.versature.redemptions()
    assert {call["outcome"] for call in redemptions} == {"issued"}
    assert len({call["refresh_token_digest"] for call in redemptions}) == len(redemptions)
    assert to.written + fro.written > len(users), "hardly anything was sealed anew"
    assert to.missed + fro.missed > len(users), "hardly any renewal came between"


async def test_tokens_in_redis_under_the_key_that_went_are_misses_and_nobody_suffers(
    tmp_path: Path, postgres: Server, redis: Server
) -> None:
    Redis.from_url(redis.url).flushall()
    url = new_database(postgres, f"t{secrets.token_hex(6)}")
    async with versature_process(rotation="strict") as versature:
        variables = environment(
            tmp_path,
            versature.base_url,
            BROKER_DATABASE_URL=url,
            BROKER_REDIS_URL=redis.url,
            BROKER_ENCRYPTION_KEYS=OLD,
            BROKER_LOCAL_CACHE_SECONDS="0",
        )
        await prepare(variables)
        ground = Ground(versature, variables)
        (minted,) = await ground.fill(1)
        async with ground.container(OLD) as container:
            row = await container.services.grants.get(GrantId("default", minted["user"]))
            token = container.core.vault.open_access(row) if row is not None else None
            assert row is not None
            assert token is not None
            cached, application = Redis.from_url(redis.url), container.services.directory.application("default")
            while not any(cached.hget(key, "v") for key in cached.keys("token-broker:token:*")):
                await container.core.broker.get(application, row.id)  # again: Redis may have been too slow for it
        await ground.rotate()
        async with broker_process(ground.having(NEW)) as broker:
            for _ in range(2):
                answer = await broker.client.get("/tokens/user00000")
                assert (answer.status_code, answer.json()["access_token"]) == (200, token.value)
                assert "detail=database" in answer.headers["Cache-Status"]
            ready = (await broker.client.get("/readyz")).json()
            assert (ready["status"], ready["parts"]["keys"]["status"]) == ("ready", "ok"), json.dumps(ready)
            assert await versature.whose(await renewed(broker, "user00000")) == "user00000"


async def _at_least(ground: Ground, count: int) -> bool:
    return await ground.under("new") >= count


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await condition():  # noqa: ASYNC110 - another process is being waited for
            await asyncio.sleep(0.02)
