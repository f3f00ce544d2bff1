"""A life of the product in which every secret is marked: a provider that repeats what it hears, stores that stumble."""

import base64
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx

from sandbox.app import create_sandbox
from sandbox.directory import COMPANY_CLIENT, USER_CLIENT, USERS
from sandbox.server import running
from service.adapters.sql_database import Database
from service.adapters.sql_grants import SqlGrantStore
from service.adapters.sql_migrations import migrate
from service.config import Settings
from service.container import build
from service.core.errors import StoreUnavailable
from service.core.model import GrantId
from service.core.ports import GrantStore
from service.lifecycle import Container
from service.main import create_app
from service.telemetry import Metrics
from tests.api.front import alive, bearer
from tests.support.brokers import Broker, client_of, environment, settings_from
from tests.support.canary import MARK, Canary, Counter, Parrot
from tests.support.clock import FakeClock

SEALING = (MARK * 3)[:32].encode()
OLDER = (MARK * 4)[5:37].encode()
ADMIN, CRM = bearer(f"vtb_admin{MARK}"), f"vtb_crm{MARK}"
RETURN = "https://crm.example"


class Stumbling:
    """A store of grants that may lose the database after the provider's answer, and that has a bug for one user."""

    def __init__(self, store: GrantStore) -> None:
        self._store, self.away = store, False

    def __getattr__(self, name: str) -> Any:
        return self._save_nothing if self.away and name in {"save", "connect"} else getattr(self._store, name)

    async def get(self, grant: GrantId) -> Any:
        return await self._store.get(grant) if grant.user != "crash" else cast(dict[GrantId, Any], {})[grant]

    async def _save_nothing(self, *_: object, **__: object) -> None:
        raise StoreUnavailable


@dataclass
class Life:
    """What a run works with; it may have one broker after the other."""

    folder: Path
    variables: dict[str, str]
    clock: FakeClock
    parrot: Parrot
    versature: str
    counter: Counter
    grants: Stumbling
    containers: list[Container] = field(default_factory=list)

    @property
    def canary(self) -> Canary:
        return self.counter.canary

    @contextlib.asynccontextmanager
    async def broker(self) -> AsyncIterator[Broker]:
        def make(settings: Settings, metrics: Metrics) -> Container:
            grants = cast(GrantStore, self.grants)
            self.containers.append(build(settings, metrics, clock=self.clock, grants=grants, works_alone=False))
            return self.containers[-1]

        app = create_app(settings_from(self.variables), make=make)
        async with alive(app) as started, running(started) as served, client_of(served.base_url) as client:
            client.headers["Authorization"] = f"Bearer {CRM}"
            client.event_hooks["response"].append(self.counter)
            yield Broker(served.base_url, client)

    async def mint(self, user: str) -> dict[str, Any]:
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.post(f"{self.versature}/sandbox/grants", json={"user": user})
        minted: dict[str, Any] = answer.raise_for_status().json()
        return minted

    async def switch(self, **positions: object) -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            (await client.patch(f"{self.versature}/sandbox/switches", json=positions)).raise_for_status()


@contextlib.asynccontextmanager
async def life_in(folder: Path, canary: Canary, clock: FakeClock, **settings: str) -> AsyncIterator[Life]:
    variables = environment(folder, "http://unset", **settings)
    redirect_uri = f"http://127.0.0.1:{variables['BROKER_PORT']}/oauth/callback"
    app = create_sandbox(redirect_uris=[redirect_uri], now=lambda: clock.now().timestamp(), mark=MARK)
    parrot = Parrot(app, canary)
    async with running(parrot) as versature:
        variables |= {
            "VERSATURE_BASE_URL": f"{versature.base_url}/api",
            "VERSATURE_REVOCATION_URL": f"{versature.base_url}/api/oauth/revoke/",
            "VERSATURE_PKCE": "true",
            "BROKER_ADMIN_KEY": f"vtb_admin{MARK}",
            "BROKER_RETURN_ORIGINS": RETURN,
            "BROKER_CALLER_REQUESTS_PER_SECOND": "200",
            "BROKER_ENCRYPTION_KEYS": sealing_keys(),
        }
        for what, secret in (("users' secret", USER_CLIENT.secret), ("company's secret", COMPANY_CLIENT.secret)):
            canary.know(what, secret)
        for key in (SEALING, OLDER):
            canary.know("a sealing key", key)
        for password in USERS.values():
            canary.know("a password at the provider", password)
        settings_now = settings_from(variables)
        database = Database(settings_now.broker_database_url.get_secret_value(), pool_size=5, clock=clock)
        await migrate(database)
        life = Life(
            folder,
            variables,
            clock,
            parrot,
            versature.base_url,
            Counter(canary),
            Stumbling(SqlGrantStore(database)),
        )
        try:
            yield life
        finally:
            await database.close()


def sealing_keys() -> str:
    return f"new:{base64.b64encode(SEALING).decode()},old:{base64.b64encode(OLDER).decode()}"
