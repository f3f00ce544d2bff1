"""The connect flow walked by a scripted browser."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import httpx

from sandbox.directory import USERS
from tests.support.brokers import Broker


@dataclass(frozen=True, slots=True)
class Browser:
    """One person's browser with its own cookies; it follows no redirect by itself.

    Addresses of the broker are taken by their path, for a broker in the test's own process listens elsewhere than its
    public URL says.
    """

    broker: Broker
    http: httpx.AsyncClient

    async def open(self, address: str) -> httpx.Response:
        return await self.http.get(self._here(address))

    async def depart(self, link: str) -> httpx.Response:
        """Press the button of the page behind *link*: the answer leads to the provider."""
        return await self.http.post(self._here(link))

    async def decide(self, login: str, departure: httpx.Response, decision: str = "allow") -> str:
        """Log in as *login* where *departure* leads, and return the callback's address."""
        fields = {"username": login, "password": USERS[login], "decision": decision}
        return str((await self.http.post(departure.headers["Location"], data=fields)).headers["Location"])

    async def walk(self, link: str, login: str, decision: str = "allow") -> httpx.Response:
        """The whole trip; returns the callback's answer."""
        return await self.open(await self.decide(login, await self.depart(link), decision))

    def _here(self, address: str) -> httpx.URL:
        return httpx.URL(self.broker.base_url).copy_with(raw_path=httpx.URL(address).raw_path)


@contextlib.asynccontextmanager
async def browser_of(broker: Broker) -> AsyncIterator[Browser]:
    """A browser without any past."""
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        yield Browser(broker, http)


async def invite(broker: Broker, user: str, body: Mapping[str, str] | None = None) -> str:
    """A link that connects *user*."""
    answer = await broker.client.post(f"/grants/{user}/connect", json=body)
    return str(answer.raise_for_status().json()["connect_url"])


async def connect(broker: Broker, user: str, login: str | None = None) -> httpx.Response:
    """Connect *user*, logging in as *login* (the same name unless given); returns the callback's answer."""
    link = await invite(broker, user)
    async with browser_of(broker) as browser:
        return await browser.walk(link, login or user)
