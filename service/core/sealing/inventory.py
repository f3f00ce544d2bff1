"""Which key has sealed how much of what is stored, and so which key may go."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from service.core.errors import KeyUnavailable
from service.core.ports import Escrow, EscrowUnavailable, SealBroken
from service.core.records import EscrowEntry
from service.core.sealing.resealing import Kind, NamedKeyring, SealedRows
from service.core.sealing.vault import Vault

PAGE = 1000


@dataclass(frozen=True, slots=True)
class Holding:
    """How many secrets of one kind name one key, None where they name none that could be read.

    `oldest_at` is since when the oldest of them is held, where that is known.
    """

    what: str
    key_id: str | None
    count: int
    oldest_at: datetime | None


@dataclass(frozen=True, slots=True)
class Inventory:
    """All sealed secrets by kind and key. `key_ids` are the keys we have, the one that seals first.

    `not_asked` are the escrows of which it is not known what waits there.
    """

    key_ids: Sequence[str]
    holdings: Sequence[Holding]
    not_asked: Sequence[str]

    @property
    def strangers(self) -> Sequence[Holding]:
        """What names a key that we do not have, or none at all: it cannot be opened here."""
        return [holding for holding in self.holdings if holding.key_id not in self.key_ids]

    def count(self, key_id: str) -> int:
        return sum(holding.count for holding in self.holdings if holding.key_id == key_id)

    def obstacle(self, key_id: str) -> str | None:
        """Why the key *key_id* must stay; None when it may go."""
        if key_id == self.key_ids[0]:
            return "it seals"
        reasons = [f"{held.what}: {held.count}" for held in self.holdings if held.key_id == key_id]
        reasons += [f"{place} could not be asked" for place in self.not_asked]
        return ", ".join(reasons) or None


class Stock:
    """Everything that is sealed, wherever this process can see it."""

    def __init__(self, rows: SealedRows, escrows: Mapping[str, Escrow], keyring: NamedKeyring, vault: Vault) -> None:
        """*escrows* by what people call them."""
        self._rows, self._escrows, self._keyring, self._vault = rows, escrows, keyring, vault

    async def take(self) -> Inventory:
        """Count it. Nothing is opened but the envelopes of answers that wait.

        Raises:
            StoreUnavailable: the database could not be asked.
        """
        holdings: list[Holding] = []
        for kind in Kind:
            holdings += await self._stored(kind)
        not_asked = []
        for name, escrow in self._escrows.items():
            try:
                holdings += self._waiting(f"answer in {name}", await escrow.entries())
            except EscrowUnavailable:
                not_asked.append(name)
                continue
            if escrow.unreadable:
                not_asked.append(f"{name} (some of it)")
        return Inventory(tuple(self._keyring.key_ids), tuple(holdings), tuple(not_asked))

    async def recheck(self) -> None:
        """Forget the missing keys that nothing names any more: what needed them was mended, or is gone.

        What waits in an escrow that cannot be asked now will be met again when it can.

        Raises:
            StoreUnavailable: the database could not be asked.
        """
        if missing := set(self._keyring.missing):
            needed = {held.key_id for held in (await self.take()).strangers}
            self._keyring.missing.difference_update(missing - needed)

    async def _stored(self, kind: Kind) -> Sequence[Holding]:
        tally, after = _Tally(), None
        while page := await self._rows.heads(kind, after=after, limit=PAGE):
            for row in page:
                if row.head is not None:
                    tally.add(self._keyring.key_id_of(row.head), row.since)
            after = page[-1].mark
        return tally.holdings(kind)

    def _waiting(self, what: str, entries: Sequence[EscrowEntry]) -> Sequence[Holding]:
        tally = _Tally()
        for entry in entries:
            for key_id in self._keys_of(entry):
                tally.add(key_id, entry.kept_at)
        return tally.holdings(what)

    def _keys_of(self, entry: EscrowEntry) -> set[str | None]:
        """Every key that this answer needs: its envelope may have been sealed anew, its tokens were not."""
        found = {self._keyring.key_id_of(entry.sealed)}
        try:
            tokens = self._vault.open_waiting(entry).tokens
        except (SealBroken, KeyUnavailable):
            return found
        inner = (tokens.access_sealed, tokens.refresh_sealed)
        return found | {self._keyring.key_id_of(sealed) for sealed in inner if sealed is not None}


class _Tally:
    def __init__(self) -> None:
        self._counts: Counter[str | None] = Counter()
        self._oldest: dict[str | None, datetime] = {}

    def add(self, key_id: str | None, since: datetime | None) -> None:
        self._counts[key_id] += 1
        if since is not None:
            self._oldest[key_id] = min(since, self._oldest.get(key_id, since))

    def holdings(self, what: str) -> Sequence[Holding]:
        """By key, what names none last."""
        order = sorted(self._counts, key=lambda key_id: (key_id is None, key_id or ""))
        return [Holding(what, key_id, self._counts[key_id], self._oldest.get(key_id)) for key_id in order]
