"""The command line as people and scripts meet it: real processes, their exit codes, and what they print where."""

import asyncio
import base64
import contextlib
import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from sandbox.directory import COMPANY_CLIENT, USER_CLIENT, USERS
from service import __version__
from tests.integration.terminal import Terminal
from tests.support.brokers import client_of, environment
from tests.support.clock import FakeClock
from tests.support.ports import free_port
from tests.support.versatures import Versature, versature_here

ROOT = Path(__file__).parents[2]
START_SECONDS = 30


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    """A provider that nobody has to ask: what needs one has its own test."""
    return Terminal(tmp_path, environment(tmp_path, "http://127.0.0.1:9", BROKER_LOG_LEVEL="info"))


def nothing_in(folder: Path) -> bool:
    return not any(folder.iterdir())


COLLECTS = """
import gc, sys
from service.__main__ import main
sys.argv = ["token-broker", "--version"]
try:
    main()
finally:
    assert gc.isenabled()
"""


def test_the_program_looks_for_garbage_once_it_is_imported() -> None:
    ended = subprocess.run([sys.executable, "-c", COLLECTS], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


async def test_applications_are_added_listed_made_default_and_removed(terminal: Terminal) -> None:
    base = "https://first.example/api"
    here = terminal.bare(VERSATURE_BASE_URL=base)
    added = await here.type(
        "applications add first --client-id id-1 --client-secret-stdin --grant-type authorization_code", "secret-1\n"
    )
    assert added.out == ""
    options = "--base-url https://second.example/v2/ --revocation-url https://second.example/revoke --vendor-id v"
    both = "--grant-type client_credentials --grant-type authorization_code --oauth-scope s --pkce"
    await here.type(f"applications add second --client-id id-2 --client-secret-stdin {both} {options}", "secret-2")
    moved = terminal.bare(VERSATURE_BASE_URL="https://moved.example")
    rows = await moved.listed("applications list")
    assert rows == [
        {
            "name": "first",
            "client_id": "id-1",
            "grant_types": ["authorization_code"],
            "default_for": ["authorization_code"],
            "token_url": f"{base}/oauth/token/",
        },
        {
            "name": "second",
            "client_id": "id-2",
            "grant_types": ["authorization_code", "client_credentials"],
            "default_for": ["client_credentials"],
            "token_url": "https://second.example/v2/oauth/token/",
        },
    ]
    await here.type("applications set-default second")
    shown = await here.type("applications list")
    assert re.findall(r"^(first|second) .*", shown.out, re.MULTILINE) == ["first", "second"]
    assert "secret" not in shown.out
    rows = await here.listed("applications list")
    assert [row["default_for"] for row in rows] == [[], ["authorization_code", "client_credentials"]]
    await here.type("applications remove second")
    assert [(row["name"], row["default_for"]) for row in await here.listed("applications list")] == [
        ("first", ["authorization_code"])
    ]


async def test_the_application_of_the_settings_is_listed_first_and_cannot_be_replaced(terminal: Terminal) -> None:
    options = "--client-id x --client-secret-stdin --grant-type authorization_code"
    refused, rows = await asyncio.gather(
        terminal.run(*f"applications add default {options}".split(), given="x"), terminal.listed("applications list")
    )
    assert (refused.code, refused.out) == (1, "")
    assert [(row["name"], row["default_for"]) for row in rows] == [("default", ["authorization_code"])]


async def test_callers_are_added_listed_given_new_keys_and_removed(terminal: Terminal) -> None:
    added = await terminal.type("callers add crm --scope tokens --scope grants --user a* --user @company")
    assert re.fullmatch(r"vtb_[A-Za-z0-9_-]{43}\n", added.out)
    assert "vtb_" not in added.err
    again = await terminal.run("callers", "add", "crm", "--scope", "tokens", "--user", "*")
    assert (again.code, again.out) == (1, "")
    await terminal.type("callers add ops --scope admin --application billing")
    assert await terminal.listed("callers list") == [
        {"name": "crm", "scopes": ["grants", "tokens"], "users": ["a*", "@company"], "applications": ["*"]},
        {"name": "ops", "scopes": ["admin"], "users": [], "applications": ["billing"]},
    ]
    rotated = await terminal.type("callers rotate-key crm")
    assert re.fullmatch(r"vtb_[A-Za-z0-9_-]{43}\n", rotated.out)
    assert rotated.key != added.key
    beside = await terminal.type("callers rotate-key crm --keep-old")
    assert re.fullmatch(r"vtb_[A-Za-z0-9_-]{43}\n", beside.out)
    third = await terminal.run("callers", "rotate-key", "crm", "--keep-old")
    assert (third.code, third.out) == (1, "")
    async with serving(terminal) as broker:
        found = {
            name: (await broker.client.get("/me", headers={"Authorization": f"Bearer {key}"})).status_code
            for name, key in {"added": added.key, "rotated": rotated.key, "beside": beside.key}.items()
        }
        assert found == {"added": 401, "rotated": 200, "beside": 200}
        await broker.stop()
    await terminal.type("callers remove crm")
    shown = await terminal.type("callers list")
    assert "crm" not in shown.out
    assert "ops" in shown.out


async def test_an_import_that_cannot_mend_what_no_longer_opens_has_failed(terminal: Terminal) -> None:
    await terminal.type("grants import alice --refresh-token-stdin", "refresh-1")
    with contextlib.closing(sqlite3.connect(terminal.folder / "broker.db")) as connection, connection:
        (sealed,) = connection.execute("SELECT refresh_sealed FROM grants").fetchone()
        damaged = sealed[:-1] + bytes([sealed[-1] ^ 1])
        connection.execute("UPDATE grants SET refresh_sealed = ?", (damaged,))
    again = await terminal.run("grants", "import", "alice", "--refresh-token-stdin", given="refresh-1")
    assert (again.code, "still reauthorization_required" in again.err) == (1, True)


async def test_grants_are_imported_listed_shown_revoked_and_revived(terminal: Terminal) -> None:
    imported = await terminal.type("grants import alice --refresh-token-stdin", "refresh-1\n")
    assert (imported.out, "created" in imported.err) == ("", True)
    repeated = await terminal.type("grants import alice --refresh-token-stdin", "refresh-1")
    assert "was there already" in repeated.err
    await terminal.type("grants import josé --refresh-token-stdin --application default", "refresh-2\n")
    (alice, jose), shown, table = await asyncio.gather(
        terminal.listed("grants list"), terminal.type("grants show alice"), terminal.type("grants list")
    )
    assert json.loads(shown.out) == alice
    assert re.fullmatch(r"u-[0-9a-f]{12}", alice["name_in_logs"])
    assert alice["name_in_logs"] != jose["name_in_logs"]
    assert (alice["user"], alice["application"], alice["state"]) == ("alice", "default", "connected")
    assert (jose["user"], jose["generation"]) == ("josé", 1)
    assert re.findall(r"^default +(\S+) +connected", table.out, re.MULTILINE) == ["alice", "josé"]
    assert "refresh-" not in shown.out + table.out + json.dumps([alice, jose])
    revoked = await terminal.type("grants revoke alice")
    assert "not_configured" in revoked.err
    states = ("connected", "revoked", "reauthorization_required")
    lists = await asyncio.gather(*(terminal.listed(f"grants list --state {state}") for state in states))
    assert [[row["user"] for row in rows] for rows in lists] == [["josé"], ["alice"], []]
    for restoring in ("revive alice", "import alice --refresh-token-stdin"):
        ended = await terminal.run("grants", *restoring.split(), given="refresh-1")
        assert ended.code == 1
        assert "revoked" in ended.err
    assert await terminal.listed("grants list --application other") == []


async def test_secrets_lose_one_trailing_newline_and_nothing_else(terminal: Terminal) -> None:
    """The same token, with and without its line's end, is the same; a blank belongs to the token."""
    line = "grants import alice --refresh-token-stdin"
    assert "created" in (await terminal.type(line, "refresh\n")).err
    generations = []
    for given in ("refresh", " refresh\n", " refresh"):
        await terminal.type(line, given)
        ((row),) = await terminal.listed("grants list")
        generations.append(row["generation"])
    assert generations == [1, 2, 2]


async def test_what_cannot_be_a_refresh_token_never_replaces_one(terminal: Terminal) -> None:
    """Nor does `PUT /grants/{user}` take it; a line's end of Windows would end a grant that works."""
    line = "grants import alice --refresh-token-stdin"
    await terminal.type(line, "refresh\n")
    for given in ("refresh\r\n", "refresh\n\n", "refresh\nanother\n", "réfresh\n"):
        refused = await terminal.run(*line.split(), given=given)
        assert (refused.code, "refresh token" in refused.err) == (2, True)
    ((row),) = await terminal.listed("grants list")
    assert row["generation"] == 1


async def test_keys_are_generated_in_the_form_that_the_settings_take(tmp_path: Path) -> None:
    nowhere = Terminal(tmp_path, {})
    ended = await nowhere.all(["keys generate", "keys generate --id 2026-a", "keys generate --id a,b"])
    plain, named, wrong = ended.values()
    key_id, _, material = plain.out.strip().partition(":")
    assert re.fullmatch(r"k[0-9a-f]{8}", key_id)
    assert len(base64.b64decode(material, validate=True)) == 32
    assert named.out.startswith("2026-a:")
    assert named.out.partition(":")[2].strip() != material
    assert (wrong.code, wrong.out) == (2, "")
    listed = Terminal(tmp_path, {"BROKER_ENCRYPTION_KEYS": f"{plain.out.strip()},{named.out.strip()}"})
    assert (await listed.type("callers list")).code == 0


async def test_the_installed_program_needs_no_settings_to_speak_of_itself_in_any_directory() -> None:
    nowhere = Terminal(Path("/"), {})
    document, version, usage, nothing = await asyncio.gather(
        nowhere.installed("openapi"),
        nowhere.installed("--version"),
        nowhere.installed("--help"),
        nowhere.installed("callers", "list"),
    )
    assert [document.code, version.code, usage.code, nothing.code] == [0, 0, 0, 2]
    assert document.out == (ROOT / "openapi.json").read_text()
    assert version.out == f"{__version__}\n"
    named = {command for command in ("serve", "migrate", "openapi", "keys", "grants") if f" {command} " in usage.out}
    assert named == {"serve", "migrate", "openapi", "keys", "grants"}
    assert nothing.err == "token-broker: BROKER_ENCRYPTION_KEYS: is required\n"


async def test_a_database_is_where_the_settings_say_from_wherever_the_command_runs(terminal: Terminal) -> None:
    (terminal.folder / "elsewhere").mkdir()
    elsewhere = Terminal(terminal.folder / "elsewhere", terminal.variables)
    migrated = await terminal.type("migrate")
    assert (migrated.out, "up to date" in migrated.err) == ("", True)
    await elsewhere.type("callers add crm --scope tokens --user *")
    assert [row["name"] for row in await terminal.listed("callers list")] == ["crm"]
    assert nothing_in(elsewhere.folder)
    relative = elsewhere.bare(BROKER_DATABASE_URL="sqlite+aiosqlite:///here.db")
    await relative.type("migrate")
    assert (terminal.folder / "elsewhere" / "here.db").exists()


USAGE_ERRORS = [
    "",
    "nonsense",
    "callers add",
    "callers add crm --scope everything --user *",
    "callers add crm --scope tokens",
    "callers add cr/m --scope tokens --user *",
    "callers add crm --scope tokens --user a/b",
    "callers add crm --scope tokens --user * --application /",
    "callers list --jsn",
    "grants list --state nonsense",
    "grants show @admin",
    "grants show",
    "grants import alice",
    "applications add x --client-id i --grant-type password --client-secret-stdin",
    "applications add x --client-id i --grant-type client_credentials",
    "applications add x --client-id i --client-secret-stdin",
    "applications add x --grant-type client_credentials --client-secret-stdin",
]
FAILURES = [
    "callers remove nobody",
    "callers rotate-key nobody",
    "callers add admin --scope tokens --user *",
    "applications remove nothing",
    "applications set-default nothing",
    "applications set-default default --grant-type client_credentials",
    "applications remove default",
    "callers rotate-key nobody --keep-old",
    "grants show nobody",
    "grants revoke nobody",
    "grants revive nobody",
    "grants show alice --application nothing",
    "grants show @company",
]


async def test_mistakes_in_usage_end_with_2_and_failures_with_1_each_in_one_line(terminal: Terminal) -> None:
    ended = await terminal.all([*USAGE_ERRORS, *FAILURES])
    codes = {line: found.code for line, found in ended.items()}
    assert codes == {**dict.fromkeys(USAGE_ERRORS, 2), **dict.fromkeys(FAILURES, 1)}
    for line in FAILURES:
        assert ended[line].out == "", line
        assert re.fullmatch(r"token-broker: .+\n", ended[line].err), line


async def test_an_empty_pattern_is_a_usage_error_and_nothing_is_stored(terminal: Terminal) -> None:
    add = ["callers", "add", "crm", "--scope", "tokens", "--user"]
    for arguments in ([*add, ""], [*add, "*", "--user", ""], [*add, "*", "--application", ""]):
        ended = await terminal.run(*arguments)
        assert (ended.code, ended.out) == (2, ""), arguments
    assert await terminal.listed("callers list") == []


async def test_bad_secrets_on_standard_input_are_usage_errors_and_never_shown(terminal: Terminal) -> None:
    add = "applications add x --client-id i --grant-type client_credentials --client-secret-stdin --base-url"
    empty, binary, wrong_url = await asyncio.gather(
        terminal.run("grants", "import", "alice", "--refresh-token-stdin", given="\n"),
        terminal.run("grants", "import", "alice", "--refresh-token-stdin", given=b"geheim\xff\n"),
        terminal.run(*f"{add} nonsense".split(), given="geheim"),
    )
    assert [empty.code, binary.code, wrong_url.code] == [2, 2, 2]
    assert "geheim" not in binary.err + wrong_url.err
    assert await terminal.listed("grants list") == []


async def test_wrong_settings_end_every_command_with_2_and_one_line_for_each(tmp_path: Path) -> None:
    wrong = {"BROKER_PORT": "geheim1", "BROKER_LOG_LEVEL": "geheim2", "BROKER_ADMIN_KEY": "geheim3"}
    lines = ["serve", "migrate", "callers list", "applications list", "grants list", "grants show alice"]
    for line, ended in (await Terminal(tmp_path, wrong).all(lines)).items():
        assert (ended.code, ended.out) == (2, ""), line
        named = re.findall(r"^token-broker: ([A-Z_]+): .+$", ended.err, re.MULTILINE)
        assert named == ["BROKER_ADMIN_KEY", "BROKER_ENCRYPTION_KEYS", "BROKER_LOG_LEVEL", "BROKER_PORT"], line
        assert len(ended.err.splitlines()) == 4
        assert "geheim" not in ended.err
    assert nothing_in(tmp_path)


async def test_a_database_that_cannot_be_had_is_one_clear_line(terminal: Terminal) -> None:
    broken = terminal.folder / "broken.db"
    broken.write_text("this is no database, whatever its name says " * 100)
    missing = terminal.folder / "missing" / "broker.db"
    places = [terminal.bare(BROKER_DATABASE_URL=f"sqlite+aiosqlite:///{file}") for file in (broken, missing)]
    runs = [place.run(*line.split()) for place in places for line in ("callers list", "migrate", "grants show a")]
    for ended in await asyncio.gather(*runs):
        assert (ended.code, ended.out) == (1, "")
        assert re.fullmatch(r"token-broker: .+\n", ended.err)


@dataclass(frozen=True, slots=True)
class Serving:
    """`token-broker serve` and a client for it."""

    process: asyncio.subprocess.Process
    client: httpx.AsyncClient

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> str:
        """Stop it; it must end well. Returns what it wrote to standard error."""
        self.process.send_signal(number)
        out, err = await asyncio.wait_for(self.process.communicate(), START_SECONDS)
        assert (self.process.returncode, out) == (0, b""), err.decode()
        return err.decode()


@contextlib.asynccontextmanager
async def serving(terminal: Terminal) -> AsyncIterator[Serving]:
    process = await terminal.start("serve")
    try:
        async with client_of(f"http://127.0.0.1:{terminal.variables['BROKER_PORT']}") as client:
            await until_answered(process, client)
            yield Serving(process, client)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def until_answered(
    process: asyncio.subprocess.Process, client: httpx.AsyncClient, path: str = "/healthz", wanted: str = ""
) -> None:
    for _ in range(START_SECONDS * 20):
        assert process.returncode is None
        with contextlib.suppress(httpx.TransportError):
            answer = await client.get(path)
            if answer.is_success and wanted in answer.text:
                return
        await asyncio.sleep(0.05)
    raise AssertionError("the broker did not answer in time")


@pytest.fixture
async def versature(terminal: Terminal) -> AsyncIterator[Versature]:
    port = terminal.variables["BROKER_PORT"]
    clock = FakeClock()
    async with versature_here(clock, [f"http://127.0.0.1:{port}/oauth/callback"]) as found:
        yield found


async def under_way(versature: Versature) -> None:
    """Return as soon as a renewal has reached the provider."""
    for _ in range(START_SECONDS * 100):
        if await versature.redemptions():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nobody renews")


async def test_serve_migrates_sqlite_answers_and_ends_with_0_when_stopped(terminal: Terminal) -> None:
    other = {"BROKER_PORT": str(free_port()), "BROKER_DATABASE_URL": "sqlite+aiosqlite:///other.db"}
    places = {signal.SIGTERM: terminal, signal.SIGINT: terminal.bare(**other)}

    async def live(number: signal.Signals) -> None:
        async with serving(places[number]) as broker:
            await until_answered(broker.process, broker.client, "/readyz", '"status":"ready"')
            key = (await places[number].type("callers add crm --scope tokens --user *")).key
            me = await broker.client.get("/me", headers={"Authorization": f"Bearer {key}"})
            assert me.json()["name"] == "crm"
            assert "server" not in me.headers
            err = await broker.stop(number)
        assert {json.loads(line)["level"] for line in err.splitlines()} == {"info"}

    await asyncio.gather(*(live(number) for number in places))


@contextlib.asynccontextmanager
async def renewing_slowly(
    terminal: Terminal, versature: Versature, **settings: str
) -> AsyncIterator[tuple[Serving, asyncio.Task[httpx.Response], Terminal]]:
    """A broker in the middle of a renewal for alice, and the request that waits for it."""
    base = {"VERSATURE_BASE_URL": f"{versature.base_url}/api"}
    here = Terminal(terminal.folder, {**terminal.variables, **base, **settings})
    auth = {"Authorization": f"Bearer {(await here.type('callers add crm --scope tokens --user *')).key}"}
    (minted,) = await versature.mint("alice")
    await here.type("grants import alice --refresh-token-stdin", minted["refresh_token"])
    await versature.switch(fault="delay", delay_seconds=1)
    async with serving(here) as broker:
        asked = asyncio.create_task(broker.client.get("/tokens/alice", headers=auth))
        await under_way(versature)
        yield broker, asked, here


async def test_a_stop_lets_a_request_be_answered(terminal: Terminal, versature: Versature) -> None:
    async with renewing_slowly(terminal, versature) as (broker, asked, _):
        await broker.stop()
        answer = await asked
    assert answer.status_code == 200
    assert await versature.whose(answer.json()["access_token"]) == "alice"


async def test_a_stop_saves_a_renewal_that_outlives_its_caller(terminal: Terminal, versature: Versature) -> None:
    async with renewing_slowly(terminal, versature, BROKER_WAIT_SECONDS="0.1") as (broker, asked, here):
        answer = await asked
        assert (answer.status_code, answer.json()["code"]) == (503, "renewal_in_progress")
        await broker.stop()
    (grant,) = await here.listed("grants list")
    assert (grant["generation"], grant["access_expires_at"] is not None) == (2, True)


async def test_a_taken_port_is_one_clear_line(terminal: Terminal) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        ended = await terminal.bare(BROKER_PORT=port).run("serve")
    assert (ended.code, ended.out) == (1, "")
    assert re.fullmatch(rf"token-broker: cannot listen on 127\.0\.0\.1:{port}: .+\n", ended.err)


async def test_a_host_that_does_not_exist_is_one_clear_line(terminal: Terminal) -> None:
    nowhere = terminal.bare(BROKER_HOST="does-not-exist.invalid", BROKER_PUBLIC_URL="https://broker.example")
    ended = await nowhere.run("serve")
    assert (ended.code, ended.out) == (1, "")
    assert re.fullmatch(r"token-broker: cannot listen on does-not-exist\.invalid:\d+: .+\n", ended.err)


async def test_every_line_of_the_log_is_json_unless_people_read_it(terminal: Terminal) -> None:
    human = {"BROKER_LOG_FORMAT": "human", "BROKER_PORT": str(free_port()), "BROKER_LOG_LEVEL": "info"}
    async with serving(terminal) as machine, serving(terminal.bare(**human)) as person:
        for broker in (machine, person):
            answer = await broker.client.get("/tokens/alice", headers={"X-Request-ID": "seen-in-the-log"})
            assert answer.status_code == 401
        lines = [json.loads(line) for line in (await machine.stop()).splitlines()]
        text = await person.stop()
    (line,) = [line for line in lines if line.get("request_id") == "seen-in-the-log"]
    told = {name: line[name] for name in ("event", "level", "method", "route", "status", "outcome", "caller")}
    assert told == {
        "event": "request",
        "level": "info",
        "method": "GET",
        "route": "/tokens/{user}",
        "status": 401,
        "outcome": "invalid_api_key",
        "caller": None,
    }
    assert "alice" not in json.dumps(lines)
    assert "seen-in-the-log" in text
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(text.splitlines()[0])


@dataclass(slots=True)
class Secrets:
    """Everything that no log may hold, gathered on the way; `told` by what it is."""

    told: dict[str, str]

    def note(self, **secrets: str) -> None:
        self.told |= secrets

    def found_in(self, text: str) -> set[str]:
        return {name for name, secret in self.told.items() if secret in text}


async def full_flow(broker: Serving, versature: Versature, key: str, secrets: Secrets) -> None:
    """Connect, ask, be rejected, import, fail in every way, revoke: whatever might want to write something down."""
    client, auth = broker.client, {"Authorization": f"Bearer {key}"}
    invitation = await client.post("/grants/alice/connect", headers=auth)
    link = invitation.json()["connect_url"]
    async with httpx.AsyncClient(trust_env=False, timeout=30) as browser:
        await browser.get(link)
        departure = await browser.post(link)
        fields = {"username": "alice", "password": USERS["alice"], "decision": "allow"}
        returning = await browser.post(departure.headers["Location"], data=fields)
        callback = httpx.URL(returning.headers["Location"])
        secrets.note(
            ticket=link.rpartition("/")[2],
            state=callback.params["state"],
            code=callback.params["code"],
            cookie=str(browser.cookies["tb-connect"]),
        )
        assert (await browser.get(str(callback))).status_code == 303
        assert (await browser.get(str(callback))).status_code == 400
        denial = (await client.post("/grants/alice/connect", headers=auth)).json()["connect_url"]
        departure = await browser.post(denial)
        returning = await browser.post(departure.headers["Location"], data={**fields, "decision": "deny"})
        callback = httpx.URL(returning.headers["Location"])
        secrets.note(denied_ticket=denial.rpartition("/")[2], denied_state=callback.params["state"])
        assert (await browser.get(str(callback))).status_code == 403
    token = (await client.get("/tokens/alice", headers=auth)).json()["access_token"]
    renewed = await client.post("/tokens/alice/rejected", headers=auth, json={"access_token": token})
    company = await client.get("/tokens/@company", headers=auth)
    secrets.note(token=token, renewed=renewed.json()["access_token"], company=company.json()["access_token"], key=key)
    (minted,) = await versature.mint("bob")
    secrets.note(imported_refresh=minted["refresh_token"], imported_access=minted["access_token"])
    body = {name: minted[name] for name in ("refresh_token", "access_token", "expires_in")}
    assert (await client.put("/grants/bob", headers=auth, json=body)).status_code == 201
    bad = {**body, "expires_in": minted["refresh_token"]}
    assert (await client.put("/grants/bob", headers=auth, json=bad)).status_code == 422
    wrong = f"{key[:-4]}nope"
    secrets.note(wrong_key=wrong)
    assert (await client.get("/me", headers={"Authorization": f"Bearer {wrong}"})).status_code == 401
    for fault in ("html", "truncated", "invalid_client", "drop_after"):
        (one,) = await versature.mint(f"user-{fault}")
        secrets.note(**{fault: one["refresh_token"]})
        user = f"/grants/user-{fault}"
        await client.put(user, headers=auth, json={"refresh_token": one["refresh_token"]})
        await versature.switch(fault=fault, fault_times=1)
        assert (await client.get(f"/tokens/user-{fault}", headers=auth)).status_code in {502, 503}
    assert (await client.delete("/grants/bob", headers=auth)).json()["upstream"] == "revoked"


async def log_of_a_full_flow(
    here: Terminal, versature: Versature, secrets: Secrets, administrators: dict[str, str]
) -> str:
    """What a broker writes at its most talkative."""
    options = f"--client-id {COMPANY_CLIENT.id} --client-secret-stdin --grant-type client_credentials"
    await here.type(f"applications add company {options}", COMPANY_CLIENT.secret)
    key = (await here.type("callers add crm --scope tokens --scope grants --user * --user @company")).key
    async with serving(here) as broker:
        await full_flow(broker, versature, key, secrets)
        assert (await broker.client.get("/grants/alice", headers=administrators)).status_code == 200
        return await broker.stop()


@pytest.mark.parametrize("form", ["json", "human"])
async def test_no_secret_reaches_the_log_at_the_level_debug(
    terminal: Terminal, versature: Versature, form: str
) -> None:
    admin = "vtb_admin-of-the-settings"
    own = {
        "VERSATURE_BASE_URL": f"{versature.base_url}/api",
        "VERSATURE_REVOCATION_URL": f"{versature.base_url}/api/oauth/revoke/",
        "VERSATURE_PKCE": "true",
        "BROKER_ADMIN_KEY": admin,
        "BROKER_LOG_LEVEL": "debug",
        "BROKER_LOG_FORMAT": form,
    }
    here = Terminal(terminal.folder, {**terminal.variables, **own})
    secrets = Secrets({"client secret": USER_CLIENT.secret, "company's secret": COMPANY_CLIENT.secret, "admin": admin})
    secrets.note(sealing_key=here.variables["BROKER_ENCRYPTION_KEYS"].partition(":")[2])
    log = await log_of_a_full_flow(here, versature, secrets, {"Authorization": f"Bearer {admin}"})
    assert all(secrets.told.values())
    for event in ("request", "a renewal failed", "a connect trip failed"):
        assert event in log
    assert secrets.found_in(log) == set()
