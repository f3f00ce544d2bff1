"""Sandboxes to test against: inside the test's own event loop, or as real processes."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from sandbox.app import create_sandbox
from sandbox.server import running
from service.core.clock import Clock
from tests.support.canary import MARK


@dataclass(frozen=True, slots=True)
class Versature:
    """A running sandbox and what only a test may do with it."""

    base_url: str
    client: httpx.AsyncClient

    async def switch(self, **positions: object) -> None:
        (await self.client.patch("/sandbox/switches", json=positions)).raise_for_status()

    async def calls(self, **filters: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = (await self.client.get("/sandbox/calls", params=filters)).json()["items"]
        return items

    async def redemptions(self, user: str | None = None) -> list[dict[str, Any]]:
        """All requests with a refresh token, of one user or of all."""
        whose = {} if user is None else {"user": user}
        return await self.calls(endpoint="token", grant_type="refresh_token", **whose)

    async def mint(self, *users: str) -> list[dict[str, Any]]:
        """A token answer for each of *users*, who need no password for it."""
        answer = await self.client.post("/sandbox/grants", json={"users": users})
        minted: list[dict[str, Any]] = answer.raise_for_status().json()["items"]
        return minted

    async def whose(self, access_token: str) -> str | None:
        """Whom the provider takes the bearer for; None when it refuses the token."""
        headers = {"Authorization": f"Bearer {access_token}"}
        answer = await self.client.get("/api/whoami/", headers=headers)
        return str(answer.json()["user"]) if answer.is_success else None


@contextlib.asynccontextmanager
async def versature_here(clock: Clock, redirect_uris: Sequence[str]) -> AsyncIterator[Versature]:
    """A sandbox in this event loop, over TCP, by *clock*'s time; what it issues is recognised in any log."""
    app = create_sandbox(redirect_uris=redirect_uris, now=lambda: clock.now().timestamp(), mark=MARK)
    async with running(app) as served, _client(served.base_url) as client:
        yield Versature(served.base_url, client)


@contextlib.asynccontextmanager
async def versature_process(*redirect_uris: str, **switches: object) -> AsyncIterator[Versature]:
    """A sandbox as a process of its own, by the machine's time."""
    arguments = [f"--redirect-uri={uri}" for uri in redirect_uris]
    arguments += [f"--switch={name}={position}" for name, position in switches.items()]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sandbox", "--port=0", *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        announced = (await process.stdout.readline()).decode().split()
        assert announced, "the sandbox did not start"
        async with _client(announced[-1]) as client:
            yield Versature(announced[-1], client)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _client(base_url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=base_url, timeout=30, trust_env=False)
