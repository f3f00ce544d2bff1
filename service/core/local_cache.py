"""Access tokens in this process's memory, bounded, evicting what was used longest ago."""

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime

from service.core.model import AccessToken, GrantId
from service.core.records import Standing


@dataclass(frozen=True, slots=True)
class Entry:
    """A token and the instant at which the database last confirmed its generation."""

    token: AccessToken
    confirmed_at: datetime


class LocalCache:
    """Entries by grant. It never decides whether an entry may be served; the broker does."""

    def __init__(self, max_entries: int = 100_000) -> None:
        self._entries: OrderedDict[GrantId, Entry] = OrderedDict()
        self._max_entries = max_entries
        self._used: set[GrantId] = set()
        self._buried: dict[GrantId, int] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, grant: GrantId) -> Entry | None:
        entry = self._entries.get(grant)
        if entry is not None:
            self._entries.move_to_end(grant)
            self._used.add(grant)
        return entry

    def take_used(self) -> list[GrantId]:
        """The grants that were looked up since the last call."""
        used, self._used = self._used, set()
        return [grant for grant in used if grant in self._entries]

    def confirm(self, grant: GrantId, standing: Standing, confirmed_at: datetime) -> None:
        """Note how the database had *grant* at *confirmed_at*: its entry is good until later, or gone."""
        entry = self._entries.get(grant)
        if entry is None or not standing.confirms(entry.token):
            self.drop(grant)
        else:
            self._entries[grant] = Entry(entry.token, max(confirmed_at, entry.confirmed_at))

    def put(self, grant: GrantId, token: AccessToken, confirmed_at: datetime) -> None:
        """Remember *token*, unless a newer generation is already here or was buried."""
        known = self._entries.get(grant)
        if known is not None and known.token.generation > token.generation:
            return
        if token.generation <= self._buried.get(grant, -1):
            return
        self._buried.pop(grant, None)
        self._entries[grant] = Entry(token, confirmed_at)
        self._entries.move_to_end(grant)
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    def bury(self, grant: GrantId, generation: int) -> None:
        """Drop the entry, and let nothing up to *generation* in again: an answer may still be on its way here."""
        self.drop(grant)
        self._buried[grant] = generation
        if len(self._buried) > self._max_entries:
            del self._buried[next(iter(self._buried))]

    def drop(self, grant: GrantId) -> None:
        self._entries.pop(grant, None)
