"""Decisions joined beforehand: who may have which token, for as long as nothing about that changes."""

import hashlib
from collections.abc import Callable
from datetime import timedelta

from service.core.audit import Audit
from service.core.clock import Clock
from service.core.directory import Directory, Identity
from service.core.interest import Interest
from service.core.lifetimes import satisfied_until
from service.core.local_cache import Entry, LocalCache
from service.core.model import AccessToken, GrantId

MOST_PASSES = 200_000
LARGEST_TOKEN = 16 * 1024
LONGEST_ADDRESS = 1024
"""Bytes of path and query; who asks in more words is not remembered, or many such words would fill the memory."""

PassKey = tuple[bytes, bytes, bytes]
"""SHA-256 of the API key, the path and the query, as they came."""


class Pass:
    """One caller's right to one answer. It counts what is taken on it; others collect that.

    `answer` is whoever renders it to keep, good for the whole seconds of life in `answers_for`.
    """

    __slots__ = (
        "answer",
        "answers_for",
        "caller",
        "entry",
        "expires_at",
        "expires_in",
        "grant",
        "taken",
        "until",
        "version",
    )

    def __init__(self, caller: str, grant: GrantId, entry: Entry, until: float, version: int | None) -> None:
        self.caller, self.grant, self.entry, self.until, self.version = caller, grant, entry, until, version
        self.expires_at = entry.token.expires_at.timestamp()
        self.taken, self.expires_in = 0, 0
        self.answer: object = None
        self.answers_for = -1


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
        self._clock, self._count = clock, count
        self._passes: dict[PassKey, Pass] = {}
        self._touched: list[Pass] = []

    def offer(
        self,
        identity: Identity,
        path: bytes,
        query: bytes,
        grant: GrantId,
        token: AccessToken,
        min_ttl: timedelta | None,
    ) -> None:
        """*identity* was just given *token* for *grant*; let its like be answered at once for as long as it may.

        It was judged before it had to wait. If the directory was read anew meanwhile, its key may have ended or its
        rights be others, and the next request is judged first.
        """
        entry = self._local.peek(grant)
        if entry is None or entry.token != token or not self._directory.is_current(identity):
            return
        if len(token.value) > LARGEST_TOKEN or len(path) + len(query) > LONGEST_ADDRESS:
            return
        until = satisfied_until(token, min_ttl).timestamp()
        if identity.key.expires_at is not None:
            until = min(until, identity.key.expires_at.timestamp())
        if len(self._passes) >= MOST_PASSES:
            self._passes.pop(next(iter(self._passes)))
        self._passes[identity.key.digest, path, query] = Pass(
            identity.caller.name, grant, entry, until, self._directory.version
        )

    def take(self, key: bytes, path: bytes, query: bytes) -> Pass | None:
        """The pass for a request, counted, with the seconds its token lives; None when it has to take the long way."""
        found = self._passes.get((hashlib.sha256(key).digest(), path, query))
        if found is None:
            return None
        now, directory = self._clock.timestamp(), self._directory
        if (
            now >= found.entry.serve_until
            or now >= found.until
            or found.version != directory.version
            or now >= directory.good_until
        ):
            return None
        found.expires_in = int(found.expires_at - now)
        if not found.taken:
            self._touched.append(found)
        found.taken += 1
        return found

    def collect(self) -> None:
        """Tell the audit, the cache and the background what was taken since the last call."""
        touched, self._touched = self._touched, []
        if touched:
            self._count(sum(found.taken for found in touched))
        for found in touched:
            self._audit.handed_out(found.caller, found.grant, times=found.taken)
            self._interest.note(found.grant)
            self._local.use(found.grant)
            found.taken = 0

    async def drain(self, _timeout: timedelta) -> int:
        """Collect for the last time; nothing is ever left."""
        self.collect()
        return 0
