"""A whole life of the product with marked secrets, and then a search for them everywhere they have no business."""

import asyncio
import base64
import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox.directory import COMPANY_CLIENT
from service.core.model import Caller, GrantId, Scope
from tests.integration.terminal import Terminal
from tests.support.brokers import Broker, client_of, environment, until_healthy
from tests.support.browser import browser_of, invite
from tests.support.canary import (
    ECHOES,
    MARK,
    RAW_ECHOES,
    Canary,
    Counter,
    babbling_server,
    every_log_line,
    json_with,
)
from tests.support.clock import FakeClock
from tests.support.marked_life import ADMIN, CRM, RETURN, SEALING, Life, life_in, sealing_keys
from tests.support.ports import free_port
from tests.support.servers import Server, new_database


async def manage(life: Life, broker: Broker) -> None:
    """Operators at work, also wrongly."""
    crm = Caller("crm", frozenset({Scope.TOKENS, Scope.GRANTS}), ("*", "@company"), ("*",))
    await life.containers[-1].services.administration.add_caller(crm, CRM)
    company = {
        "name": "company",
        "client_id": COMPANY_CLIENT.id,
        "client_secret": COMPANY_CLIENT.secret,
        "grant_types": ["client_credentials"],
        "base_url": f"{life.versature}/api",
    }
    for method, path, content, status in [
        ("POST", "/applications", company, 201),
        ("POST", "/applications", company, 409),
        ("POST", "/applications", {**company, "name": "b", "client_secret": f"s-{MARK}"}, 201),
        ("PATCH", "/applications/b", {"client_secret": f"n-{MARK}"}, 200),
        ("PATCH", "/applications/b", {"client_secret": f"n-{MARK}\u0000", "token_url": "x"}, 422),
        ("PATCH", "/applications/default", {"client_secret": f"n-{MARK}"}, 409),
        ("GET", "/applications", None, 200),
        ("POST", "/callers", {"name": "new", "scopes": ["tokens"], "users": ["*"]}, 201),
        ("POST", "/callers/new/keys", {"expires_in": 600}, 201),
        ("GET", "/callers/new/keys", None, 200),
        ("GET", "/callers", None, 200),
        ("DELETE", "/callers/new", None, 204),
        ("DELETE", "/applications/b", None, 204),
    ]:
        content_or_none: dict[str, Any] = {} if content is None else {"json": content}
        answer = await broker.client.request(method, path, headers=ADMIN, **content_or_none)
        assert answer.status_code == status, (path, answer.text)


async def connect_in_every_way(life: Life, broker: Broker) -> None:
    async with browser_of(broker) as browser, browser_of(broker) as other:
        for http in (browser.http, other.http):
            http.event_hooks["response"].append(only_from(broker, life.counter))
        link = await invite(broker, "alice", {"return_to": f"{RETURN}/back?x=1"})
        assert (await browser.open(link)).status_code == 200
        callback = await browser.decide("alice", await browser.depart(link))
        assert (await other.open(callback)).status_code == 400
        callback = await browser.decide("alice", await browser.depart(link))
        assert (await browser.open(callback)).headers["Location"] == f"{RETURN}/back?x=1&status=connected"
        assert (await browser.open(callback)).status_code == 400
        assert (await browser.open(link)).status_code == 410
        assert (await browser.walk(await invite(broker, "bob"), "bob", "deny")).status_code == 403
        wrong = httpx.URL(callback).copy_merge_params({"state": f"wrong-{MARK}", "error_description": MARK})
        assert (await browser.open(str(wrong))).status_code == 400
        odd = httpx.URL(await browser.decide("bob", await browser.depart(await invite(broker, "bob"))))
        odd = odd.copy_remove_param("code").copy_merge_params({"error": MARK, "error_description": MARK})
        assert (await browser.open(str(odd))).status_code == 400
        for echo in ECHOES:
            life.parrot.echo = echo
            callback = await browser.decide("bob", await browser.depart(await invite(broker, "bob")))
            assert (await browser.open(callback)).status_code >= 400
        life.parrot.echo = None
        late = await browser.decide("bob", await browser.depart(await invite(broker, "bob")))
        life.clock.advance(700)
        assert (await browser.open(late)).status_code == 410


def only_from(broker: Broker, counter: Counter) -> Any:
    async def look(answer: httpx.Response) -> None:
        if answer.request.url.port == httpx.URL(broker.base_url).port:
            await counter(answer)

    return look


async def get_tokens(life: Life, broker: Broker) -> None:
    """Of every source, rejected and renewed, of the company, and of nobody."""
    await broker.client.get("/tokens/alice")
    token = (await broker.client.get("/tokens/alice")).raise_for_status().json()["access_token"]
    assert MARK in token
    fresh = await broker.client.post("/tokens/alice/rejected", json={"access_token": token})
    assert fresh.json()["access_token"] != token
    await broker.client.post("/tokens/alice/rejected", json={"access_token": fresh.json()["access_token"]})
    await broker.client.post("/tokens/alice/rejected", json={"access_token": f"unknown-{MARK}"})
    (await broker.client.get("/tokens/@company")).raise_for_status()
    assert (await broker.client.get("/tokens/nobody")).status_code == 404
    life.clock.advance(3500)
    (await broker.client.get("/tokens/alice")).raise_for_status()


async def take_over_and_end(life: Life, broker: Broker) -> None:
    minted = await life.mint("carol")
    kept = {name: minted[name] for name in ("access_token", "refresh_token", "expires_in", "scope")}
    for _ in range(2):
        (await broker.client.put("/grants/carol", json=kept)).raise_for_status()
    (await broker.client.get("/tokens/carol")).raise_for_status()
    await life.switch(revocation_fault="server_error")
    assert (await broker.client.delete("/grants/carol")).json()["upstream"] == "pending"
    await life.switch(revocation_fault="none")
    assert (await broker.client.get("/tokens/carol")).status_code == 409
    life.clock.advance(600)
    await life.containers[-1].core.revoker.tell_again()
    assert (await broker.client.delete("/grants/carol")).json()["upstream"] == "revoked"


async def meet_every_fault(life: Life, broker: Broker) -> None:
    """A provider that throws the request back, in good HTTP and in bad."""
    for number, echo in enumerate(ECHOES):
        user = f"echo-{number}"
        refresh_token = (await life.mint(user))["refresh_token"]
        await broker.client.put(f"/grants/{user}", json={"refresh_token": refresh_token})
        life.parrot.echo = echo
        assert (await broker.client.get(f"/tokens/{user}")).status_code >= 400, echo
        life.clock.advance(3700)
        assert (await broker.client.get("/tokens/@company")).status_code >= 400, echo
        await broker.client.get(f"/grants/{user}")
        life.parrot.echo = None
        life.clock.advance(3700)
    for number, raw in enumerate(RAW_ECHOES):
        async with babbling_server(raw) as url:
            app = {"name": f"raw-{number}", "client_id": "i", "client_secret": f"raw-{MARK}", "base_url": url}
            content = {**app, "grant_types": ["authorization_code"]}
            (await broker.client.post("/applications", headers=ADMIN, json=content)).raise_for_status()
            address = f"?application=raw-{number}"
            await broker.client.put(f"/grants/alice{address}", json={"refresh_token": f"raw-{MARK}"})
            assert (await broker.client.get(f"/tokens/alice{address}")).status_code >= 500, raw


async def lose_the_database_after_an_answer(life: Life, broker: Broker) -> int:
    """Returns how many files lay in escrow meanwhile."""
    refresh_token = (await life.mint("escrow"))["refresh_token"]
    await broker.client.put("/grants/escrow", json={"refresh_token": refresh_token})

    async def lose() -> None:
        life.grants.away = True

    life.parrot.before = lose
    await broker.client.get("/tokens/escrow")
    lying = life.canary.look_at_files(life.folder / "escrow")
    if "BROKER_REDIS_URL" in life.variables:
        life.canary.look_at_redis(life.variables["BROKER_REDIS_URL"])
    life.parrot.before, life.grants.away = None, False
    life.clock.advance(120)
    await life.containers[-1].core.recovery.replay()
    return lying


async def ask_nonsense(broker: Broker) -> None:
    """Keys and tokens where they do not belong."""
    client, secret = broker.client, f"junk-{MARK}"
    for path in ("/tokens/alice", "/grants", "/audit", "/applications", "/me"):
        for authorization in (f"Bearer vtb_{secret}", f"Basic {secret}", f"bearer {secret} {secret}", secret):
            await client.get(path, headers={"Authorization": authorization})
        await client.get(path, params={"key": secret, "cursor": secret, "limit": secret, "min_ttl": secret})
        await client.get(path, headers={"Cookie": f"tb-connect={secret}", "X-Request-ID": f"{secret} {secret}"})
        await client.request("TRACE", path, headers={"X-Key": secret})
    for method, path in (
        ("POST", "/tokens/alice/rejected"),
        ("PUT", "/grants/alice"),
        ("POST", "/grants/alice/connect"),
        ("POST", "/applications"),
        ("PATCH", "/applications/company"),
    ):
        for content in json_with(secret):
            await client.request(method, path, json=content, headers=ADMIN if "appl" in path else None)
        await client.request(method, path, content=f"{{{secret}".encode() * 9000)
        await client.request(method, path, content=secret, headers={"Content-Type": secret})
        await client.request(method, path, content=b"\xff" + secret.encode())
    for path in (f"/connect/{secret}", f"/oauth/callback?code={secret}&state={secret}", f"/nowhere/{secret}"):
        for method in ("GET", "POST", "DELETE"):
            await client.request(method, path)


async def look_behind_the_scenes(life: Life, broker: Broker) -> None:
    life.containers[-1].core.lane.collect()
    await life.containers[-1].services.audit.flush()
    page = await broker.client.get("/audit?limit=500", headers=ADMIN)
    assert len(page.json()["items"]) > 30
    await broker.client.get("/readyz")
    for path in ("/metrics", "/healthz", "/openapi.json", "/docs", "/grants?limit=500", "/me"):
        (await broker.client.get(path)).raise_for_status()
    assert (await broker.client.get("/tokens/crash")).status_code == 500


async def live(life: Life) -> None:
    async with life.broker() as broker:
        await manage(life, broker)
        await connect_in_every_way(life, broker)
        await get_tokens(life, broker)
        await take_over_and_end(life, broker)
    async with life.broker() as broker:
        for _ in range(2):
            (await broker.client.get("/tokens/alice")).raise_for_status()
        await meet_every_fault(life, broker)
        assert await lose_the_database_after_an_answer(life, broker) > 0
        await ask_nonsense(broker)
        await look_behind_the_scenes(life, broker)
        assert life.canary.look_at_objects() > 100
    assert {"200", "303", "400", "401", "403", "404", "409", "410", "413", "422", "500", "502", "503"} <= set(
        life.counter.seen
    )


async def test_a_whole_life_on_sqlite_leaves_no_secret_anywhere(tmp_path: Path) -> None:
    canary = Canary()
    with every_log_line() as told:
        async with life_in(tmp_path, canary, FakeClock()) as life:
            await live(life)
            assert (tmp_path / "broker.db-wal").exists()
            assert canary.look_at_files(tmp_path) >= 3
    lines = told.getvalue()
    assert '"event": "audit"' in lines
    assert "Traceback" in lines
    canary.look("the log", lines)
    assert sorted(set(canary.found)) == []


async def test_a_whole_life_on_postgresql_and_redis_leaves_no_secret_anywhere(
    tmp_path: Path, postgres: Server, redis: Server
) -> None:
    canary, url = Canary(), new_database(postgres, "canary")
    with every_log_line() as told:
        clock = FakeClock(datetime.now(UTC))
        settings = {"BROKER_DATABASE_URL": url, "BROKER_REDIS_URL": redis.url}
        async with life_in(tmp_path, canary, clock, **settings) as life:
            await live(life)
        assert {"grants", "audit", "callers", "applications"} <= canary.look_at_postgres(url)
        assert canary.look_at_redis(redis.url) > 0
        canary.look_at_files(tmp_path)
    canary.look("the log", told.getvalue())
    assert sorted(set(canary.found)) == []


async def test_commands_print_log_and_carry_in_their_own_line_no_secret_but_a_new_key(tmp_path: Path) -> None:
    canary = Canary()
    canary.know("a sealing key", SEALING)
    terminal = Terminal(
        tmp_path,
        environment(
            tmp_path,
            "http://127.0.0.1:9",
            BROKER_ENCRYPTION_KEYS=sealing_keys(),
            BROKER_ADMIN_KEY=f"vtb_admin{MARK}",
            VERSATURE_CLIENT_SECRET=f"settings-{MARK}",
            BROKER_LOG_LEVEL="debug",
        ),
    )
    typed = [
        ("applications add sales --client-id i --client-secret-stdin --grant-type authorization_code", f"s-{MARK}"),
        ("applications add sales --client-id i --client-secret-stdin --grant-type authorization_code", f"s-{MARK}"),
        ("callers add crm --scope tokens --user *", ""),
        ("callers rotate-key crm", ""),
        ("grants import alice --refresh-token-stdin", f"r-{MARK}"),
        ("grants import alice --refresh-token-stdin", f"r-{MARK}\n\n"),
        ("grants show alice", ""),
        ("keys status", ""),
        ("keys status --json", ""),
        ("keys rotate", ""),
        ("grants revoke alice", ""),
        *((f"{group} list{form}", "") for group in ("grants", "callers", "applications") for form in ("", " --json")),
    ]
    for line, given in typed:
        ended = await terminal.run(*line.split(), given=given)
        shown = ended.out
        if line.startswith("callers") and not ended.code and "list" not in line:
            canary.know("a new key", ended.key)
            shown = shown.replace(ended.key, "")
        canary.look(line, shown + ended.err)
    database = f"postgresql+psycopg://broker:p-{MARK}@127.0.0.1:9/x"
    for name, value in (
        ("BROKER_ENCRYPTION_KEYS", f"k:{MARK}"),
        ("BROKER_ADMIN_KEY", f"admin-{MARK}"),
        ("BROKER_REDIS_URL", f"redis://:{MARK}@host:port/x"),
        ("BROKER_REDIS_URL", f"redis://:{MARK}@127.0.0.1:9/0"),
        ("BROKER_DATABASE_URL", f"mysql://u:{MARK}@h/x"),
        ("BROKER_DATABASE_URL", database),
        ("BROKER_PORT", MARK),
        ("VERSATURE_TOKEN_URL", f"https://u:{MARK}@h/"),
    ):
        ended = await Terminal(tmp_path, {**terminal.variables, name: value}).run("callers", "list")
        canary.look(f"a wrong {name}", ended.out + ended.err)
    canary.look_at_files(tmp_path)
    await look_at_a_running_process(terminal, canary, database)
    assert sorted(set(canary.found)) == []


async def look_at_a_running_process(terminal: Terminal, canary: Canary, away: str) -> None:
    """The output and the command line of a broker whose database and Redis are away."""
    port = str(free_port())
    own = {"BROKER_PORT": port, "BROKER_DATABASE_URL": away, "BROKER_REDIS_URL": f"redis://:{MARK}@127.0.0.1:9/0"}
    process = await Terminal(terminal.folder, {**terminal.variables, **own}).start("serve")
    try:
        async with client_of(f"http://127.0.0.1:{port}") as client:
            await until_healthy(client, process)
            for path in ("/readyz", "/metrics", "/tokens/alice", "/audit"):
                answer = await client.get(path, headers=ADMIN)
                canary.look(path, answer.content)
        line = Path(f"/proc/{process.pid}/cmdline").read_bytes()  # noqa: ASYNC240 - not a file on a disk
    finally:
        process.terminate()
    told = await asyncio.wait_for(process.communicate(), 30)
    assert b"serve" in line
    for content in (line, *told):
        canary.look("a process", content)


@pytest.mark.parametrize("place", ["log", "answer", "file", "object"])
async def test_one_planted_leak_is_found(tmp_path: Path, place: str) -> None:
    canary, token = Canary(), f"access-{MARK}"
    counter = Counter(canary)
    with every_log_line() as told:
        logging.getLogger("service.anything").info(
            "renewed", extra={"detail": {"token": token}} if place == "log" else {}
        )
    canary.look("the log", told.getvalue())
    request = httpx.Request("GET", "http://broker/grants/alice")
    problem = {"detail": base64.b64encode(f"..{token}".encode()).decode()} if place == "answer" else {}
    await counter(httpx.Response(404, json=problem, request=request))
    (tmp_path / "file").write_bytes(b"\x00" + (token.encode().hex().encode() if place == "file" else b""))
    canary.look_at_files(tmp_path)
    planted = [GrantId("versature", token if place == "object" else "alice")]
    canary.look_at_objects()
    del planted
    assert {what for _, what in canary.found} == {"a marked secret"}
    expected = {"log": "the log", "answer": "the answer", "file": "file", "object": "repr of GrantId"}
    assert {found.partition(" of GET")[0] for found, _ in canary.found} == {expected[place]}


def test_a_token_answer_may_hold_its_own_token_and_no_other() -> None:
    canary = Canary()
    request = httpx.Request("GET", "http://broker/tokens/alice")
    own = {"access_token": f"one-{MARK}"}
    asyncio.run(Counter(canary)(httpx.Response(200, json=own, request=request)))
    assert canary.found == []
    asyncio.run(Counter(canary)(httpx.Response(200, json={**own, "scope": f"two-{MARK}"}, request=request)))
    assert canary.found != []
    assert json.loads(httpx.Response(200, json=own).content) == own


LOGS = """
import logging

def test_discreet():
    logging.getLogger("service").warning("renewed")

def test_talkative():
    logging.getLogger("service").warning("renewed with %s", "{mark}")

def test_printing():
    print("{mark}")
"""


async def test_every_test_of_this_suite_fails_when_it_logs_or_prints_a_token(tmp_path: Path) -> None:
    (tmp_path / "test_logs.py").write_text(LOGS.format(mark=MARK))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider"),
        *("-q", "-c", "/dev/null", "--rootdir", str(tmp_path), str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
    )
    told = (await process.communicate())[0].decode()
    assert "2 failed, 1 passed" in told, told
    assert "a token or code of the provider is in: Captured log call" in told
    assert "a token or code of the provider is in: Captured stdout call" in told
