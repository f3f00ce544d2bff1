"""Answers that wait for the database: kept in two escrows, and found again."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from service.core.condition.health import READY, PartHealth, Readiness
from service.core.errors import KeyUnavailable, StoreUnavailable
from service.core.model import Grant, GrantId, WaitingAnswer
from service.core.ports import Escrow, EscrowUnavailable, SealBroken
from service.core.records import EscrowEntry
from service.core.redeeming.steps import Step, Witness, nobody
from service.core.sealing.vault import Vault

log = logging.getLogger(__name__)

Key = tuple[GrantId, str]


def _key(entry: EscrowEntry | WaitingAnswer) -> Key:
    return entry.grant, entry.attempt_id


class Custody:
    """The spool of this machine first, then a copy that other replicas can read, where there is one.

    It remembers which answers it knows to be waiting, so that asking about the many that are not costs nothing.
    """

    def __init__(self, spool: Escrow, copy: Escrow | None, vault: Vault, witness: Witness = nobody) -> None:
        self._places: dict[Step, Escrow] = {Step.SPOOLED: spool} | ({} if copy is None else {Step.COPIED: copy})
        self._vault, self._witness = vault, witness
        self._known: dict[Key, EscrowEntry] = {}
        self._grants: Counter[GrantId] = Counter()
        self._wanting: dict[Key, set[Step]] = {}
        """What is held in memory, and the places where it is not kept yet."""
        self._complained: set[Key] = set()

    @property
    def has_copy(self) -> bool:
        """Whether there is a place that other replicas can read."""
        return Step.COPIED in self._places

    @property
    def count(self) -> int:
        """How many answers are known to wait."""
        return len(self._known)

    @property
    def oldest_at(self) -> datetime | None:
        """Since when the oldest of them waits."""
        return min((entry.kept_at for entry in self._known.values()), default=None)

    def holds(self, grant: GrantId) -> bool:
        """Whether an answer for *grant* is known to wait."""
        return grant in self._grants

    def knows(self, answer: WaitingAnswer) -> bool:
        """Whether *answer* still waits, as far as is known."""
        return _key(answer) in self._known

    async def keep(self, answer: WaitingAnswer) -> bool:
        """Keep *answer* as safely as can be; False when it is nowhere but in this process's memory.

        Where it could not be kept it is tried again with every round of `entries`.
        """
        key = _key(answer)
        if key not in self._known:
            self._wanting[key] = set(self._places)
            self._learn({key: self._vault.seal_waiting(answer)})
            await self._put(key)
            for place in sorted(self._wanting.get(key, ())):
                log.error("an answer could not be kept in escrow", extra={"place": place})
        return len(self._wanting.get(key, ())) < len(self._places)

    async def _put(self, key: Key) -> None:
        for place in [place for place in self._places if place in self._wanting.get(key, ())]:
            entry = self._known.get(key)
            if entry is None:  # it has arrived meanwhile
                return
            try:
                await self._places[place].put(entry)
                if key not in self._known:
                    await self._places[place].remove(entry)
            except EscrowUnavailable:
                continue
            self._wanting.get(key, set()).discard(place)
            self._witness(place)
        if not self._wanting.get(key):
            self._wanting.pop(key, None)

    async def look(self, grant: Grant) -> Sequence[WaitingAnswer]:
        """All that waits for *grant*, wherever it is.

        What does not open and was left behind by the row is passed over: it cannot matter any more.

        Raises:
            StoreUnavailable: some escrow could not be asked, which is not the same as that it holds nothing.
            KeyUnavailable: an entry is sealed with a key that we do not have.
        """
        found = {key: self._known[key] for key in self._wanting if key[0] == grant.id}
        try:
            for escrow in self._places.values():
                found |= {_key(entry): entry for entry in await escrow.look(grant.id)}
            self._learn(found)
            return [answer for entry in found.values() if (answer := self._open_for(grant, entry)) is not None]
        except EscrowUnavailable:
            raise StoreUnavailable("An answer of the provider may wait in an escrow that cannot be asked.") from None
        except SealBroken:
            raise StoreUnavailable("An answer of the provider waits in an escrow and its seal is broken.") from None

    def _open_for(self, grant: Grant, entry: EscrowEntry) -> WaitingAnswer | None:
        try:
            return self._vault.open_waiting(entry)
        except (SealBroken, KeyUnavailable):
            if grant.has_left_behind(entry.generation, entry.kept_at):
                return None
            raise

    async def entries(self) -> Sequence[EscrowEntry]:
        """All that is known to wait, the oldest first, after asking every escrow that answers."""
        before, missing = set(self._known), False
        for key in list(self._wanting):
            await self._put(key)
        found: dict[Key, EscrowEntry] = {}
        for escrow in self._places.values():
            try:
                found |= {_key(entry): entry for entry in await escrow.entries()}
            except EscrowUnavailable:
                missing = True
        self._learn(found)
        if not missing:
            self._unlearn(before - found.keys() - self._wanting.keys())
        return sorted(self._known.values(), key=lambda entry: entry.kept_at)

    async def clear(self, answer: WaitingAnswer) -> None:
        """It has arrived, or nobody wants it any more."""
        key = _key(answer)
        known = self._known.get(key)
        if known is None:
            return
        self._unlearn([key])  # first: what is just being put somewhere is then taken out by whoever puts it
        for escrow in self._places.values():
            try:
                await escrow.remove(known)
            except EscrowUnavailable:
                log.warning("an answer that has arrived could not be taken out of an escrow; the next round will")
        self._unlearn([key])  # a round may have found it meanwhile
        self._witness(Step.CLEARED)

    def open(self, entry: EscrowEntry) -> WaitingAnswer | None:
        """The answer of *entry*; None, and once a word in the log, when it does not open."""
        try:
            return self._vault.open_waiting(entry)
        except (SealBroken, KeyUnavailable) as failure:
            if _key(entry) not in self._complained:
                self._complained.add(_key(entry))
                log.error("an answer waits in escrow and does not open", extra={"failure": type(failure).__name__})  # noqa: TRY400
        return None

    async def health(self) -> PartHealth:
        """Of the spool: where it takes no answers the next one may be lost."""
        return await self._check(Step.SPOOLED)

    async def waiting_health(self) -> PartHealth:
        """Answers that wait are safe, but somebody should know."""
        if self._known:
            return PartHealth(
                Readiness.DEGRADED, f"{self.count} answers wait since {self.oldest_at:%Y-%m-%dT%H:%M:%SZ}"
            )
        return READY

    async def copy_health(self) -> PartHealth:
        """Of the place for copies: without it the spool is all there is, as for those without Redis."""
        return await self._check(Step.COPIED)

    async def _check(self, place: Step) -> PartHealth:
        try:
            await self._places[place].check()
        except EscrowUnavailable as failure:
            return PartHealth(Readiness.DEGRADED, f"this escrow takes no answers: {failure}")
        return READY

    def _learn(self, entries: Mapping[Key, EscrowEntry]) -> None:
        self._grants.update(grant for grant, _ in entries.keys() - self._known.keys())
        self._known |= entries

    def _unlearn(self, keys: Iterable[Key]) -> None:
        for key in keys:
            if self._known.pop(key, None) is None:
                continue
            self._wanting.pop(key, None)
            self._complained.discard(key)
            self._grants[key[0]] -= 1
            if not self._grants[key[0]]:
                del self._grants[key[0]]
