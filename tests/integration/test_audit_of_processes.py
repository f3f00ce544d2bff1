"""What the audit has counted when a process ends, in good order or not, and who acts on the command line."""

import asyncio
import contextlib
import json
import signal
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from service.container import AUDIT_EVERY
from tests.integration.terminal import Terminal
from tests.support.brokers import (
    SEALING_KEY,
    Broker,
    broker_process,
    client_of,
    environment,
    furnish,
    settings_from,
    until_healthy,
)
from tests.support.versatures import Versature, versature_process

ASKED = 200


def rows(folder: Path, action: str) -> list[dict[str, Any]]:
    with contextlib.closing(sqlite3.connect(folder / "broker.db")) as connection:
        connection.row_factory = sqlite3.Row
        found = connection.execute("SELECT * FROM audit WHERE action = ? ORDER BY at, id", (action,))
        return [dict(row) for row in found]


def counted(folder: Path) -> int:
    return sum(int(row["times"]) for row in rows(folder, "token"))


@pytest.fixture
async def versature() -> AsyncIterator[Versature]:
    async with versature_process() as running:
        yield running


async def prepared(folder: Path, versature: Versature) -> dict[str, str]:
    variables = environment(folder, versature.base_url)
    await furnish(settings_from(variables))
    return variables


async def hold(broker: Broker, versature: Versature) -> None:
    """Let alice be connected, and hand her token out once."""
    [minted] = await versature.mint("alice")
    kept = {name: minted[name] for name in ("access_token", "refresh_token", "expires_in")}
    (await broker.client.put("/grants/alice", json=kept)).raise_for_status()


async def ask(broker: Broker, times: int) -> None:
    for _ in range(times):
        (await broker.client.get("/tokens/alice")).raise_for_status()


async def test_nothing_that_was_counted_is_missing_after_sigterm(tmp_path: Path, versature: Versature) -> None:
    async with broker_process(await prepared(tmp_path, versature)) as broker:
        await hold(broker, versature)
        await ask(broker, ASKED)
        broker.send(signal.SIGTERM)
        assert broker.process is not None
        await broker.process.wait()
    assert counted(tmp_path) == ASKED


async def test_a_killed_process_loses_at_most_what_was_counted_since_the_last_flush(
    tmp_path: Path, versature: Versature
) -> None:
    async with broker_process(await prepared(tmp_path, versature)) as broker:
        await hold(broker, versature)
        await ask(broker, ASKED)
        for _ in range(200):
            if counted(tmp_path) == ASKED:
                break
            await asyncio.sleep(AUDIT_EVERY.total_seconds() / 20)
        await ask(broker, 5)
        (await broker.client.put("/grants/bob", json={"refresh_token": "r"})).raise_for_status()
        broker.send(signal.SIGKILL)
        assert broker.process is not None
        await broker.process.wait()
    assert ASKED <= counted(tmp_path) <= ASKED + 5
    assert [row["user"] for row in rows(tmp_path, "imported")] == ["alice", "bob"], "an event waits for no flush"


async def test_what_is_done_at_the_command_line_is_done_by_the_command_line(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, environment(tmp_path, "http://127.0.0.1:9"))
    base = "--base-url https://provider.example"
    await terminal.type(
        f"applications add sales --client-id i --client-secret-stdin --grant-type authorization_code {base}", "s"
    )
    await terminal.type("applications set-default sales")
    await terminal.type("callers add crm --scope tokens --user *")
    await terminal.type("callers rotate-key crm --keep-old")
    await terminal.type("callers rotate-key crm")
    await terminal.type("grants import alice --refresh-token-stdin", "r")
    await terminal.type("grants revive alice")
    await terminal.type("grants revoke alice")
    await terminal.type("callers remove crm")
    await terminal.type("applications remove sales")
    await terminal.type("keys rotate")
    with contextlib.closing(sqlite3.connect(tmp_path / "broker.db")) as connection:
        found = connection.execute(
            "SELECT caller, action, application, user, subject, code, request_id FROM audit ORDER BY at"
        ).fetchall()
    assert {row[0] for row in found} == {"command line"}
    assert {row[6] for row in found} == {None}
    assert [(row[1], row[3], (row[4] or "").partition(" ")[0], row[5]) for row in found] == [
        ("application_added", None, "sales", None),
        ("default_set", None, "sales", None),
        ("caller_added", None, "crm", None),
        ("key_added", None, "crm", None),
        ("key_added", None, "crm", None),
        ("imported", "alice", "", None),
        ("revived", "alice", "", None),
        ("revoked", "alice", "", "not_configured"),
        ("caller_removed", None, "crm", None),
        ("application_removed", None, "sales", None),
        ("keys_rotated", None, SEALING_KEY.partition(":")[0], None),
    ]
    assert found[4][4].endswith("instead of all others")


async def test_an_audit_line_is_one_json_object_with_the_requests_id(tmp_path: Path, versature: Versature) -> None:
    terminal = Terminal(
        tmp_path, {**await prepared(tmp_path, versature), "BROKER_LOG_FORMAT": "json", "BROKER_LOG_USERS": "plain"}
    )
    process = await terminal.start("serve")
    assert process.stderr is not None
    try:
        broker_url = f"http://127.0.0.1:{terminal.variables['BROKER_PORT']}"
        async with client_of(broker_url) as client:
            await until_healthy(client, process)
            await client.put("/grants/bob", json={"refresh_token": "r"}, headers={"X-Request-ID": "mine"})
    finally:
        process.terminate()
    told = (await process.communicate())[1].decode().splitlines()
    lines = [json.loads(line) for line in told if '"event": "audit"' in line]
    [imported] = [line for line in lines if line["action"] == "imported"]
    assert {name: imported[name] for name in ("level", "caller", "application", "user", "times", "request_id")} == {
        "level": "info",
        "caller": "crm",
        "application": "default",
        "user": "bob",
        "times": 1,
        "request_id": "mine",
    }
