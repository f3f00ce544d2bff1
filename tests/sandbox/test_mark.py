"""A mark in everything that is issued, so that it is recognised wherever it gets to."""

from urllib.parse import parse_qs, urlsplit

import httpx

from sandbox.app import create_sandbox
from sandbox.directory import DEFAULT_REDIRECT_URI, USER_CLIENT, USERS


async def test_every_code_and_token_begins_with_the_mark() -> None:
    transport = httpx.ASGITransport(create_sandbox(mark="marked-"))
    async with httpx.AsyncClient(transport=transport, base_url="http://sandbox") as client:
        query = {
            "response_type": "code",
            "client_id": USER_CLIENT.id,
            "redirect_uri": DEFAULT_REDIRECT_URI,
            "state": "s",
        }
        login = {"username": "alice", "password": USERS["alice"], "decision": "allow"}
        back = await client.post("/api/oauth/authorize/", params=query, data=login)
        [code] = parse_qs(urlsplit(back.headers["Location"]).query)["code"]
        client_fields = {"client_id": USER_CLIENT.id, "client_secret": USER_CLIENT.secret}
        exchange = {"grant_type": "authorization_code", "code": code, "redirect_uri": DEFAULT_REDIRECT_URI}
        first = (await client.post("/api/oauth/token/", data={**exchange, **client_fields})).json()
        refresh = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
        second = (await client.post("/api/oauth/token/", data={**refresh, **client_fields})).json()
    issued = [code, *(answer[name] for answer in (first, second) for name in ("access_token", "refresh_token"))]
    assert all(value.startswith("marked-") for value in issued)
    assert len(set(issued)) == 5
