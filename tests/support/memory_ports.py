"""The small ports in memory: a keyring that hides nothing, a shared cache and an escrow that remember what they got."""

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import astuple
from datetime import datetime, timedelta

from service.core.clock import Clock
from service.core.errors import KeyUnavailable
from service.core.model import GrantId
from service.core.ports import EscrowUnavailable, SealBroken
from service.core.records import CachedToken, EscrowEntry, Place


class MemoryKeyring:
    """A `Keyring` whose sealed values are readable; they open at their own place only, with a key that is `known`."""

    def __init__(self) -> None:
        self.sealing = "k1"
        self.known = {"k1"}
        self.missing: set[str] = set()

    @property
    def key_ids(self) -> Sequence[str]:
        return [self.sealing, *sorted(self.known - {self.sealing})]

    @property
    def header(self) -> bytes:
        return f'["{self.sealing}",'.encode()

    def key_id_of(self, sealed: bytes) -> str | None:
        found = re.match(rb'\["([^"]+)",', sealed)
        return found[1].decode() if found else None

    def seal(self, secret: str, place: Place) -> bytes:
        return json.dumps([self.sealing, *astuple(place), secret]).encode()

    def open(self, sealed: bytes, place: Place, *, needed: bool = True) -> str:
        try:
            key, *bound, secret = json.loads(sealed)
        except ValueError:
            raise SealBroken from None
        if key not in self.known:
            if needed:
                self.missing.add(key)
            raise KeyUnavailable
        if tuple(bound) != astuple(place):
            raise SealBroken
        return str(secret)


class MemoryTokenCache:
    """A `TokenCache` in a dictionary: Redis as long as nothing fails."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: dict[GrantId, tuple[CachedToken, datetime]] = {}

    async def get(self, grant: GrantId) -> CachedToken | None:
        entry = self._entries.get(grant)
        return entry[0] if entry and self._clock.now() < entry[1] else None

    async def put(self, grant: GrantId, generation: int, sealed: bytes, ttl: timedelta) -> None:
        if ttl > timedelta(0):
            await self._write(grant, CachedToken(generation, sealed), ttl)

    async def bury(self, grant: GrantId, generation: int) -> None:
        await self._write(grant, CachedToken(generation, None), timedelta(days=1))

    async def forget(self, grant: GrantId, *, up_to: int) -> None:
        self._entries.pop(grant, None)
        await self.bury(grant, up_to)

    async def _write(self, grant: GrantId, entry: CachedToken, ttl: timedelta) -> None:
        known = await self.get(grant)
        ties = entry.sealed is None
        if known is None or known.generation < entry.generation or (ties and known.generation == entry.generation):
            self._entries[grant] = (entry, self._clock.now() + ttl)


class MemoryEscrow:
    """An `Escrow` in a dictionary.

    While it is `away` nobody can ask it anything; while it is `full` it can be read, but takes nothing. `held` makes
    the methods named wait for an event before they do anything. `puts` is how often something was brought to it.
    """

    def __init__(self) -> None:
        self.kept: dict[tuple[GrantId, str], EscrowEntry] = {}
        self.away = self.full = False
        self.held: dict[str, asyncio.Event] = {}
        self.puts = 0
        self.unreadable = 0

    async def put(self, entry: EscrowEntry) -> None:
        self.puts += 1
        await self._wait_for("put")
        self._check(full=self.full)
        self.kept[entry.grant, entry.attempt_id] = entry

    async def look(self, grant: GrantId) -> Sequence[EscrowEntry]:
        return [entry for entry in await self.entries() if entry.grant == grant]

    async def entries(self) -> Sequence[EscrowEntry]:
        self._check()
        return sorted(self.kept.values(), key=lambda entry: entry.kept_at)

    async def check(self) -> None:
        self._check(full=self.full)

    async def remove(self, entry: EscrowEntry) -> None:
        await self._wait_for("remove")
        self._check()
        self.kept.pop((entry.grant, entry.attempt_id), None)

    async def _wait_for(self, method: str) -> None:
        if (gate := self.held.get(method)) is not None:
            await gate.wait()

    def _check(self, *, full: bool = False) -> None:
        if self.away or full:
            raise EscrowUnavailable("away" if self.away else "full")
