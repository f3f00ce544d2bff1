"""`token-broker keys status` and `keys rotate` as people and scripts meet them."""

import base64
import contextlib
import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.terminal import Ended, Terminal
from tests.support.brokers import environment

OLD = "2025-old:" + base64.b64encode(b"o" * 32).decode()
NEW = "2026-new:" + base64.b64encode(b"n" * 32).decode()
IMPOSTOR = "2026-new:" + base64.b64encode(b"i" * 32).decode()
SECRETS = ("refresh-1", "refresh-2", "the-client-secret", *(key.partition(":")[2] for key in (OLD, NEW, IMPOSTOR)))


@dataclass(frozen=True, slots=True)
class Keys:
    """A database whose secrets, two grants' and one application's, are sealed with the old key."""

    folder: Path
    terminal: Terminal

    def having(self, *keys: str, **variables: str) -> Terminal:
        return Terminal(self.folder, {**self.terminal.variables, "BROKER_ENCRYPTION_KEYS": ",".join(keys), **variables})

    async def run(self, line: str, *keys: str, **variables: str) -> Ended:
        ended = await self.having(*keys, **variables).run(*line.split())
        told = [secret for secret in SECRETS if secret in ended.out + ended.err]
        assert told == []
        return ended

    async def status(self, *keys: str, **variables: str) -> tuple[int, dict[str, Any]]:
        ended = await self.run("keys status --json", *keys, **variables)
        return ended.code, json.loads(ended.out)

    def change(self, statement: str, *values: object) -> None:
        with contextlib.closing(sqlite3.connect(self.folder / "broker.db")) as connection, connection:
            assert connection.execute(statement, values).rowcount == 1

    def sealed(self) -> list[tuple[object, ...]]:
        with contextlib.closing(sqlite3.connect(self.folder / "broker.db")) as connection:
            return connection.execute("SELECT user, access_sealed, refresh_sealed FROM grants ORDER BY user").fetchall()


@pytest.fixture
async def keys(tmp_path: Path) -> Keys:
    found = Keys(tmp_path, Terminal(tmp_path, environment(tmp_path, "http://127.0.0.1:9")))
    first = found.having(OLD)
    for number, user in enumerate(("alice", "bob"), 1):
        await first.type(f"grants import {user} --refresh-token-stdin", f"refresh-{number}")
    options = "--client-id i --client-secret-stdin --grant-type client_credentials --base-url https://a.example"
    await first.type(f"applications add acme {options}", "the-client-secret")
    return found


def uses(document: dict[str, Any]) -> dict[str, tuple[str, int, bool]]:
    return {row["key"]: (row["use"], row["secrets"], row["may_go"]) for row in document["keys"]}


async def test_a_key_is_rolled_by_rotate_and_status_says_when_the_old_one_may_go(keys: Keys) -> None:
    code, added = await keys.status(OLD, NEW)
    assert (code, uses(added)) == (0, {"2025-old": ("seals", 3, False), "2026-new": ("unused", 0, True)})
    code, moved = await keys.status(NEW, OLD)
    assert (code, uses(moved)) == (0, {"2026-new": ("seals", 0, False), "2025-old": ("opens", 3, False)})
    assert [(row["what"], row["key"], row["count"]) for row in moved["secrets"]] == [
        ("refresh token", "2025-old", 2),
        ("client secret", "2025-old", 1),
    ]
    assert moved["keys"][1]["because"] == "refresh token: 2, client secret: 1"
    rotated = await keys.run("keys rotate --batch 1 --per-second 500", NEW, OLD)
    assert (rotated.code, rotated.err) == (0, "")
    assert rotated.out.splitlines()[:2] == ["sealed anew: client secret: 1", "sealed anew: refresh token: 2"]
    again = await keys.run("keys rotate", NEW, OLD)
    assert (again.code, "sealed anew" in again.out) == (0, False)
    code, done = await keys.status(NEW, OLD)
    assert (code, uses(done)) == (0, {"2026-new": ("seals", 3, False), "2025-old": ("unused", 0, True)})
    assert (await keys.status(NEW))[0] == 0
    shown = await keys.run("grants show alice", NEW)
    assert json.loads(shown.out)["state"] == "connected"


async def test_status_reads_well_and_tells_how_far_it_sees(keys: Keys) -> None:
    shown = await keys.run("keys status", NEW, OLD)
    assert (shown.code, shown.err) == (0, "")
    lines = [line.split() for line in shown.out.splitlines()]
    assert ["2026-new", "seals", "0", "no", "it", "seals"] in lines
    assert ["2025-old", "opens", "3", "no", "refresh", "token:", "2,", "client", "secret:", "1"] in lines
    assert "once every broker runs with these keys" in shown.out


async def test_a_key_that_rows_name_and_nobody_has_is_a_problem(keys: Keys) -> None:
    shown = await keys.run("keys status", NEW)
    assert shown.code == 1
    assert "refresh token: 2 name the key 2025-old, which is not configured here" in shown.err
    before = keys.sealed()
    rotated = await keys.run("keys rotate", NEW)
    assert rotated.code == 1
    assert "they do not open: refresh token: 2 (2025-old)" in rotated.err
    assert keys.sealed() == before


async def test_a_broken_seal_is_counted_and_left_while_everything_else_is_sealed_anew(keys: Keys) -> None:
    (_, _, whole), _ = keys.sealed()
    assert isinstance(whole, bytes)
    keys.change("UPDATE grants SET refresh_sealed = ? WHERE user = 'alice'", whole[:-1])
    before = keys.sealed()
    rotated = await keys.run("keys rotate", NEW, OLD)
    assert rotated.code == 1
    assert rotated.out.splitlines()[:2] == ["sealed anew: client secret: 1", "sealed anew: refresh token: 1"]
    assert "left as they are, they do not open: refresh token: 1 (2025-old)" in rotated.err
    assert keys.sealed()[0] == before[0]
    assert keys.sealed()[1] != before[1]
    code, found = await keys.status(NEW, OLD)
    assert (code, uses(found)["2025-old"]) == (0, ("opens", 1, False))


async def test_what_names_no_key_at_all_is_told_and_no_terminal_is_harmed(keys: Keys) -> None:
    keys.change("UPDATE grants SET refresh_sealed = ? WHERE user = 'alice'", b"\x01\x04\x1b[2Jrest of it all")
    keys.change("UPDATE grants SET access_sealed = ? WHERE user = 'bob'", b"nothing of ours")
    shown = await keys.run("keys status", OLD)
    assert shown.code == 1
    assert "\x1b" not in shown.out + shown.err
    assert "access token: 1 name no key" in shown.err
    assert "refresh token: 1 name no key" in shown.err


@pytest.mark.parametrize("which", ["the spool folder", "Redis"])
async def test_nothing_is_promised_of_an_escrow_that_cannot_be_asked(keys: Keys, which: str) -> None:
    away = (
        {"BROKER_REDIS_URL": "redis://127.0.0.1:9"}
        if which == "Redis"
        else {"BROKER_ESCROW_DIR": str(keys.folder / "not" / "mounted")}
    )
    rotated = await keys.run("keys rotate", NEW, OLD, **away)
    assert rotated.code == 1
    assert "sealed anew: refresh token: 2" in rotated.out
    code, found = await keys.status(NEW, OLD, **away)
    assert (code, found["not_asked"]) == (0, [which])
    assert uses(found)["2025-old"] == ("unused", 0, False)
    assert found["keys"][1]["because"] == f"{which} could not be asked"
    assert uses((await keys.status(NEW, OLD))[1])["2025-old"] == ("unused", 0, True)


async def test_a_wrong_key_under_the_first_ones_name_seals_nothing(keys: Keys) -> None:
    assert (await keys.run("keys rotate", NEW, OLD)).code == 0
    await keys.having(OLD, NEW).type("grants import carol --refresh-token-stdin", "refresh-3")
    before = keys.sealed()
    rotated = await keys.run("keys rotate", IMPOSTOR, OLD)
    assert (rotated.code, rotated.out) == (1, "")
    assert (
        rotated.err == "token-broker: the first key does not open what was sealed under its name: it is another key\n"
    )
    assert keys.sealed() == before


@pytest.mark.parametrize("option", ["--batch 0", "--per-second 0", "--batch many", "--batch 1001"])
async def test_an_impossible_pace_is_a_mistake_in_usage(keys: Keys, option: str) -> None:
    ended = await keys.run(f"keys rotate {option}", NEW, OLD)
    assert (ended.code, ended.out) == (2, "")


async def test_a_database_that_cannot_be_had_is_one_clear_line(keys: Keys) -> None:
    away = f"sqlite+aiosqlite:///{keys.folder}/missing/broker.db"
    ended = await keys.run("keys status", NEW, OLD, BROKER_DATABASE_URL=away)
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)
