"""`token-broker doctor` finds what is wrong before it matters, says what to do, and touches nothing."""

import base64
import json
import re
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from redis import Redis

from service.config import Settings
from service.core.clock import SystemClock
from tests.contract.wire import Client, listening
from tests.integration.terminal import Ended, Terminal
from tests.support.brokers import environment, furnish, settings_from
from tests.support.clock import FakeClock
from tests.support.servers import Server, new_database
from tests.support.versatures import versature_here

SECRET = "geheim-4711"
NOBODY = "http://127.0.0.1:9"


def terminal_in(folder: Path, provider: str = NOBODY, **overrides: str) -> Terminal:
    return Terminal(folder, environment(folder, provider, **overrides))


def checks(ended: Ended) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in json.loads(ended.out)["checks"]}


async def wrong(terminal: Terminal) -> dict[str, str]:
    """What has to be done, by the part that it concerns; there must be something."""
    ended = await terminal.run("doctor", "--json")
    assert ended.code == 1, ended.out + ended.err
    assert not json.loads(ended.out)["ok"]
    assert SECRET not in ended.out + ended.err
    assert ended.err == ""
    return {name: check["detail"] for name, check in checks(ended).items() if not check["ok"]}


def everything_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "broker.db-" not in path.name}


async def test_where_all_is_well_every_line_says_ok_and_nothing_has_changed(tmp_path: Path) -> None:
    async with versature_here(FakeClock(), []) as versature:
        terminal = terminal_in(tmp_path, versature.base_url, VERSATURE_CLIENT_SECRET=SECRET)
        await furnish(settings_from(terminal.variables))
        before = everything_in(tmp_path)
        # The provider's clock is the test's own, and far from this machine's.
        ended = await terminal.run("doctor", "--json")
        found = checks(ended)
        assert {name for name, check in found.items() if check["ok"]} >= {
            "database", "durability", "clock", "keys", "callers", "escrow",
        }  # fmt: skip
        assert {name for name in found if name.startswith("provider of")} == {
            "provider of default",
            "provider of company",
        }
        assert all("answers" in check["detail"] for name, check in found.items() if name.startswith("provider"))
        assert (ended.code, ended.err, json.loads(ended.out)["ok"]) == (0, "", True)
        lines = (await terminal.type("doctor")).out.splitlines()
        assert [line.split("  ")[-1].strip()[:2] for line in lines[-len(found) :]] == ["ok"] * len(found)
        assert await versature.calls(endpoint="token") == []
    assert everything_in(tmp_path) == before
    assert SECRET not in ended.out


async def test_before_the_first_start_nothing_is_made(tmp_path: Path) -> None:
    assert set(await wrong(terminal_in(tmp_path))) == {"provider of default"}
    assert everything_in(tmp_path) == {}


async def test_every_setting_is_shown_as_understood_and_no_secret_of_it(tmp_path: Path) -> None:
    key = base64.b64encode(b"z" * 32).decode()
    secrets = {
        "VERSATURE_CLIENT_SECRET": SECRET,
        "BROKER_ADMIN_KEY": f"vtb_{SECRET}",
        "BROKER_DATABASE_URL": f"postgresql+psycopg://broker:{SECRET}@127.0.0.1:9/broker?sslpassword={SECRET}",
        "BROKER_REDIS_URL": f"redis://:{SECRET}@127.0.0.1:9/0",
        "BROKER_ENCRYPTION_KEYS": f"new:{key}",
    }
    ended = await terminal_in(tmp_path, **secrets).run("doctor", "--json")
    shown = json.loads(ended.out)["settings"]
    assert set(shown) == {name.upper() for name in Settings.model_fields}
    assert shown["BROKER_DATABASE_URL"] == "postgresql+psycopg://127.0.0.1:9/broker?…"
    assert shown["BROKER_REDIS_URL"] == "redis://127.0.0.1:9/0"
    assert (shown["BROKER_ADMIN_KEY"], shown["BROKER_ENCRYPTION_KEYS"]) == ("(set)", "new:(set)")
    assert SECRET not in ended.out + ended.err
    assert key not in ended.out + ended.err


async def test_a_database_and_a_redis_that_do_not_answer_are_told(tmp_path: Path) -> None:
    database = f"postgresql+psycopg://broker:{SECRET}@127.0.0.1:9/broker"
    found = await wrong(terminal_in(tmp_path, BROKER_DATABASE_URL=database, BROKER_REDIS_URL="redis://127.0.0.1:9"))
    assert set(found) == {"database", "redis", "provider of default"}


async def test_a_redis_that_only_answers_reads_is_told(tmp_path: Path, redis: Server) -> None:
    with Redis.from_url(redis.url) as client:
        client.replicaof("127.0.0.1", "1")
        try:
            found = await wrong(terminal_in(tmp_path, BROKER_REDIS_URL=redis.url))
        finally:
            client.replicaof("NO", "ONE")
    assert found["redis"] == "Redis takes nothing new: is it full, a replica, or closed to us?"


async def test_a_key_that_is_missing_is_told_with_what_needs_it(tmp_path: Path) -> None:
    await furnish(settings_from(terminal_in(tmp_path).variables))
    other = "other:" + base64.b64encode(b"o" * 32).decode()
    found = await wrong(terminal_in(tmp_path, BROKER_ENCRYPTION_KEYS=other))
    assert found["keys"] == "a key is missing in BROKER_ENCRYPTION_KEYS for the client secret of company"


async def test_a_schema_of_another_version_is_told(tmp_path: Path) -> None:
    (tmp_path / "broker.db").touch()
    assert "token-broker migrate" in (await wrong(terminal_in(tmp_path)))["database"]


async def test_a_user_who_owns_nothing_in_the_database_is_told(tmp_path: Path, postgres: Server) -> None:
    """As after a restore under another name, or where PostgreSQL lets nobody but its owner make tables."""
    url = new_database(postgres, "not_ours")
    with psycopg.connect(postgres.url.replace("+psycopg", ""), autocommit=True) as owner:
        owner.execute("DROP ROLE IF EXISTS stranger")
        owner.execute("CREATE ROLE stranger LOGIN")
    stranger = terminal_in(tmp_path, BROKER_DATABASE_URL=url.replace("broker@", "stranger@"))
    migration = await stranger.run("migrate")
    assert (migration.code, migration.err.count("\n")) == (1, 1), migration.err
    assert "has to own" in migration.err
    await terminal_in(tmp_path, BROKER_DATABASE_URL=url).type("migrate")
    assert "has to own" in (await wrong(stranger))["database"]
    listing = await stranger.run("grants", "list")
    assert (listing.code, listing.err.count("\n")) == (1, 1), listing.err


async def test_a_missing_disk_is_told(tmp_path: Path) -> None:
    found = await wrong(
        terminal_in(
            tmp_path,
            BROKER_DATABASE_URL=f"sqlite+aiosqlite:///{tmp_path}/missing/broker.db",
            BROKER_ESCROW_DIR=f"{tmp_path}/missing/escrow",
        )
    )
    assert "does not exist" in found["database"]
    assert "does not exist" in found["escrow"]


@pytest.mark.parametrize("ahead", [timedelta(hours=1), timedelta(hours=-1)])
async def test_a_provider_of_another_time_is_told(tmp_path: Path, ahead: timedelta) -> None:
    async def answer(client: Client) -> None:
        await client.answer(405, b"", Date=format_datetime(SystemClock().now() + ahead, usegmt=True))

    async with listening(answer) as wire:
        found = await wrong(terminal_in(tmp_path, wire.base_url))
        assert [(heard.method, heard.body, "authorization" in heard.headers) for heard in wire.requests] == [
            ("HEAD", b"", False)
        ]
    said = re.search(r" is ([+-]\d+) s from ours", found["provider of default"])
    assert said
    assert abs(int(said[1]) - ahead.total_seconds()) <= 10


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_provider_that_is_away_behind_its_proxy_is_told(tmp_path: Path, status: int) -> None:
    async def answer(client: Client) -> None:
        await client.answer(status, b"")

    async with listening(answer) as wire:
        told = (await wrong(terminal_in(tmp_path, wire.base_url)))["provider of default"]
    assert f"is in trouble ({status})" in told


async def test_a_provider_that_leads_nowhere_is_reached_all_the_same(tmp_path: Path) -> None:
    async def answer(client: Client) -> None:
        await client.answer(302, b"", Location="http://[::1")

    async with listening(answer) as wire:
        found = checks(await terminal_in(tmp_path, wire.base_url).run("doctor", "--json"))
    assert found["provider of default"]["detail"].endswith("answers (302)")


async def test_a_provider_whose_name_nobody_can_have_is_told(tmp_path: Path) -> None:
    assert "cannot be reached" in (await wrong(terminal_in(tmp_path, "https://xn--a.com")))["provider of default"]


async def test_without_an_application_or_a_caller_somebody_is_told_to_add_one(tmp_path: Path) -> None:
    terminal = terminal_in(tmp_path).bare()
    await terminal.type("migrate")
    found = await wrong(terminal)
    assert set(found) == {"applications", "callers"}


async def test_wrong_settings_leave_with_2(tmp_path: Path) -> None:
    ended = await terminal_in(tmp_path, BROKER_LOG_USERS="everybody", BROKER_PORT="x").run("doctor")
    assert ended.code == 2
    assert {"BROKER_LOG_USERS", "BROKER_PORT"} == {line.split(": ")[1] for line in ended.err.splitlines()}
