"""A process that is asked to end: whatever it has sent, it waits for; what it could not wait for, it does not send."""

import asyncio
import contextlib
import signal
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.brokers import KEY, Broker, broker_process, environment, furnish, settings_from
from tests.support.versatures import Versature, versature_process

pytestmark = pytest.mark.crash

DRAIN, DEADLINE = 4, 2
ANSWER_SECONDS = 1.5
USERS = 60


@pytest.fixture
async def versature() -> AsyncIterator[Versature]:
    async with versature_process(rotation="strict") as running:
        yield running


async def test_grants_that_fall_due_while_a_process_ends_are_not_lost(tmp_path: Path, versature: Versature) -> None:
    variables = environment(
        tmp_path,
        versature.base_url,
        BROKER_DRAIN_SECONDS=DRAIN,
        BROKER_UPSTREAM_DEADLINE_SECONDS=DEADLINE,
        BROKER_LEASE_SECONDS=2 * DEADLINE,
    )
    await furnish(settings_from(variables))
    async with broker_process(variables) as broker:
        await _connect(broker, versature)
        await versature.switch(fault="delay", delay_seconds=ANSWER_SECONDS)
        async with _unfinished_request(broker):
            await asyncio.sleep(1)
            broker.send(signal.SIGTERM)
            assert broker.process is not None
            await broker.process.wait()
    assert await versature.redemptions(), "nothing was under way"
    assert _unfinished(tmp_path) == []


async def _connect(broker: Broker, versature: Versature) -> None:
    """Users whose tokens fall due one after the other, all of them asked for."""
    for place, minted in enumerate(await versature.mint(*(f"user{number}" for number in range(USERS)))):
        kept = {name: minted[name] for name in ("access_token", "refresh_token")}
        user, life = minted["user"], 4 + place / 6
        (await broker.client.put(f"/grants/{user}", json={**kept, "expires_in": round(life)})).raise_for_status()
        (await broker.client.get(f"/tokens/{user}")).raise_for_status()


@contextlib.asynccontextmanager
async def _unfinished_request(broker: Broker) -> AsyncIterator[None]:
    """One whose body never comes: the server waits for it as long as it may."""
    host, port = broker.base_url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /tokens/user0/rejected HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {KEY}\r\n"
    writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
    await writer.drain()
    try:
        yield
    finally:
        writer.close()


def _unfinished(folder: Path) -> list[str]:
    """Whose refresh token may be spent without an answer in the row."""
    with contextlib.closing(sqlite3.connect(folder / "broker.db")) as connection:
        return [row[0] for row in connection.execute("SELECT user FROM grants WHERE attempt_id IS NOT NULL")]
