"""Answers that wait for the database: kept in two escrows, and found again."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from service.core.errors import KeyUnavailable, StoreUnavailable
from service.core.health import READY, PartHealth, Readiness
from service.core.model import GrantId, WaitingAnswer
from service.core.ports import Escrow, EscrowUnavailable, SealBroken
from service.core.records import EscrowEntry
from service.core.steps import Step, Witness, nobody
from service.core.vault import Vault

log = logging.getLogger(__name__)

Key = tuple[GrantId, str]


def _key(entry: EscrowEntry | WaitingAnswer) -> Key:
    return entry.grant, entry.attempt_id


class Custody:
    """The spool of this machine first, then a copy that other replicas can read, where there is one.

    It remembers which answers it knows to be waiting, so that asking about the many that are not costs nothing.
    """

    def __init__(self, spool: Escrow, copy: Escrow | None, vault: Vault, witness: Witness = nobody) -> None:
        self._spool, self._copy, self._vault, self._witness = spool, copy, vault, witness
        self._known: dict[Key, EscrowEntry] = {}
        self._grants: Counter[GrantId] = Counter()
        self._only_here: set[Key] = set()
        self._troubled = False

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

    async def keep(self, answer: WaitingAnswer) -> bool:
        """Keep *answer* as safely as can be; False when it is nowhere but in this process's memory."""
        entry = self._vault.seal_waiting(answer)
        self._learn({_key(entry): entry})
        spooled = await self._put(self._spool, entry, Step.SPOOLED)
        copied = self._copy is not None and await self._put(self._copy, entry, Step.COPIED)
        if not spooled:
            log.error("an answer could not be spooled to the disk", extra={"copied": copied})
            self._troubled = True
        if not spooled and not copied:
            self._only_here.add(_key(entry))
        return spooled or copied

    async def look(self, grant: GrantId) -> Sequence[WaitingAnswer]:
        """All that waits for *grant*, wherever it is.

        Raises:
            StoreUnavailable: some escrow could not be asked, which is not the same as that it holds nothing.
            KeyUnavailable: an entry is sealed with a key that we do not have.
        """
        found: dict[Key, EscrowEntry] = {}
        try:
            for escrow in self._places():
                found |= {_key(entry): entry for entry in await escrow.look(grant)}
            answers = [self._vault.open_waiting(entry) for entry in found.values()]
        except EscrowUnavailable:
            raise StoreUnavailable("An answer of the provider may wait in an escrow that cannot be asked.") from None
        except SealBroken:
            raise StoreUnavailable("An answer of the provider waits in an escrow and its seal is broken.") from None
        self._learn(found)
        return answers

    async def entries(self) -> Sequence[EscrowEntry]:
        """All that is known to wait, the oldest first, after asking every escrow that answers."""
        found: dict[Key, EscrowEntry] = {}
        before, missing = set(self._known), False
        for escrow in self._places():
            try:
                found |= {_key(entry): entry for entry in await escrow.entries()}
            except EscrowUnavailable:
                missing = True
        self._troubled = missing
        self._learn(found)
        if not missing:
            self._unlearn(before - found.keys() - self._only_here)
        return sorted(self._known.values(), key=lambda entry: entry.kept_at)

    async def clear(self, entry: EscrowEntry | WaitingAnswer) -> None:
        """The answer has arrived, or nobody wants it any more."""
        known = self._known.get(_key(entry))
        if known is None:
            return
        for escrow in self._places():
            try:
                await escrow.remove(known)
            except EscrowUnavailable:
                log.warning("an answer that has arrived could not be taken out of an escrow; the next round will")
        self._unlearn([_key(known)])
        self._witness(Step.CLEARED)

    def open(self, entry: EscrowEntry) -> WaitingAnswer | None:
        """The answer of *entry*; None, and a word in the log, when it does not open."""
        try:
            return self._vault.open_waiting(entry)
        except SealBroken:
            log.error("an answer waits in escrow and its seal is broken")  # noqa: TRY400 - expected, without a trace
        except KeyUnavailable:
            log.error("an answer waits in escrow under a sealing key that is not ours")  # noqa: TRY400
        return None

    async def health(self) -> PartHealth:
        """Answers that wait are safe, but somebody should know."""
        if self._troubled:
            return PartHealth(Readiness.DEGRADED, "an escrow cannot be asked or written")
        if self._known:
            return PartHealth(
                Readiness.DEGRADED, f"{self.count} answers wait since {self.oldest_at:%Y-%m-%dT%H:%M:%SZ}"
            )
        return READY

    def _learn(self, entries: Mapping[Key, EscrowEntry]) -> None:
        self._grants.update(grant for grant, _ in entries.keys() - self._known.keys())
        self._known |= entries

    def _unlearn(self, keys: Iterable[Key]) -> None:
        for key in keys:
            if self._known.pop(key, None) is None:
                continue
            self._only_here.discard(key)
            self._grants[key[0]] -= 1
            if not self._grants[key[0]]:
                del self._grants[key[0]]

    def _places(self) -> Sequence[Escrow]:
        return (self._spool,) if self._copy is None else (self._spool, self._copy)

    async def _put(self, escrow: Escrow, entry: EscrowEntry, step: Step) -> bool:
        try:
            await escrow.put(entry)
        except EscrowUnavailable:
            return False
        self._witness(step)
        return True
