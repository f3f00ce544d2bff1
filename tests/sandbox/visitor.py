"""Somebody who speaks HTTP with a running sandbox, as a broker, a browser and a tester would."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from sandbox.directory import COMPANY_CLIENT, DEFAULT_REDIRECT_URI, USER_CLIENT, USERS

USER_SECRET = {"client_id": USER_CLIENT.id, "client_secret": USER_CLIENT.secret}
COMPANY_SECRET = {"client_id": COMPANY_CLIENT.id, "client_secret": COMPANY_CLIENT.secret}


class Clock:
    """A time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000_000.25

    def __call__(self) -> float:
        return self.now


@dataclass
class Visitor:
    http: httpx.AsyncClient

    async def switch(self, **positions: object) -> None:
        (await self.http.patch("/sandbox/switches", json=positions)).raise_for_status()

    async def calls(self, **filters: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = (await self.http.get("/sandbox/calls", params=filters)).json()["items"]
        return items

    async def last_call(self) -> dict[str, Any]:
        return (await self.calls())[-1]

    async def decide(self, decision: str = "allow", user: str = "alice", **parameters: str) -> httpx.Response:
        """Post the login page's form, with the state `s1` unless told otherwise."""
        request = {
            "response_type": "code",
            "client_id": USER_CLIENT.id,
            "redirect_uri": DEFAULT_REDIRECT_URI,
            "state": "s1",
            "username": user,
            "password": USERS[user],
            "decision": decision,
        }
        return await self.http.post("/api/oauth/authorize/", data={**request, **parameters})

    async def code(self, user: str = "alice", **parameters: str) -> str:
        return query_of(await self.decide("allow", user, **parameters))["code"]

    async def token(self, grant_type: str, **form: str) -> httpx.Response:
        secret = COMPANY_SECRET if grant_type == "client_credentials" else USER_SECRET
        return await self.http.post("/api/oauth/token/", data={"grant_type": grant_type, **secret, **form})

    async def company(self) -> httpx.Response:
        return await self.token("client_credentials")

    async def redeem(self, code: str, **form: str) -> httpx.Response:
        return await self.token("authorization_code", **{"code": code, "redirect_uri": DEFAULT_REDIRECT_URI, **form})

    async def refresh(self, refresh_token: str, **form: str) -> httpx.Response:
        return await self.token("refresh_token", refresh_token=refresh_token, **form)

    async def connect(self, user: str = "alice") -> dict[str, Any]:
        """The token answer for a user who logs in and agrees."""
        answer: dict[str, Any] = (await self.redeem(await self.code(user))).raise_for_status().json()
        return answer

    async def whoami(self, access_token: str) -> httpx.Response:
        return await self.http.get("/api/whoami/", headers={"Authorization": f"Bearer {access_token}"})

    async def works(self, access_token: str) -> bool:
        return (await self.whoami(access_token)).status_code == 200

    async def revoke(self, token: str, **form: str) -> httpx.Response:
        return await self.http.post("/api/oauth/revoke/", data={"token": token, **USER_SECRET, **form})


def query_of(redirect: httpx.Response) -> dict[str, str]:
    """The query of the address that a browser is sent to."""
    assert redirect.status_code == 302
    return {name: values[0] for name, values in parse_qs(urlsplit(redirect.headers["location"]).query).items()}


def refused_with(response: httpx.Response, code: str, status: int = 400) -> bool:
    """Whether *response* is that refusal, in the shape of RFC 6749 §5.2."""
    return response.status_code == status and response.json()["error"] == code
