"""Where the pages' commands are tried: a folder, a clean environment, and whatever the page takes for granted.

demo    `make demo` is running, as the README's first command starts it; `python` is one that has httpx
empty   a folder with nothing but the program, and a sandbox in Versature's place
house   `empty` with a broker that serves; its settings are exported and `token-broker` is on PATH; alice is connected
fleet   `empty` with PostgreSQL and Redis
docker  `empty` with a stand-in for Docker: what would run in our image runs here
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from sandbox.directory import COMPANY_CLIENT, USER_CLIENT, USERS
from tests.house.tree import ROOT
from tests.support.brokers import KEY, environment, furnish, settings_from
from tests.support.ports import free_port, free_ports
from tests.support.servers import Server, new_database

PATIENCE_SECONDS = 60
PROGRAMS = ROOT / ".venv" / "bin"
_LINKED = ("Makefile", "pyproject.toml", "requirements.txt", ".venv")


@dataclass(slots=True)
class World:
    """A folder, an environment, and what stands in the pages for something else here."""

    folder: Path
    variables: dict[str, str]
    stands_for: dict[str, str] = field(default_factory=dict)

    def here(self, text: str) -> str:
        """*text* with this world's addresses and secrets."""
        for written, meant in self.stands_for.items():
            text = text.replace(written, meant)
        return text


def _clean(folder: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """As a login shell would have it: no setting of ours, and no program of ours by its name."""
    found = [place for place in os.environ["PATH"].split(os.pathsep) if Path(place) != PROGRAMS]
    path = os.pathsep.join([str(folder / "programs"), *found])
    return {"PATH": path, "HOME": str(folder), "LANG": "C.UTF-8", "COLUMNS": "120", **variables}


def _with_our_programs(variables: Mapping[str, str]) -> dict[str, str]:
    return {**variables, "PATH": f"{PROGRAMS}{os.pathsep}{variables['PATH']}"}


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(PATIENCE_SECONDS * 20):
        assert process.poll() is None, f"{process.args!r} ended with {process.returncode}"
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, trust_env=False).is_success:
                return
        time.sleep(0.05)
    raise AssertionError(f"{url} did not answer")


@contextlib.contextmanager
def _running(*command: str, env: Mapping[str, str], cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    """*command*, its children too, until the block ends."""
    process = subprocess.Popen(
        command, env=env, cwd=cwd, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(PATIENCE_SECONDS)


@contextlib.contextmanager
def demo(folder: Path) -> Iterator[World]:
    port = free_ports(2)
    env = _with_our_programs(_clean(folder, {"PORT": str(port)}))
    with _running("make", "demo", env=env, cwd=ROOT) as process:
        _wait_for(f"http://127.0.0.1:{port}/problems/not_found", process)
        until = time.monotonic() + PATIENCE_SECONDS
        while not httpx.get(
            f"http://127.0.0.1:{port}/tokens/alice", headers={"Authorization": "Bearer vtb_demo"}, trust_env=False
        ).is_success:
            assert time.monotonic() < until, "alice was not connected"
            time.sleep(0.05)
        yield World(folder, env, {"127.0.0.1:8001": f"127.0.0.1:{port + 1}", "127.0.0.1:8000": f"127.0.0.1:{port}"})


@contextlib.contextmanager
def empty(folder: Path) -> Iterator[World]:
    port, provider = free_port(), free_port()
    for name in _LINKED:
        (folder / name).symlink_to(ROOT / name)
    sandbox = f"http://127.0.0.1:{provider}"
    env = _clean(folder, {"BROKER_PORT": str(port), "VERSATURE_BASE_URL": f"{sandbox}/api"})
    command = (sys.executable, "-m", "sandbox", "--port", str(provider))
    callback = f"--redirect-uri=http://127.0.0.1:{port}/oauth/callback"
    with _running(*command, callback, env=env, cwd=ROOT) as process:
        _wait_for(f"{sandbox}/sandbox/switches", process)
        stands_for = {
            "127.0.0.1:8000": f"127.0.0.1:{port}",
            "your-client-id": USER_CLIENT.id,
            "your-client-secret": USER_CLIENT.secret,
            "sandbox-company-secret": COMPANY_CLIENT.secret,
        }
        yield World(folder, env, stands_for)


@contextlib.contextmanager
def house(folder: Path) -> Iterator[World]:
    with empty(folder) as world:
        sandbox = world.variables["VERSATURE_BASE_URL"].removesuffix("/api")
        settings = environment(
            folder, sandbox, BROKER_PORT=world.variables["BROKER_PORT"], BROKER_ADMIN_KEY="vtb_admin"
        )
        world.variables = _with_our_programs(world.variables) | settings
        asyncio.run(furnish(settings_from(settings)))
        minted = httpx.post(f"{sandbox}/sandbox/grants", json={"users": ["alice", "bob"]}, trust_env=False)
        tokens = {item["user"]: item["refresh_token"] for item in minted.raise_for_status().json()["items"]}
        (folder / "bobs-refresh-token").write_text(tokens["bob"])
        broker = f"http://127.0.0.1:{settings['BROKER_PORT']}"
        with _running("token-broker", "serve", env=world.variables, cwd=folder) as process:
            _wait_for(f"{broker}/healthz", process)
            imported = {"refresh_token": tokens["alice"]}
            bearer = {"Authorization": f"Bearer {KEY}"}
            httpx.put(f"{broker}/grants/alice", json=imported, headers=bearer, trust_env=False).raise_for_status()
            yield world


@contextlib.contextmanager
def fleet(folder: Path, postgres: Server, redis: Server) -> Iterator[World]:
    with empty(folder) as world:
        world.stands_for["postgresql+psycopg://broker@db/broker"] = new_database(postgres, f"docs{os.getpid()}")
        world.stands_for["redis://cache:6379/0"] = redis.url
        yield world


@contextlib.contextmanager
def docker(folder: Path) -> Iterator[World]:
    """`docker run … token-broker COMMAND` runs COMMAND; tests/house/test_image.py judges what is built and composed."""
    with empty(folder) as world:
        stand_in = folder / "programs" / "docker"
        stand_in.parent.mkdir()
        stand_in.write_text(
            f'#!/bin/sh\n[ "$1" = run ] || exit 0\nPATH={PROGRAMS}:$PATH\n'
            'while [ "$1" != token-broker ]; do shift; done\nshift\nexec "${@:-true}"\n'
        )
        stand_in.chmod(0o755)
        yield world


@contextlib.contextmanager
def opened(name: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """The world of that *name*, in *folder*."""
    match name:
        case "fleet":
            servers = [request.getfixturevalue(server) for server in ("postgres", "redis")]
            with fleet(folder, *servers) as world:
                yield world
        case _:
            with {"demo": demo, "empty": empty, "house": house, "docker": docker}[name](folder) as world:
                yield world


def log_in(connect_url: str, user: str) -> None:
    """What a person does in a browser with *connect_url*."""
    with httpx.Client(timeout=10, trust_env=False) as browser:
        browser.get(connect_url).raise_for_status()
        departure = browser.post(connect_url)
        login = {"username": user, "password": USERS[user], "decision": "allow"}
        returning = browser.post(departure.headers["Location"], data=login)
        arrival = browser.get(returning.headers["Location"])
        assert arrival.headers["Location"].endswith("/connect/done"), arrival.text
