"""A broker at whose counter a test stands: over TCP in the test's own event loop, with its parts within reach."""

import asyncio
import contextlib
import functools
import tempfile
from collections.abc import AsyncIterator, MutableMapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from sandbox.directory import COMPANY_CLIENT
from sandbox.server import running
from service.adapters.sql_directory import SqlDirectoryStore
from service.config import Settings
from service.container import build
from service.core.access.registration import Registration
from service.core.model import Caller, GrantType
from service.core.model import Scope as CallerScope
from service.core.records import ApiKey
from service.core.sealing.digests import secret_digest
from service.lifecycle import Container
from service.main import create_app
from service.telemetry import Metrics
from tests.contract.databases import migrated_file
from tests.support.brokers import KEY, Broker, client_of, environment, settings_from
from tests.support.clock import FakeClock
from tests.support.versatures import Versature, versature_here

ADMIN_KEY = "vtb_admin"
RETURN_ORIGIN = "https://crm.example"
Headers = dict[str, str]


@dataclass(frozen=True, slots=True)
class Front:
    """What a test of the HTTP contract works with. `app` is the same broker for whoever speaks ASGI."""

    broker: Broker
    app: ASGIApp
    container: Container
    clock: FakeClock
    versature: Versature
    database: Path
    metrics: Metrics

    @property
    def client(self) -> httpx.AsyncClient:
        """Carries `KEY`, the key of `crm`, which may do everything for everybody."""
        return self.broker.client

    async def bare(self, method: str, path: str, headers: Headers | None = None, **content: Any) -> httpx.Response:
        """A request with exactly these *headers*: no key unless there is one among them."""
        request = self.client.build_request(method, path, **content)
        del request.headers["Authorization"]
        request.headers.update(headers or {})
        return await self.client.send(request)

    async def admit(
        self,
        name: str,
        *scopes: CallerScope,
        users: tuple[str, ...] = ("*",),
        applications: tuple[str, ...] = ("*",),
        expires_at: datetime | None = None,
        key: str | None = None,
    ) -> Headers:
        """Make a caller and return the headers that it sends."""
        key = key or f"vtb_{name}"
        caller = Caller(name, frozenset(scopes), users, applications)
        rows = SqlDirectoryStore(self.container.database)
        assert await rows.add_caller(caller, ApiKey(secret_digest(key), name, expires_at))
        return bearer(key)

    async def register(self, name: str, *grant_types: GrantType) -> None:
        """Make an application that is the same registration at the provider as the others."""
        await self.container.services.administration.add_application(self.registration(name, *grant_types))

    def registration(self, name: str, *grant_types: GrantType) -> Registration:
        return Registration(
            name=name,
            client_id=COMPANY_CLIENT.id,
            client_secret=COMPANY_CLIENT.secret,
            grant_types=frozenset(grant_types),
            base_url=f"{self.versature.base_url}/api",
        )

    async def hold(self, user: str) -> dict[str, Any]:
        """Let *user* be connected without any login; returns the provider's token answer."""
        (minted,) = await self.versature.mint(user)
        kept = {name: minted[name] for name in ("access_token", "refresh_token", "expires_in", "scope")}
        answer = await self.client.put(f"/grants/{quote(user, safe='@')}", json=kept)
        assert answer.status_code == 201, answer.text
        return minted

    @contextlib.asynccontextmanager
    async def database_away(self) -> AsyncIterator[None]:
        """No connection to the database can be had: something else is where its file was."""
        aside = self.database.with_suffix(".aside")
        await self.container.database.engine.dispose()
        self.database.rename(aside)
        self.database.mkdir()
        try:
            yield
        finally:
            self.database.rmdir()
            aside.rename(self.database)


@functools.cache
def _migrated() -> bytes:
    """An empty database with all its tables: migrating one takes longer than many a test."""
    with tempfile.TemporaryDirectory() as folder:
        return migrated_file(Path(folder)).read_bytes()


@contextlib.asynccontextmanager
async def front_in(folder: Path, **settings: str) -> AsyncIterator[Front]:
    """A broker with its database in *folder* and *settings* of its own.

    `{versature}` in a setting stands for the sandbox's address.
    """
    clock, variables = FakeClock(), environment(folder, "http://unset")
    (folder / "broker.db").write_bytes(await asyncio.to_thread(_migrated))
    origin = settings.get("BROKER_PUBLIC_URL", f"http://127.0.0.1:{variables['BROKER_PORT']}").rstrip("/")
    async with versature_here(clock, [f"{origin}/oauth/callback"]) as versature:
        variables |= {
            "VERSATURE_BASE_URL": f"{versature.base_url}/api",
            "BROKER_ADMIN_KEY": ADMIN_KEY,
            "BROKER_RETURN_ORIGINS": RETURN_ORIGIN,
        }
        containers: list[Container] = []
        measured: list[Metrics] = []

        def keep(found: Settings, metrics: Metrics) -> Container:
            measured.append(metrics)
            containers.append(build(found, metrics, clock=clock, works_alone=False))
            return containers[0]

        own = {name: value.replace("{versature}", versature.base_url) for name, value in settings.items()}
        app = create_app(settings_from({**variables, **own}), make=keep)
        async with (
            alive(app) as started,
            running(started, port=int(variables["BROKER_PORT"])) as served,
            client_of(served.base_url) as client,
        ):
            broker = Broker(served.base_url, client)
            front = Front(broker, started, containers[0], clock, versature, folder / "broker.db", measured[0])
            await front.register("company", GrantType.CLIENT_CREDENTIALS)
            users = ("*", "@company")
            await front.admit("crm", CallerScope.TOKENS, CallerScope.GRANTS, users=users, key=KEY)
            yield front


@contextlib.asynccontextmanager
async def alive(app: ASGIApp) -> AsyncIterator[ASGIApp]:
    """*app* between its start-up and its shutdown, as a server would run it."""
    state: dict[str, Any] = {}
    inbox: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
    outbox: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()

    async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": dict(state)}, receive, send)

    living = asyncio.create_task(_live(app, {"type": "lifespan", "state": state}, inbox.get, outbox.put))
    await inbox.put({"type": "lifespan.startup"})
    assert await outbox.get() == {"type": "lifespan.startup.complete"}
    try:
        yield with_state
    finally:
        await inbox.put({"type": "lifespan.shutdown"})
        await living


async def _live(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)


def bearer(key: str) -> Headers:
    return {"Authorization": f"Bearer {key}"}


def code_of(answer: httpx.Response) -> tuple[int, str | None]:
    """Status and, of a problem, its code."""
    is_problem = answer.headers.get("Content-Type") == "application/problem+json"
    return answer.status_code, answer.json()["code"] if is_problem else None
