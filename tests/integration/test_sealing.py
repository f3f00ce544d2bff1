"""What lies in the database file: sealed to its owner, and in no spelling in the clear."""

import base64
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import parse_qs, quote, quote_plus, urlsplit

import httpx
import pytest
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from sandbox.app import create_sandbox
from sandbox.directory import COMPANY_CLIENT, USER_CLIENT
from sandbox.server import running
from tests.support.brokers import KEY, SEALING_KEY, Broker, broker_here, environment, furnish, settings_from
from tests.support.browser import browser_of, connect, invite
from tests.support.world import World

LIFE = 3600
OTHER_KEY = "other:" + base64.b64encode(b"o" * 32).decode()


@pytest.fixture
async def broker(world: World) -> AsyncIterator[Broker]:
    """A broker that asks the database every time; alice and bob are connected."""
    async with world.broker(BROKER_LOCAL_CACHE_SECONDS="0") as running_broker:
        for user in ("alice", "bob"):
            await connect(running_broker, user)
        yield running_broker


def _swap(database: Path) -> None:
    """Exchange what alice's and bob's rows hold sealed, behind the broker's back."""
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        found = connection.execute("SELECT user, access_sealed, refresh_sealed FROM grants")
        sealed = {user: values for user, *values in found}
        for owner, other in (("alice", "bob"), ("bob", "alice")):
            assert sealed[owner] != sealed[other]
            connection.execute(
                "UPDATE grants SET access_sealed = ?, refresh_sealed = ? WHERE user = ?", (*sealed[other], owner)
            )


def _grant_rows(database: Path) -> list[tuple[object, ...]]:
    """All but when the background looks next: it leaves alone what nobody could open."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(grants)") if row[1] != "renew_at"]
        names = ", ".join(f'"{column}"' for column in columns)
        return connection.execute(f"SELECT {names} FROM grants ORDER BY application, user").fetchall()  # noqa: S608


async def _grant(broker: Broker, user: str) -> tuple[str, str | None]:
    grant = (await broker.client.get(f"/grants/{user}")).json()
    return grant["state"], grant["reason"]


@pytest.mark.parametrize("expired", [False, True], ids=["while valid", "expired"])
async def test_swapped_sealed_columns_are_undecryptable_and_swapping_back_heals(
    world: World, broker: Broker, expired: bool
) -> None:
    if expired:
        world.clock.advance(LIFE)
    asked = len(await world.versature.calls(endpoint="token"))
    _swap(world.database)
    before = _grant_rows(world.database)
    for user in ("alice", "bob"):
        answer = await broker.client.get(f"/tokens/{user}")
        assert (answer.status_code, answer.json()["code"]) == (409, "reauthorization_required"), answer.text
        assert answer.json()["reason"] == "undecryptable"
        assert await _grant(broker, user) == ("reauthorization_required", "undecryptable")
    listed = (await broker.client.get("/grants?state=connected")).json()["items"]
    shown = {item["user"]: (item["state"], item["reason"]) for item in listed}
    assert shown == dict.fromkeys(("alice", "bob"), ("reauthorization_required", "undecryptable"))
    assert _grant_rows(world.database) == before, "derived, never stored"
    assert len(await world.versature.calls(endpoint="token")) == asked, "nobody's token was sent for anybody"
    _swap(world.database)
    for user in ("alice", "bob"):
        answer = await broker.client.get(f"/tokens/{user}")
        assert await world.versature.whose(answer.json()["access_token"]) == user
        assert await _grant(broker, user) == ("connected", None)


async def test_rows_under_an_unknown_key_are_our_trouble_and_nothing_is_marked(world: World, broker: Broker) -> None:
    del broker
    before = _grant_rows(world.database)
    world.clock.advance(LIFE)
    asked = len(await world.versature.calls(endpoint="token"))
    async with world.broker(BROKER_ENCRYPTION_KEYS=OTHER_KEY) as stranger:
        for user in ("alice", "bob"):
            answer = await stranger.client.get(f"/tokens/{user}")
            assert (answer.status_code, answer.json()["code"]) == (503, "key_unavailable"), answer.text
            assert int(answer.headers["Retry-After"]) > 0
            assert await _grant(stranger, user) == ("connected", None)
        ready = await stranger.client.get("/readyz")
        assert (ready.status_code, ready.json()["parts"]["keys"]["status"]) == (503, "not_ready")
    assert _grant_rows(world.database) == before
    assert len(await world.versature.calls(endpoint="token")) == asked
    async with world.broker(BROKER_ENCRYPTION_KEYS=f"{OTHER_KEY},{SEALING_KEY}") as healed:
        for user in ("alice", "bob"):
            answer = await healed.client.get(f"/tokens/{user}")
            assert await world.versature.whose(answer.json()["access_token"]) == user
        assert (await healed.client.get("/readyz")).status_code == 200


async def test_a_key_of_the_same_name_and_other_contents_is_undecryptable_and_marks_nothing(
    world: World, broker: Broker
) -> None:
    del broker
    before = _grant_rows(world.database)
    impostor = "test:" + OTHER_KEY.partition(":")[2]
    async with world.broker(BROKER_ENCRYPTION_KEYS=impostor) as stranger:
        answer = await stranger.client.get("/tokens/alice")
        assert (answer.status_code, answer.json()["reason"]) == (409, "undecryptable")
    assert _grant_rows(world.database) == before


class _Wiretap:
    """The sandbox with an ear on its token endpoint: what a broker sends there must not lie anywhere."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.heard: dict[str, set[str]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/api/oauth/token/":
            body = await Request(scope, receive).body()
            for name, values in parse_qs(body.decode()).items():
                self.heard.setdefault(name, set()).update(values)

            async def again() -> dict[str, object]:
                return {"type": "http.request", "body": body, "more_body": False}

            await self._app(scope, again, send)
        else:
            await self._app(scope, receive, send)


def _spellings(secret: str) -> Iterator[bytes]:
    """How *secret* might lie somewhere: as it is, or encoded, also as a part of something longer."""
    raw = secret.encode()
    yield raw
    yield raw.hex().encode()
    yield raw.hex().upper().encode()
    yield raw[::-1]
    for encoding in (quote, quote_plus):
        yield encoding(secret, safe="").encode()
    yield secret.encode("utf-16-le")
    for skipped in range(3):
        # The characters of base64 that depend on nothing but the secret, wherever in a longer text it begins.
        encoded = base64.b64encode(b"\0" * skipped + raw)
        certain = encoded[(4 * skipped + 2) // 3 : len(encoded) - (4 if (skipped + len(raw)) % 3 else 0)]
        yield certain
        yield certain.translate(bytes.maketrans(b"+/", b"-_"))


def _contents(folder: Path) -> dict[str, bytes]:
    """Of all files; one that waits in escrow may go away meanwhile."""
    found = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            found[path.name] = path.read_bytes()
    return found


def _found(secrets: dict[str, str], folder: Path) -> list[tuple[str, str]]:
    return [
        (name, what)
        for name, content in _contents(folder).items()
        for what, secret in secrets.items()
        if any(spelling in content for spelling in _spellings(secret))
    ]


def test_a_secret_is_found_in_every_spelling(tmp_path: Path) -> None:
    secret = "s3cret/with+signs?0123456789"
    for number, spelling in enumerate(_spellings(secret)):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "file").write_bytes(b"before" + spelling + b"after")
        assert _found({"secret": secret}, folder) == [("file", "secret")]


async def test_no_secret_and_no_token_lies_in_the_database_or_its_journals_in_the_clear(tmp_path: Path) -> None:
    variables = environment(tmp_path, "http://unset", VERSATURE_PKCE="true")
    redirect_uri = f"http://127.0.0.1:{variables['BROKER_PORT']}/oauth/callback"
    ear = _Wiretap(create_sandbox(redirect_uris=[redirect_uri]))
    async with running(ear) as versature:
        settings = settings_from({**variables, "VERSATURE_BASE_URL": f"{versature.base_url}/api"})
        await furnish(settings)
        async with broker_here(settings) as broker, browser_of(broker) as browser:
            link = await invite(broker, "alice")
            departure = await browser.depart(link)
            [pending] = parse_qs(urlsplit(departure.headers["Location"]).query)["state"]
            open_trip = {
                "ticket": link.rpartition("/")[2],
                "state": pending,
                "cookie": browser.http.cookies["tb-connect"],
            }
            assert _found(open_trip, tmp_path) == []
            await browser.open(await browser.decide("alice", departure))
            first = (await broker.client.get("/tokens/alice")).json()["access_token"]
            fresh = await broker.client.post("/tokens/alice/rejected", json={"access_token": first})
            company = await broker.client.get("/tokens/@company")
            await _import(broker, versature.base_url)
            secrets = {
                **open_trip,
                "key": KEY,
                "key without prefix": KEY.removeprefix("vtb_"),
                "users' client secret": USER_CLIENT.secret,
                "company's client secret": COMPANY_CLIENT.secret,
                "access token": first,
                "renewed access token": fresh.json()["access_token"],
                "company's access token": company.json()["access_token"],
            }
            for heard in ("code", "code_verifier", "refresh_token", "client_secret"):
                secrets |= {f"{heard} {number}": value for number, value in enumerate(sorted(ear.heard[heard]))}
            assert {"broker.db", "broker.db-wal", "broker.db-shm"} <= set(_contents(tmp_path))
            assert _found(secrets, tmp_path) == []
        assert _found(secrets, tmp_path) == []


async def _import(broker: Broker, versature: str) -> None:
    """Take over a grant and use it, so that its refresh token is heard and its successor stored."""
    async with httpx.AsyncClient(trust_env=False) as client:
        minted = (await client.post(f"{versature}/sandbox/grants", json={"user": "bob"})).json()
    await broker.client.put("/grants/bob", json={"refresh_token": minted["refresh_token"]})
    (await broker.client.get("/tokens/bob")).raise_for_status()
