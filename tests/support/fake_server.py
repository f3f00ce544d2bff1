"""A provider in memory that answers as it is told and remembers what it was asked."""

import asyncio
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from service.core.clock import Clock
from service.core.model import Application, TokenAnswer
from service.core.redeeming.upstream import Ambiguous, ClientRefused, InvalidGrant, NotSent, Outcome


class Rotation(StrEnum):
    """What a refresh does to the refresh token; STRICT ends the whole family when a spent one comes again."""

    OFF = "off"
    ON = "on"
    STRICT = "strict"


@dataclass(slots=True)
class Call:
    """One request as it arrived; `token` is the refresh token, code or token to revoke that it carried.

    `result` is what came of it for whoever asked, at `ended_at`; None while the request is under way.
    """

    kind: str
    at: datetime
    application: str
    client_id: str
    client_secret: str
    token: str | None = None
    redirect_uri: str | None = None
    verifier: str | None = None
    hint: str | None = None
    result: TokenAnswer | Outcome | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """The provider acts on the request, and its answer never arrives."""

    outcome: Outcome = field(default_factory=lambda: Ambiguous("The answer was lost."))


@dataclass(slots=True)
class Family:
    """The refresh tokens that followed from one login."""

    good: bool = True
    current: str = ""
    spent: set[str] = field(default_factory=set)


class Silence:
    """Requests that arrive wait here until `release`; `arrived` tells when the first one is there."""

    def __init__(self) -> None:
        self.arrived, self._released = asyncio.Event(), asyncio.Event()

    def release(self) -> None:
        self._released.set()

    async def endure(self) -> None:
        self.arrived.set()
        await self._released.wait()


class FakeAuthorizationServer:
    """An `AuthorizationServer` whose every answer can be scripted; unscripted it answers as a good provider does.

    `refuses` holds the client ids whose registration it refuses. `life`, `scope` and `names_refresh` shape the
    answers. With `acts_late` a request that is kept waiting is acted on only when it is released.
    """

    def __init__(self, clock: Clock, *, rotation: Rotation = Rotation.ON) -> None:
        self._clock, self.rotation = clock, rotation
        self.life: timedelta | None = timedelta(hours=1)
        self.scope: str | None = "Office Manager"
        self.names_refresh = True
        self.repeats_access_token = False
        self.acts_late = False
        self.refuses: set[str] = set()
        self.calls: list[Call] = []
        self.redeemed: Counter[str] = Counter()
        self.reused: list[str] = []
        self.overlapping: list[str] = []
        self.most_at_once = 0
        self.revoked: list[str] = []
        self._script: deque[Outcome | Lost | None] = deque()
        self._always: Outcome | Lost | None = None
        self._silence: Silence | None = None
        self._families: list[Family] = []
        self._codes: dict[str, Family] = {}
        self._under_way: Counter[str] = Counter()
        self._issued = 0

    @property
    def good(self) -> set[str]:
        """The refresh tokens that would be accepted now."""
        return {family.current for family in self._families if family.good}

    def count(self, kind: str) -> int:
        return sum(call.kind == kind for call in self.calls)

    def script(self, *answers: Outcome | Lost | None) -> None:
        """Answer the next requests with these, one each; None is a good answer."""
        self._script.extend(answers)

    def always(self, answer: Outcome | Lost | None) -> None:
        """Answer every unscripted request with *answer* from now on; None is back to normal."""
        self._always = answer

    def forget_script(self) -> None:
        """Answer well again."""
        self._script.clear()
        self._always = None

    def fall_silent(self) -> Silence:
        """Keep every request from now on waiting, until `release` of what this returns."""
        self._silence = Silence()
        return self._silence

    def speak(self) -> None:
        """Keep no further request waiting; those that wait go on waiting."""
        self._silence = None

    def log_in(self) -> str:
        """A new family's refresh token, as if the user had logged in elsewhere."""
        family = Family(current=self._new("refresh"))
        self._families.append(family)
        return family.current

    def code(self) -> str:
        """A code that the next exchange may redeem, once."""
        code = self._new("code")
        self._codes[code] = Family(current=self._new("refresh"))
        return code

    def end(self, refresh_token: str) -> None:
        """The provider, or the user there, ends the family of *refresh_token*."""
        for family in self._families:
            if refresh_token == family.current or refresh_token in family.spent:
                family.good = False

    async def refresh(self, application: Application, client_secret: str, refresh_token: str) -> TokenAnswer:
        self._under_way[refresh_token] += 1
        self.most_at_once = max(self.most_at_once, self._under_way.total())
        if self._under_way[refresh_token] > 1:
            self.overlapping.append(refresh_token)
        try:
            return await self._answer(Call("refresh", *self._client(application, client_secret), token=refresh_token))
        finally:
            self._under_way[refresh_token] -= 1

    async def client_credentials(self, application: Application, client_secret: str) -> TokenAnswer:
        return await self._answer(Call("client_credentials", *self._client(application, client_secret)))

    async def exchange_code(
        self, application: Application, client_secret: str, *, code: str, redirect_uri: str, verifier: str | None
    ) -> TokenAnswer:
        client = self._client(application, client_secret)
        return await self._answer(Call("code", *client, token=code, redirect_uri=redirect_uri, verifier=verifier))

    async def revoke(self, application: Application, client_secret: str, token: str, *, hint: str) -> None:
        await self._answer(Call("revocation", *self._client(application, client_secret), token=token, hint=hint))

    async def _answer(self, call: Call) -> TokenAnswer:
        self.calls.append(call)
        try:
            call.result = answer = await self._answer_as_told(call)
            return answer
        except Outcome as outcome:
            call.result = outcome
            raise
        finally:
            call.ended_at = self._clock.now()

    async def _answer_as_told(self, call: Call) -> TokenAnswer:
        scripted = self._script.popleft() if self._script else self._always
        if isinstance(scripted, NotSent):
            raise scripted
        acted = None if self.acts_late or isinstance(scripted, Outcome) else self._act(call)
        await self._keep_waiting()
        if isinstance(scripted, Lost):
            raise scripted.outcome
        if isinstance(scripted, Outcome):
            raise scripted
        answer = acted or self._act(call)
        if isinstance(answer, Outcome):
            raise answer
        return answer

    async def _keep_waiting(self) -> None:
        await asyncio.sleep(0)
        if self._silence is not None:
            await self._silence.endure()

    def _act(self, call: Call) -> TokenAnswer | Outcome:
        if call.client_id in self.refuses:
            return ClientRefused("The provider says invalid_client.")
        match call.kind:
            case "refresh":
                return self._refresh(call.token or "", call.at)
            case "code":
                family = self._codes.pop(call.token or "", None)
                if family is None:
                    return InvalidGrant("The provider says invalid_grant.")
                self._families.append(family)
                return self._tokens(call.at, family.current if self.names_refresh else None)
            case "revocation":
                self.revoked.append(call.token or "")
                self.end(call.token or "")
        return self._tokens(call.at, None)

    def _refresh(self, token: str, sent_at: datetime) -> TokenAnswer | Outcome:
        family = next((one for one in self._families if token == one.current or token in one.spent), None)
        if family is None or not family.good or token in family.spent:
            if family is not None and token in family.spent:
                self.reused.append(token)
                family.good = family.good and self.rotation is not Rotation.STRICT
            return InvalidGrant("The provider says invalid_grant.")
        self.redeemed[token] += 1
        if self.rotation is not Rotation.OFF and self.names_refresh:
            family.spent.add(token)
            family.current = self._new("refresh")
        return self._tokens(sent_at, family.current if self.names_refresh else None)

    def _tokens(self, sent_at: datetime, refresh_token: str | None) -> TokenAnswer:
        access_token = "access-again" if self.repeats_access_token else self._new("access")
        return TokenAnswer(access_token, refresh_token, self.scope, self.life, sent_at)

    def _new(self, kind: str) -> str:
        self._issued += 1
        return f"{kind}-{self._issued}"

    def _client(self, application: Application, client_secret: str) -> tuple[datetime, str, str, str]:
        return self._clock.now(), application.name, application.client_id, client_secret
