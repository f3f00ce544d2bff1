"""The connect flow walked by a scripted browser."""

import httpx

from sandbox.directory import USERS
from tests.support.brokers import Broker


async def connect(broker: Broker, user: str, login: str | None = None) -> httpx.Response:
    """Connect *user*, logging in as *login* (the same name unless given); returns the callback's answer."""
    invitation = await broker.client.post(f"/grants/{user}/connect")
    invitation.raise_for_status()
    link = invitation.json()["connect_url"].partition("/connect/")[2]
    login = login or user
    async with httpx.AsyncClient(trust_env=False, timeout=30) as browser:
        departure = await browser.post(f"{broker.base_url}/connect/{link}")
        fields = {"username": login, "password": USERS[login], "decision": "allow"}
        returning = await browser.post(departure.headers["Location"], data=fields)
        callback = httpx.URL(returning.headers["Location"])
        return await browser.get(f"{broker.base_url}/oauth/callback", params=callback.params)
