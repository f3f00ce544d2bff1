"""Brokers to test: inside the test's own event loop, or as real processes."""

import asyncio
import base64
import contextlib
import os
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx
import uvicorn

from sandbox.directory import COMPANY_CLIENT, USER_CLIENT
from service.config import Settings, load_settings
from service.container import build
from service.core.access.registration import Registration
from service.core.clock import Clock
from service.core.model import Caller, GrantType, Scope
from service.core.redeeming.steps import Witness, nobody
from service.lifecycle import Container
from service.main import create_app
from service.telemetry import Metrics
from tests.support.ports import free_port

KEY = "vtb_" + "k" * 43
"""The key of the caller `crm`, which may do everything a caller may, for everybody."""

SEALING_KEY = "test:" + base64.b64encode(b"s" * 32).decode()
START_SECONDS = 30


def environment(folder: Path, sandbox_url: str, **overrides: str | int | float) -> dict[str, str]:
    """A broker's settings: its database in *folder*, its users' application at *sandbox_url*."""
    port = free_port()
    found = {
        "BROKER_HOST": "127.0.0.1",
        "BROKER_PORT": port,
        "BROKER_DATABASE_URL": f"sqlite+aiosqlite:///{folder / 'broker.db'}",
        "BROKER_ENCRYPTION_KEYS": SEALING_KEY,
        "BROKER_ESCROW_DIR": folder / "escrow",
        "VERSATURE_BASE_URL": f"{sandbox_url}/api",
        "VERSATURE_CLIENT_ID": USER_CLIENT.id,
        "VERSATURE_CLIENT_SECRET": USER_CLIENT.secret,
        "VERSATURE_GRANT_TYPES": "authorization_code",
    }
    return {name: str(value) for name, value in {**found, **overrides}.items()}


@contextlib.contextmanager
def applied(variables: Mapping[str, str]) -> Iterator[None]:
    """The process's environment with *variables* and none of its own settings."""
    before = dict(os.environ)
    for name in before:
        if name.startswith(("BROKER_", "VERSATURE_")):
            del os.environ[name]
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def settings_from(variables: Mapping[str, str]) -> Settings:
    with applied(variables):
        return load_settings()


async def furnish(settings: Settings) -> None:
    """Store the caller `crm` with `KEY`, and the company's own application."""
    container = build(settings, Metrics(), works_alone=False)
    try:
        await container.start()
        company = Registration(
            name="company",
            client_id=COMPANY_CLIENT.id,
            client_secret=COMPANY_CLIENT.secret,
            grant_types=frozenset({GrantType.CLIENT_CREDENTIALS}),
            base_url=settings.versature_base_url,
        )
        await container.services.administration.add_application(company)
        crm = Caller("crm", frozenset({Scope.TOKENS, Scope.GRANTS}), ("*", "@company"), ("*",))
        await container.services.administration.add_caller(crm, KEY)
    finally:
        await container.close()


class _QuietServer(uvicorn.Server):
    """Leaves the test run's own signal handling alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass(frozen=True, slots=True)
class Broker:
    """A running broker, a client that carries `KEY`, and the broker's process if it has one of its own."""

    base_url: str
    client: httpx.AsyncClient
    process: asyncio.subprocess.Process | None = None

    def pause(self) -> None:
        """Stop the process where it is, as a virtual machine that is being moved would."""
        self.send(signal.SIGSTOP)

    def go_on(self) -> None:
        self.send(signal.SIGCONT)

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)


@contextlib.asynccontextmanager
async def broker_here(
    settings: Settings, *, clock: Clock | None = None, witness: Witness = nobody, works_alone: bool = False
) -> AsyncIterator[Broker]:
    """A broker in this event loop, over TCP, by *clock*'s time; *witness* is told of its steps.

    With a *clock* of the test's it does nothing by itself, unless it *works_alone*.
    """

    def make(settings: Settings, metrics: Metrics) -> Container:
        return build(settings, metrics, clock=clock, witness=witness, works_alone=works_alone or clock is None)

    # asyncio switches Nagle's algorithm off only where the protocol is named; with it an answer takes 40 ms longer.
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    app = create_app(settings, make=make)
    server = _QuietServer(uvicorn.Config(app, log_config=None, access_log=False, lifespan="on"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        if serving.done():
            serving.result()
            raise RuntimeError("the broker did not start")
        await asyncio.sleep(0.005)
    base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        async with client_of(base_url) as client:
            yield Broker(base_url, client)
    finally:
        server.should_exit = True
        await serving


@contextlib.asynccontextmanager
async def broker_process(
    variables: Mapping[str, str], *, log: int | IO[bytes] = asyncio.subprocess.DEVNULL, tree: Path | None = None
) -> AsyncIterator[Broker]:
    """A broker as a process of its own, ended by SIGTERM; it must end well, unless the test has killed it.

    It is of the version in *tree*, or of this one.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("BROKER_", "VERSATURE_"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service", "serve", env={**clean, **variables}, stderr=log, cwd=tree
    )
    base_url = f"http://{variables['BROKER_HOST']}:{variables['BROKER_PORT']}"
    try:
        async with client_of(base_url) as client:
            await until_healthy(client, process)
            yield Broker(base_url, client, process)
    finally:
        if process.returncode is None:
            process.terminate()
        code = await asyncio.wait_for(process.wait(), 30)
    assert code in {0, -signal.SIGKILL}, f"the broker ended with {code}"


def client_of(base_url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=base_url,
        headers={"Authorization": f"Bearer {KEY}"},
        timeout=30,
        trust_env=False,
        limits=_MANY,
        verify=_TLS,
    )


_MANY = httpx.Limits(max_connections=1000, max_keepalive_connections=100)
_TLS = ssl.create_default_context()  # shared, because making one takes longer than most tests


async def until_healthy(client: httpx.AsyncClient, process: asyncio.subprocess.Process) -> None:
    """Return once the broker that is *process* answers."""
    for _ in range(START_SECONDS * 20):
        assert process.returncode is None, f"the broker ended with {process.returncode} before it served"
        with contextlib.suppress(httpx.TransportError):
            if (await client.get("/healthz")).is_success:
                return
        await asyncio.sleep(0.05)
    raise AssertionError("the broker did not answer in time")
