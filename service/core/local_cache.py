"""Access tokens in this process's memory, bounded, evicting what was used longest ago."""

import sys
from datetime import UTC, datetime, timedelta

from service.core.bounded import Bounded
from service.core.lifetimes import usable_until
from service.core.model import AccessToken, GrantId
from service.core.records import Standing

NEVER = float("-inf")
NOWHERE = -1, datetime.min.replace(tzinfo=UTC)
"""The grave of what was never buried."""
MAX_ENTRIES = 100_000
MAX_BYTES = 128 * 1024 * 1024
STAYS_IN_USE = 9
"""So many confirmations after its last use an entry still is in use (ADR 8)."""

_SIZE_WITHOUT_TOKEN = 1536


class Entry:
    """A token and the instant at which the database last confirmed its generation.

    `serve_from` and `serve_until` (seconds since 1970) join all that speaks about the entry alone: in between it may be
    handed out without a thought. Before its confirmation it is not: a clock that was set back makes that a confirmation
    from the future, of which nothing is known. `serve_until` lies in the past from the moment the entry is dropped,
    replaced or being renewed, so that whoever holds on to an entry sees that too. `expires_in` are the whole seconds
    that were left when it was last taken on the lane; `answer` is whoever renders the token to keep, good while those
    are `answers_for`.
    """

    __slots__ = (
        "__weakref__",
        "_age",
        "answer",
        "answers_for",
        "confirmed_at",
        "expires_at",
        "expires_in",
        "grounded",
        "serve_from",
        "serve_until",
        "size",
        "token",
    )

    def __init__(self, token: AccessToken, confirmed_at: datetime, age: timedelta) -> None:
        self.token, self.confirmed_at, self._age, self.grounded = token, confirmed_at, age, False
        self.expires_at, self.expires_in = token.expires_at.timestamp(), -1
        self.answer: object = None
        self.answers_for = -1
        self.size = _SIZE_WITHOUT_TOKEN + 2 * sys.getsizeof(token.value) + sys.getsizeof(token.scope)
        """About; the token counts twice, because an answer holds it again."""
        self._decide()

    def confirm(self, at: datetime) -> None:
        self.confirmed_at = at
        self._decide()

    def serves(self, now: float) -> bool:
        """Whether it may be handed out at *now* without a thought."""
        return self.serve_from <= now < self.serve_until

    def ground(self) -> None:
        """Hand it out no more without a thought."""
        self.grounded, self.serve_until = True, NEVER

    def release(self) -> None:
        self.grounded = False
        self._decide()

    def _decide(self) -> None:
        latest = min(self.token.due_at, usable_until(self.token), self.confirmed_at + self._age)
        self.serve_from = self.confirmed_at.timestamp()
        self.serve_until = NEVER if self.grounded else latest.timestamp()


class LocalCache:
    """Entries by grant, each good for *age* after it was confirmed."""

    def __init__(self, age: timedelta, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self._entries: Bounded[GrantId, Entry] = Bounded(max_entries, max_bytes)
        self._age, self._max_entries = age, max_entries
        self._in_use: dict[GrantId, int] = {}
        self._buried: dict[GrantId, tuple[int, datetime]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, grant: GrantId) -> Entry | None:
        entry = self._entries.get(grant)
        if entry is not None:
            self.use(grant)
        return entry

    def peek(self, grant: GrantId) -> Entry | None:
        """The entry, without counting as a use of it."""
        return self._entries.get(grant)

    def use(self, grant: GrantId) -> None:
        """Note that the entry of *grant*, if there is one, was of use."""
        if grant in self._entries:
            self._entries.use(grant)
            self._in_use[grant] = STAYS_IN_USE

    def in_use(self) -> list[GrantId]:
        """The grants that are worth a confirmation: each `STAYS_IN_USE` times after it was looked up.

        None where a confirmation is of no use, because nothing is served without one.
        """
        self._in_use = {grant: left - 1 for grant, left in self._in_use.items() if left and grant in self._entries}
        return list(self._in_use) if self._age else []

    def confirm(self, grant: GrantId, standing: Standing, confirmed_at: datetime) -> None:
        """Note how the database had *grant* at *confirmed_at*: its entry is good until later, or gone."""
        entry = self._entries.get(grant)
        if entry is None or not standing.confirms(entry.token):
            self.drop(grant)
        else:
            entry.confirm(confirmed_at)

    def put(self, grant: GrantId, token: AccessToken, confirmed_at: datetime) -> None:
        """Remember *token*, unless a newer generation is already here, or it was buried since it was confirmed."""
        known, (buried, buried_at) = self._entries.get(grant), self._buried.get(grant, NOWHERE)
        if known is not None and known.token.generation > token.generation:
            return
        if token.generation <= buried:
            if confirmed_at <= buried_at:
                return
            del self._buried[grant]
        if known is not None and known.token == token:
            known.confirm(confirmed_at)
            self._entries.use(grant)
        else:
            self._replace(grant, known, Entry(token, confirmed_at, self._age))

    def bury(self, grant: GrantId, generation: int, at: datetime) -> None:
        """Drop the entry, and let in nothing up to *generation*: an answer may still be on its way here.

        Unless the database confirms it after *at*, when it must have known already: then it went back in time since.
        """
        self.drop(grant)
        buried, buried_at = self._buried.pop(grant, NOWHERE)
        self._buried[grant] = max(buried, generation), max(buried_at, at)
        if len(self._buried) > self._max_entries:
            del self._buried[next(iter(self._buried))]

    def has_buried(self, grant: GrantId, generation: int) -> bool:
        """Whether *generation* of *grant* was revoked or replaced through this process."""
        return generation <= self._buried.get(grant, NOWHERE)[0]

    def is_ahead_of(self, grant: GrantId, generation: int) -> bool:
        """Whether *generation* was buried, or a newer one is here."""
        known = self._entries.get(grant)
        return self.has_buried(grant, generation) or (known is not None and known.token.generation > generation)

    def drop(self, grant: GrantId) -> None:
        entry = self._entries.pop(grant)
        if entry is not None:
            entry.ground()

    def ground(self, grant: GrantId) -> None:
        """A flight towards a newer token has begun: nobody gets the old one without waiting for it."""
        entry = self._entries.get(grant)
        if entry is not None:
            entry.ground()

    def release(self, grant: GrantId) -> None:
        """The flight has landed."""
        entry = self._entries.get(grant)
        if entry is not None:
            entry.release()

    def _replace(self, grant: GrantId, known: Entry | None, entry: Entry) -> None:
        """A flight that saves its token has not landed yet; its end releases the new entry too."""
        if known is not None:
            if known.grounded:
                entry.ground()
            known.ground()
        for forgotten in self._entries.put(grant, entry):
            forgotten.ground()
