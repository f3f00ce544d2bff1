"""The provider as every `AuthorizationServer` meets it: in memory, and the sandbox over TCP by the real adapter."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal, Protocol

from sandbox.directory import COMPANY_CLIENT, DEFAULT_REDIRECT_URI, USER_CLIENT, USERS
from service.adapters.versature import VersatureServer
from service.core.model import Application, GrantType
from service.core.ports import AuthorizationServer
from service.core.redeeming.upstream import Ambiguous, ClientRefused, InvalidGrant, Outcome, RateLimited
from tests.support.clock import FakeClock
from tests.support.fake_server import FakeAuthorizationServer, Lost, Rotation
from tests.support.versatures import Versature, versature_here

REDIRECT_URI = DEFAULT_REDIRECT_URI
PATIENCE = timedelta(seconds=20)
Trouble = Literal["before_acting", "after_acting", "lies_invalid_grant", "lies_invalid_client", "rate_limited"]


def users_application(base_url: str) -> Application:
    return Application(
        name="users",
        client_id=USER_CLIENT.id,
        sealed_secret=b"",
        grant_types=frozenset({GrantType.AUTHORIZATION_CODE}),
        token_url=f"{base_url}/api/oauth/token/",
        authorize_url=f"{base_url}/api/oauth/authorize/",
        revocation_url=f"{base_url}/api/oauth/revoke/",
    )


class Provider(Protocol):
    """A provider, the way to it, and what only a test may do there."""

    server: AuthorizationServer
    users: Application
    company: Application
    user_secret: str
    company_secret: str

    async def rotate(self, rotation: Rotation) -> None: ...

    async def log_in(self) -> str:
        """The refresh token of a new login."""
        ...

    async def code(self) -> str:
        """A code of a new login, to be redeemed with `REDIRECT_URI`."""
        ...

    async def have(self, trouble: Trouble) -> None:
        """Fail the next request, and only that."""
        ...

    async def reject_client(self) -> None:
        """Make the provider refuse the users' registration from now on."""
        ...


class MemoryProvider:
    """The fake that the core is tested with."""

    def __init__(self, clock: FakeClock) -> None:
        self._fake = FakeAuthorizationServer(clock)
        self.server: AuthorizationServer = self._fake
        self.users = users_application("http://in-memory")
        self.company = replace(self.users, name="company", client_id=COMPANY_CLIENT.id)
        self.user_secret, self.company_secret = USER_CLIENT.secret, COMPANY_CLIENT.secret

    async def rotate(self, rotation: Rotation) -> None:
        self._fake.rotation = rotation

    async def log_in(self) -> str:
        return self._fake.log_in()

    async def code(self) -> str:
        return self._fake.code()

    async def have(self, trouble: Trouble) -> None:
        answers: dict[Trouble, Outcome | Lost] = {
            "before_acting": Ambiguous("No answer."),
            "after_acting": Lost(),
            "lies_invalid_grant": InvalidGrant("Not true."),
            "lies_invalid_client": ClientRefused("Not true."),
            "rate_limited": RateLimited("Slower.", retry_after=timedelta(seconds=7)),
        }
        self._fake.script(answers[trouble])

    async def reject_client(self) -> None:
        self._fake.refuses.add(self.users.client_id)


class SandboxProvider:
    """The sandbox over TCP, asked by the real adapter."""

    def __init__(self, server: AuthorizationServer, versature: Versature) -> None:
        self.server, self.versature = server, versature
        self.users = users_application(versature.base_url)
        self.company = replace(self.users, name="company", client_id=COMPANY_CLIENT.id)
        self.user_secret, self.company_secret = USER_CLIENT.secret, COMPANY_CLIENT.secret

    async def rotate(self, rotation: Rotation) -> None:
        await self.versature.switch(rotation=rotation)

    async def log_in(self) -> str:
        [minted] = await self.versature.mint("alice")
        return str(minted["refresh_token"])

    async def code(self, **parameters: str) -> str:
        form = {
            "response_type": "code",
            "client_id": USER_CLIENT.id,
            "redirect_uri": REDIRECT_URI,
            "state": "s1",
            "username": "alice",
            "password": USERS["alice"],
            "decision": "allow",
        }
        answer = await self.versature.client.post("/api/oauth/authorize/", data={**form, **parameters})
        location = answer.next_request
        assert location is not None
        return location.url.params["code"]

    async def have(self, trouble: Trouble) -> None:
        fault = {
            "before_acting": "drop_before",
            "after_acting": "drop_after",
            "lies_invalid_grant": "invalid_grant",
            "lies_invalid_client": "invalid_client",
            "rate_limited": "rate_limited_retry_after",
        }[trouble]
        await self.versature.switch(fault=fault, fault_times=1)

    async def reject_client(self) -> None:
        self.user_secret = "not the secret"


@dataclass(slots=True)
class Observations:
    """What the adapter reported of its requests."""

    requests: list[tuple[str, str, float]]

    def note(self, kind: str, label: str, seconds: float) -> None:
        self.requests.append((kind, label, seconds))

    @property
    def labels(self) -> list[tuple[str, str]]:
        return [(kind, label) for kind, label, _ in self.requests]


@contextlib.asynccontextmanager
async def adapter(
    clock: FakeClock,
    *,
    deadline: timedelta = PATIENCE,
    max_connections: int = 10,
    observed: Observations | None = None,
) -> AsyncIterator[VersatureServer]:
    observe = (observed or Observations([])).note
    server = VersatureServer(deadline=deadline, max_connections=max_connections, clock=clock, observe=observe)
    try:
        yield server
    finally:
        await server.close()


@contextlib.asynccontextmanager
async def sandbox(
    clock: FakeClock, *, deadline: timedelta = PATIENCE, observed: Observations | None = None
) -> AsyncIterator[SandboxProvider]:
    async with (
        versature_here(clock, [REDIRECT_URI]) as versature,
        adapter(clock, deadline=deadline, observed=observed) as server,
    ):
        yield SandboxProvider(server, versature)
