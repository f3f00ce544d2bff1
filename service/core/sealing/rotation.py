"""Seals everything that is stored anew under the first key, while brokers go on serving."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TypeVar

from service.core.audit import Audit
from service.core.audit_store import Action
from service.core.clock import Clock
from service.core.errors import KeyUnavailable, StoreUnavailable
from service.core.model import GrantId
from service.core.ports import SealBroken
from service.core.records import Place
from service.core.sealing.inventory import Inventory, Stock
from service.core.sealing.resealing import Kind, NamedKeyring, Resealed, SealedRow, SealedRows
from service.core.sealing.vault import application_place, grant_place, verifier_place

SCAN = 500
"""Rows looked at in one query, few enough for the deadline of any database."""

BATCH = 100
PER_SECOND = 1000
SAMPLE = 50
MOST_PASSES = 20
BETWEEN_PASSES = timedelta(milliseconds=200)
RETRIES = tuple(timedelta(milliseconds=250) * 2**number for number in range(6))

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pace:
    """How many secrets are written in one transaction, and how many a second at most."""

    batch: int = BATCH
    per_second: int = PER_SECOND


@dataclass(slots=True)
class Outcome:
    """What a rotation did. `stuck` are secrets that do not open, by kind and the key they name.

    `came_back` tells that secrets under older keys were still found in the very last pass.
    """

    resealed: Counter[Kind] = field(default_factory=Counter)
    stuck: Counter[tuple[Kind, str | None]] = field(default_factory=Counter)
    came_back: bool = False


class AnotherKey(Exception):
    """Two keys of one name are about."""


class Rotation:
    """Rows one by one, each only if nobody changed it meanwhile; again and again until a pass finds nothing to do.

    Nothing is remembered between runs: one that was killed is simply started again, and two at once share the work.
    """

    def __init__(
        self,
        rows: SealedRows,
        keyring: NamedKeyring,
        stock: Stock,
        audit: Audit,
        clock: Clock,
        replay: Callable[[], Awaitable[None]],
    ) -> None:
        """*replay* brings in what waits in escrow: it would put secrets back that are sealed with an older key."""
        self._rows, self._keyring, self._stock, self._audit = rows, keyring, stock, audit
        self._clock, self._replay = clock, replay

    async def status(self) -> Inventory:
        """What is sealed with which key now.

        Raises:
            StoreUnavailable: the database could not be asked.
        """
        return await self._stock.take()

    async def run(self, pace: Pace) -> Outcome:
        """Seal anew what is not under the first key. What does not open is counted and left as it is.

        The audit learns of it at the beginning: one that is killed has done something too.

        Raises:
            StoreUnavailable: the database was away for longer than a few seconds; what is done stays done.
            AnotherKey: the first key is not the one that has sealed under its name.
        """
        await self._check_first_key()
        await self._audit.note(Action.KEYS_ROTATED, subject=self._keyring.key_ids[0])
        outcome = Outcome()
        for _ in range(MOST_PASSES):
            await self._patiently(self._replay)
            outcome.stuck, before, missed = Counter(), outcome.resealed.total(), 0
            for kind in Kind:
                missed += await self._pass(kind, pace, outcome)
            outcome.came_back = outcome.resealed.total() > before or missed > 0
            if not outcome.came_back:
                break
            await self._clock.sleep(BETWEEN_PASSES)
        return outcome

    async def _check_first_key(self) -> None:
        """Two keys of one name would make everything unreadable for those who hold the other."""
        verdicts = []
        for kind in Kind:
            verdicts.append(opens := await self._first_key_opens(kind))
            if opens:
                return
        if False in verdicts:
            raise AnotherKey("the first key does not open what was sealed under its name: it is another key")

    async def _first_key_opens(self, kind: Kind) -> bool | None:
        """Whether it opens anything of *kind* that was sealed under its name; None when there is no such thing.

        All rows are looked at: after a rotation that has just begun elsewhere those may be few among many.
        """
        after, tried, header = None, 0, self._keyring.header
        while tried < SAMPLE:
            heads = await self._patiently(partial(self._rows.heads, kind, after=after, limit=SCAN))
            if not heads:
                break
            if any(row.head is not None and row.head.startswith(header) for row in heads):
                page = await self._patiently(partial(self._rows.page, kind, header=None, after=after, limit=SCAN))
                under = [(row, row.sealed) for row in page if row.sealed is not None and row.sealed.startswith(header)]
                if any(self._reseal(kind, row, sealed) is not None for row, sealed in under):
                    return True
                tried += len(under)
            after = heads[-1].mark
        return False if tried else None

    async def _pass(self, kind: Kind, pace: Pace, outcome: Outcome) -> int:
        """Go once through all secrets of *kind*; returns how many somebody else changed meanwhile."""
        missed, ask = 0, partial(self._rows.page, kind, header=self._keyring.header, limit=SCAN)
        page = await self._patiently(partial(ask, after=None))
        while page:
            stale = [(row, row.sealed) for row in page if row.sealed is not None]
            for start in range(0, len(stale), pace.batch):
                missed += await self._write(kind, stale[start : start + pace.batch], pace, outcome)
            page = await self._patiently(partial(ask, after=page[-1].mark))
        return missed

    async def _write(self, kind: Kind, stale: Sequence[tuple[SealedRow, bytes]], pace: Pace, outcome: Outcome) -> int:
        began_at, changes = self._clock.monotonic(), []
        for row, sealed in stale:
            if (change := self._reseal(kind, row, sealed)) is not None:
                changes.append(change)
            else:
                outcome.stuck[kind, self._keyring.key_id_of(sealed)] += 1
        if not changes:
            return 0
        written = await self._patiently(lambda: self._rows.replace(kind, changes))
        outcome.resealed[kind] += written
        rest = len(changes) / pace.per_second - (self._clock.monotonic() - began_at)
        await self._clock.sleep(timedelta(seconds=max(rest, 0)))
        return len(changes) - written

    def _reseal(self, kind: Kind, row: SealedRow, sealed: bytes) -> Resealed | None:
        """*sealed* under the first key; None when it does not open."""
        place = _place(kind, row.grant)
        try:
            secret = self._keyring.open(sealed, place)
        except (SealBroken, KeyUnavailable):
            return None
        return Resealed(row.mark, sealed, self._keyring.seal(secret, place))

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """A database in use is busy now and then; each question here may be repeated without harm."""
        for pause in RETRIES:
            try:
                return await ask()
            except StoreUnavailable:
                await self._clock.sleep(pause)
        return await ask()


def _place(kind: Kind, grant: GrantId) -> Place:
    match kind:
        case Kind.REFRESH_TOKEN:
            return grant_place(grant, "refresh_token")
        case Kind.ACCESS_TOKEN:
            return grant_place(grant, "access_token")
        case Kind.CLIENT_SECRET:
            return application_place(grant.application)
        case Kind.VERIFIER:
            return verifier_place(grant)
