"""The same broker twice, one with its hot lane and one without: both get every request, byte by byte."""

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from service.core.model import GrantType, Scope
from tests.api.front import Front, Headers, bearer, front_in
from tests.support.brokers import KEY

LIFE = 3600
NARROW, EXPIRING, GRANTS_ONLY, STRANGE = (f"vtb_{letter * 43}" for letter in "negx")
"""Keys: for some users and one application, for a minute, without the scope, and nobody's."""

USERS = ("alice", "bob", "josé", "a b", "revoked")
AN_ID = b"(an id made here)"
Header = tuple[bytes, bytes]
Answer = tuple[bytes, list[Header], bytes]


@dataclass(frozen=True)
class Request:
    """Exactly what goes over the wire."""

    target: bytes = b"/tokens/alice"
    headers: tuple[Header, ...] = ((b"Authorization", b"Bearer " + KEY.encode()),)
    method: bytes = b"GET"
    body: bytes = b""
    version: bytes = b"1.1"

    @property
    def raw(self) -> bytes:
        lines = [b"%s %s HTTP/%s" % (self.method, self.target, self.version), b"Host: broker", b"Connection: close"]
        return b"\r\n".join([*lines, *(b"%s: %s" % header for header in self.headers), b"", self.body])

    @property
    def ids(self) -> list[bytes]:
        return [value for name, value in self.headers if name.lower() == b"x-request-id"]


@dataclass
class Twin:
    """One of the two, with everything that a request can see or change."""

    front: Front
    tokens: dict[str, int] = field(default_factory=dict)

    async def ask(self, request: Request) -> Answer:
        """The answer without its date, with ids and tokens made recognisable: each broker makes its own."""
        host, port = self.front.broker.base_url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request.raw)
        received = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        head, _, body = received.partition(b"\r\n\r\n")
        status, *lines = head.split(b"\r\n")
        headers = []
        for name, _, value in (line.partition(b": ") for line in lines):
            if name == b"x-request-id" and value not in request.ids:
                assert len(value) == 32
                body = body.replace(value, AN_ID)
                headers.append((name, AN_ID))
            elif name != b"date":
                headers.append((name, value))
        return status, headers, self._without_token(body)

    def _without_token(self, body: bytes) -> bytes:
        if b'"access_token"' not in body:
            return body
        token = json.loads(body)["access_token"]
        number = self.tokens.setdefault(token, len(self.tokens))
        return body.replace(token.encode(), b"(token %d)" % number)

    def effects(self) -> dict[str, Any]:
        """What the requests so far have left behind."""
        core, services = self.front.container.core, self.front.container.services
        core.lane.collect()
        counted = self.front.metrics.token_requests.collect()
        minutes = (*services.audit._over, services.audit._minute)
        return {
            "audit": {(minute.at, key): times for minute in minutes for key, times in minute.counts.items()},
            "asked for": set(core.background._interest._asked),
            "in use": dict(core.local._in_use),
            "counted": {
                tuple(sample.labels.values()): sample.value
                for family in counted
                for sample in family.samples
                if sample.name.endswith("_total")
            },
        }

    @property
    def by_lane(self) -> int:
        """How many tokens went out on the lane: those are counted and not timed."""
        served = ("served", "local")
        counted = self.effects()["counted"].get(served, 0)
        (family,) = self.front.metrics.token_latency.collect()
        timed = sum(
            sample.value
            for sample in family.samples
            if sample.name.endswith("_count") and tuple(sample.labels.values()) == served
        )
        return int(counted - timed)


@dataclass
class Twins:
    """`answered` counts the status lines of all answers."""

    quick: Twin
    slow: Twin
    answered: Counter[bytes] = field(default_factory=Counter)

    @property
    def both(self) -> tuple[Twin, Twin]:
        return self.quick, self.slow

    async def ask(self, *requests: Request) -> None:
        """Both answer alike, and what they remember is alike."""
        for request in requests:
            quick, slow = await self.quick.ask(request), await self.slow.ask(request)
            assert quick == slow, (request, quick, slow)
            self.answered[quick[0]] += 1
        assert self.quick.effects() == self.slow.effects(), requests

    def advance(self, duration: timedelta | float) -> None:
        for twin in self.both:
            twin.front.clock.advance(duration)

    async def tick(self) -> None:
        """What a running broker does by itself every other second."""
        for twin in self.both:
            await twin.front.container.core.revalidator.tick()
            await twin.front.container.core.background._interest.flush()

    async def to_both(self, method: str, path: str, headers: Headers | None = None, **content: Any) -> None:
        """A request that prepares something."""
        for twin in self.both:
            answer = await twin.front.bare(method, path, headers or bearer(KEY), **content)
            assert answer.is_success, answer.text


@contextlib.asynccontextmanager
async def twins_in(folder: Path) -> AsyncIterator[Twins]:
    """Two brokers with the same callers and grants. A limit for callers that nobody reaches takes one's lane away.

    They share their luck too, so that renewals fall due at the same instant.
    """
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(random, "random", lambda: 0.5)
        fronts = []
        for name, limit in (("quick", "0"), ("slow", "1000000")):
            (folder / name).mkdir()
            settings = {"BROKER_CALLER_REQUESTS_PER_SECOND": limit}
            fronts.append(await stack.enter_async_context(front_in(folder / name, **settings)))
        for front in fronts:
            await _furnish(front)
        yield Twins(Twin(fronts[0]), Twin(fronts[1]))


async def _furnish(front: Front) -> None:
    tokens = Scope.TOKENS
    await front.register("second", GrantType.AUTHORIZATION_CODE)
    await front.admit("narrow", tokens, users=("a*", "josé"), applications=("default",), key=NARROW)
    await front.admit("expiring", tokens, expires_at=front.clock.now() + timedelta(minutes=1), key=EXPIRING)
    await front.admit("grants-only", Scope.GRANTS, key=GRANTS_ONLY)
    for user in USERS:
        await front.hold(user)
    await front.client.delete("/grants/revoked")
    await front.versature.switch(token_lifetime_seconds=LIFE)
