"""Decisions joined beforehand: who may have which token, for as long as nothing about that changes."""

import weakref
from collections.abc import Callable
from datetime import timedelta

from service.core.audit import Audit
from service.core.bounded import Bounded
from service.core.clock import Clock
from service.core.directory import Directory, Identity
from service.core.lifetimes import satisfied_until
from service.core.local_cache import Entry, LocalCache
from service.core.model import AccessToken, GrantId
from service.core.upkeep.interest import Interest

MOST_PASSES = 200_000
MOST_BYTES = 128 * 1024 * 1024
LARGEST_TOKEN = 16 * 1024
LONGEST_ADDRESS = 1024
"""Bytes of path and query; who asks in more words is not remembered, or many such words would fill the memory."""

_SIZE_WITHOUT_NAMES = 1024

PassKey = tuple[bytes, bytes, bytes]
"""SHA-256 of the credentials, the path and the query, as they came."""


class Pass:
    """One caller's right to one answer. It counts what is taken on it; others collect that.

    It keeps no token alive: an entry that the cache forgets is gone.
    """

    __slots__ = ("caller", "entry", "grant", "key", "size", "taken", "until", "version")

    def __init__(
        self, key: PassKey, caller: str, grant: GrantId, entry: Entry, until: float, version: int | None
    ) -> None:
        self.key, self.caller, self.grant, self.until, self.version = key, caller, grant, until, version
        self.entry, self.taken = weakref.ref(entry), 0
        self.size = _SIZE_WITHOUT_NAMES + len(key[1]) + len(key[2])
        """About."""


class Lane:
    """Passes by key, path and query. It decides nothing: whoever decided has said for how long that holds.

    That is until the least of: the key's end, the end of what `min_ttl` asked for, and the entry's own `serve_until`
    (due, margin, confirmation, flight); and only while the directory is the one that was asked, and fresh itself.
    """

    def __init__(
        self,
        local: LocalCache,
        directory: Directory,
        audit: Audit,
        interest: Interest,
        clock: Clock,
        count: Callable[[int], None],
    ) -> None:
        self._local, self._directory, self._audit, self._interest = local, directory, audit, interest
        self._count, self._now = count, clock.timestamp  # what every request needs is at hand, not looked up
        self._passes: Bounded[PassKey, Pass] = Bounded(MOST_PASSES, MOST_BYTES)
        self._find = self._passes.get
        self._touched: list[Pass] = []

    def offer(
        self, key: PassKey, identity: Identity, grant: GrantId, token: AccessToken, min_ttl: timedelta | None
    ) -> None:
        """Upon *key*, *identity* was just given *token* for *grant*; let it be so again for as long as it may.

        It was judged before it had to wait. If the directory was read anew meanwhile, its key may have ended or its
        rights be others, and the next request is judged first.
        """
        entry = self._local.peek(grant)
        if entry is None or entry.token != token or not self._directory.is_current(identity):
            return
        if len(token.value) > LARGEST_TOKEN or len(key[1]) + len(key[2]) > LONGEST_ADDRESS:
            return
        until = satisfied_until(token, min_ttl).timestamp()
        if identity.key.expires_at is not None:
            until = min(until, identity.key.expires_at.timestamp())
        self._passes.put(key, Pass(key, identity.caller.name, grant, entry, until, self._directory.version))

    def take(self, key: PassKey) -> Entry | None:
        """What a request may have at once, counted, its `expires_in` as of now; None: it has to take the long way."""
        found = self._find(key)
        if found is None:
            return None
        entry, now, directory = found.entry(), self._now(), self._directory
        if (
            entry is None
            or not entry.serve_from <= now < entry.serve_until  # as `serves`, without a call
            or now >= found.until
            or found.version != directory.version
            or now >= directory.good_until
        ):
            return None
        if not found.taken:
            self._touched.append(found)
        found.taken += 1
        entry.expires_in = int(entry.expires_at - now)
        return entry

    def collect(self) -> None:
        """Tell the audit, the cache and the background what was taken since the last call."""
        touched, self._touched = self._touched, []
        if touched:
            self._count(sum(found.taken for found in touched))
        for found in touched:
            self._audit.handed_out(found.caller, found.grant, times=found.taken)
            self._interest.note(found.grant)
            self._local.use(found.grant)
            if self._find(found.key) is found:
                self._passes.use(found.key)
            found.taken = 0

    async def drain(self, _timeout: timedelta) -> int:
        """Collect for the last time; nothing is ever left."""
        self.collect()
        return 0
