"""`make demo`: a sandbox Versature and a broker in front of it, with alice connected and bob not."""

import argparse
import asyncio
import base64
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from sandbox.directory import COMPANY_CLIENT, USER_CLIENT, USERS
from service.api.deps import DEMO_KEY
from service.config import load_settings
from service.container import build
from service.core.access.registration import Registration
from service.core.model import Caller, GrantType, Scope
from service.telemetry import Metrics

HOST = "127.0.0.1"
START_SECONDS = 30
ENDING = (signal.SIGINT, signal.SIGTERM)


class DemoFailed(Exception):
    """The demo cannot go on; its message is one line for the person at the terminal."""


def main() -> int:
    """Run the demo in front until Ctrl-C or SIGTERM; 0 when it was stopped, 1 when it could not go on."""
    arguments = argparse.ArgumentParser(prog="python -m sandbox.demo", description=__doc__)
    arguments.add_argument("--port", type=int, default=8000, help="the broker's port; the sandbox takes the next one")
    port = int(arguments.parse_args().port)
    for number in ENDING:
        signal.signal(number, _stop)
    with tempfile.TemporaryDirectory(prefix="token-broker-demo-", ignore_cleanup_errors=True) as folder:
        processes: list[subprocess.Popen[bytes]] = []
        try:
            _run(port, Path(folder), processes)
        except DemoFailed as failure:
            print(f"demo: {failure}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 0
        finally:
            _end(processes)
    return 0


def _stop(_signal: int, _frame: object) -> None:
    """Once: who signals a whole process group makes `make` pass the same on to us a second time."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _run(port: int, folder: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    broker_url, sandbox_url = f"http://{HOST}:{port}", f"http://{HOST}:{port + 1}"
    for wanted in (port, port + 1):
        _require_free(wanted)
    environment = _environment(port, folder, sandbox_url)
    callback = f"{broker_url}/oauth/callback"
    processes.append(_start(["-m", "sandbox", "--port", str(port + 1), "--redirect-uri", callback], environment))
    asyncio.run(_furnish(environment))
    processes.append(_start(["-m", "service", "serve"], environment))
    _wait_until_answered(f"{broker_url}/healthz", processes)
    _wait_until_answered(f"{sandbox_url}/sandbox/switches", processes)
    _connect_alice(broker_url)
    _explain(broker_url, sandbox_url)
    while all(process.poll() is None for process in processes):
        time.sleep(0.2)
    raise DemoFailed("a process ended by itself; its last words are above")


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError):
            raise DemoFailed(f"port {port} is taken; try: make demo PORT=9000") from None


def _environment(port: int, folder: Path, sandbox_url: str) -> dict[str, str]:
    """The caller's own environment without any setting of the broker, and the demo's settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("BROKER_", "VERSATURE_"))}
    return inherited | {
        "BROKER_HOST": HOST,
        "BROKER_PORT": str(port),
        "BROKER_DATABASE_URL": f"sqlite+aiosqlite:///{folder / 'token-broker.db'}",
        "BROKER_ENCRYPTION_KEYS": f"demo:{base64.b64encode(os.urandom(32)).decode()}",
        "BROKER_LOG_LEVEL": "warning",
        "BROKER_LOG_FORMAT": "human",
        "VERSATURE_BASE_URL": f"{sandbox_url}/api",
        "VERSATURE_REVOCATION_URL": f"{sandbox_url}/api/oauth/revoke/",
        "VERSATURE_CLIENT_ID": USER_CLIENT.id,
        "VERSATURE_CLIENT_SECRET": USER_CLIENT.secret,
        "VERSATURE_GRANT_TYPES": "authorization_code",
    }


def _start(arguments: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, *arguments], env=environment, stdout=subprocess.DEVNULL)  # noqa: S603


async def _furnish(environment: dict[str, str]) -> None:
    """Store the demo's caller and the company's own application, as the command line would."""
    os.environ.update(environment)
    settings = load_settings()
    container = build(settings, Metrics(), works_alone=False)
    try:
        await container.start()
        await container.services.administration.add_application(
            Registration(
                name="company",
                client_id=COMPANY_CLIENT.id,
                client_secret=COMPANY_CLIENT.secret,
                grant_types=frozenset({GrantType.CLIENT_CREDENTIALS}),
                base_url=settings.versature_base_url,
            )
        )
        demo = Caller("demo", frozenset({Scope.TOKENS, Scope.GRANTS}), ("*", "@company"), ("*",))
        await container.services.administration.add_caller(demo, DEMO_KEY)
    finally:
        await container.close()


def _wait_until_answered(url: str, processes: Sequence[subprocess.Popen[bytes]]) -> None:
    give_up_at = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up_at:
        if any(process.poll() is not None for process in processes):
            raise DemoFailed("a process ended by itself; its last words are above")
        try:
            httpx.get(url, timeout=1, trust_env=False).raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.05)
        else:
            return
    raise DemoFailed(f"{url} did not answer within {START_SECONDS} s")


def _connect_alice(broker_url: str) -> None:
    """Walk the real connect flow, as alice's browser would."""
    with httpx.Client(timeout=10, trust_env=False) as browser:
        invitation = browser.post(
            f"{broker_url}/grants/alice/connect", headers={"Authorization": f"Bearer {DEMO_KEY}"}
        ).raise_for_status()
        link = invitation.json()["connect_url"]
        browser.get(link).raise_for_status()
        departure = browser.post(link)
        login = {"username": "alice", "password": USERS["alice"], "decision": "allow"}
        returning = browser.post(departure.headers["Location"], data=login)
        arrival = browser.get(returning.headers["Location"])
        if not re.search(r"/connect/done$", arrival.headers.get("Location", "")):
            raise DemoFailed(f"alice could not be connected: {arrival.status_code}")


def _explain(broker_url: str, sandbox_url: str) -> None:
    logins = ", ".join(f"{user} / {password}" for user, password in USERS.items())
    curl = f"curl -H 'Authorization: Bearer {DEMO_KEY}'"
    print(
        f"""
The token broker is at {broker_url}, a sandbox Versature at {sandbox_url}. alice is connected, bob is not.

A token for alice, for the company, and a problem:
  {curl} {broker_url}/tokens/alice
  {curl} {broker_url}/tokens/@company
  {curl} {broker_url}/tokens/bob

Use alice's token (paste both lines):
  TOKEN=$({curl} -s {broker_url}/tokens/alice | sed 's/.*"access_token":"\\([^"]*\\).*/\\1/')
  curl -H "Authorization: Bearer $TOKEN" {sandbox_url}/api/whoami/

Connect bob: open the connect_url in a browser.
  {curl} -X POST {broker_url}/grants/bob/connect

Look around: {broker_url}/docs (Authorize with {DEMO_KEY}), {broker_url}/readyz, {broker_url}/metrics
Logins at the sandbox: {logins}
Ctrl-C ends everything.
""",
        flush=True,
    )


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in reversed(processes):
        process.terminate()
    for process in processes:
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()


if __name__ == "__main__":
    sys.exit(main())
