"""Who got which user's token, how often, and everything that anybody decided, was refused or changed."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from itertools import count, islice

from service.core.audit_store import Action, AuditEntry, AuditStore
from service.core.clock import Clock
from service.core.errors import StoreUnavailable
from service.core.minutes import Minute
from service.core.model import GrantId
from service.core.sealing.pseudonyms import NameUser, nameless

log = logging.getLogger(__name__)

MINUTE = timedelta(minutes=1)
MOST_REFUSALS = 100
"""Different refusals that one process tells apart in a minute: who tries name after name for months fills no disk."""

MOST_HANDOUTS = 100_000
MOST_WAITING = 300_000
"""Rows that wait in memory for a database that is away; beyond it the oldest are given up, and counted."""

ROWS_AT_ONCE = 500
"""Rows written or removed in one go: few enough for the deadline of any database, however many wait."""

AT_ONCE = 100
"""Rows made or lines told in a row, a few milliseconds of work; then requests have their turn."""

STRANGER = "-"
"""The caller of a request without a valid key."""


@dataclass(frozen=True, slots=True)
class Actor:
    """On whose behalf the present task works."""

    caller: str
    request_id: str | None = None


_NOBODY = Actor(STRANGER)
acting: ContextVar[Actor] = ContextVar("acting", default=_NOBODY)


_Key = tuple[str, Action, str | None, str | None, str | None]


class Audit:
    """Counts hand-outs, refusals and failed logins in memory by the minute, and writes the counts and all events down.

    What was counted since the last flush is lost when the process is killed; an event is written before its request
    is answered, and waits in memory only while the database is away.
    """

    def __init__(self, store: AuditStore, clock: Clock, name_user: NameUser = nameless) -> None:
        self._store, self._clock, self.name_user = store, clock, name_user
        self._process, self._numbers = secrets.token_hex(8), count()
        self._minute: Minute[_Key] = Minute(clock.now(), self._numbers)
        self._over: list[Minute[_Key]] = []
        self._refusals = 0
        self._waiting: dict[str, AuditEntry] = {}
        self.given_up = 0

    @property
    def backlog(self) -> int:
        """How many entries are not written yet."""
        return len(self._waiting) + sum(len(minute.changed) for minute in (*self._over, self._minute))

    def handed_out(self, caller: str, grant: GrantId, action: Action = Action.TOKEN, *, times: int = 1) -> None:
        """*caller* got a token of *grant*, or another one for one that was rejected."""
        self._turn_the_minute()
        key: _Key = (caller, action, grant.application, grant.user, None)
        if key not in self._minute.counts and len(self._minute.counts) >= MOST_HANDOUTS:
            key = (caller, action, None, None, None)
        self._minute.count(key, times)

    def refused(self, caller: str, code: str, user: str | None = None) -> None:
        """*caller* was told no. However many names somebody tries, they fill no disk."""
        self._turn_the_minute()
        key: _Key = (caller, Action.REFUSED, None, user, code)
        if key not in self._minute.counts:
            self._refusals += 1
            if self._refusals > MOST_REFUSALS:
                key = (caller, Action.REFUSED, None, None, code)
        self._minute.count(key, 1)

    def connect_failed(self, caller: str, grant: GrantId, code: str) -> None:
        """A login failed for which *caller* had invited; whoever holds its link fails as often as they like."""
        self._turn_the_minute()
        self._minute.count((caller, Action.CONNECT_FAILED, grant.application, grant.user, code), 1)

    async def note(
        self,
        action: Action,
        *,
        grant: GrantId | None = None,
        subject: str | None = None,
        code: str | None = None,
        caller: str | None = None,
    ) -> None:
        """Write one event of the acting caller down, or of *caller*; while the database is away it waits."""
        actor = acting.get()
        entry = AuditEntry(
            id=f"{self._process}-e{next(self._numbers)}",
            at=self._clock.now(),
            caller=caller or actor.caller,
            action=action,
            application=grant.application if grant else None,
            user=grant.user if grant else None,
            subject=subject,
            code=code,
            request_id=actor.request_id,
        )
        self._tell(entry)
        self._waiting[entry.id] = entry
        try:
            await self._store.put([entry])
        except StoreUnavailable:
            return
        self._waiting.pop(entry.id, None)

    async def flush(self) -> None:
        """Write down what was counted since the last time, and tell the log of the minutes that are over.

        Raises:
            StoreUnavailable: the rows wait for the next flush; the log has been told.
        """
        self._turn_the_minute()
        over = tuple(self._over)
        for minute in (*over, self._minute):
            await self._gather(minute)
        try:
            await self._write()
        finally:
            await self._tell_counts(over)

    async def _gather(self, minute: Minute[_Key]) -> None:
        """Make rows of what changed, so that the counts may go on."""
        changed, minute.changed = list(minute.changed), set()
        try:
            while changed:
                for key in changed[-AT_ONCE:]:
                    entry = self._entry(minute, key)
                    self._waiting[entry.id] = entry
                del changed[-AT_ONCE:]
                await asyncio.sleep(0)
        finally:
            minute.changed.update(changed)
        excess = len(self._waiting) - MOST_WAITING
        for id_ in list(islice(self._waiting, max(excess, 0))):
            del self._waiting[id_]
            self.given_up += 1

    async def _write(self) -> None:
        """Piece by piece: what a database took before it failed need not be written again."""
        sent = list(self._waiting.values())
        for start in range(0, len(sent), ROWS_AT_ONCE):
            await self._store.put(piece := sent[start : start + ROWS_AT_ONCE])
            for entry in piece:
                if self._waiting.get(entry.id) is entry:
                    del self._waiting[entry.id]

    async def _tell_counts(self, over: Sequence[Minute[_Key]]) -> None:
        """A line for each count, however many there are, without keeping requests waiting for all of them."""
        for minute in over:
            while keys := minute.untold(AT_ONCE):
                for key in keys:
                    self._tell(self._entry(minute, key))
                await asyncio.sleep(0)
            self._over.remove(minute)

    async def forget(self, after: timedelta) -> None:
        """Remove what is older than *after*, a bounded piece at a time.

        Raises:
            StoreUnavailable: the next call goes on.
        """
        before, forgotten = self._clock.now() - after, ROWS_AT_ONCE
        while forgotten == ROWS_AT_ONCE:
            forgotten = await self._store.forget(before, limit=ROWS_AT_ONCE)

    async def drain(self, timeout: timedelta) -> int:
        """Write what is left, within *timeout*; returns how many entries are then lost. The log learns all counts."""
        self._close_the_minute()
        with contextlib.suppress(StoreUnavailable, TimeoutError):
            await asyncio.wait_for(self.flush(), timeout.total_seconds())
        return self.backlog

    def _turn_the_minute(self) -> None:
        """Close the counts of a minute that is over, however long a flush takes.

        The next flush makes rows and lines of them: whoever comes by has no time for it, and what is logged here would
        bear the id of its request. A clock that goes back opens no earlier minute.
        """
        if self._clock.now() >= self._minute.at + MINUTE:
            self._close_the_minute()

    def _close_the_minute(self) -> None:
        self._over.append(self._minute)
        self._minute, self._refusals = Minute(self._clock.now(), self._numbers), 0

    def _entry(self, minute: Minute[_Key], key: _Key) -> AuditEntry:
        caller, action, application, user, code = key
        id_ = f"{self._process}-{minute.number(key)}"
        return AuditEntry(id_, minute.at, caller, action, application, user, code=code, times=minute.counts[key])

    def _tell(self, entry: AuditEntry) -> None:
        """One line of the log. The rows know users by their names, for whoever may read the audit; the log does not."""
        told = {
            "at": entry.at.isoformat(),
            "action": entry.action,
            "caller": entry.caller,
            "application": entry.application,
            "user": None if entry.user is None else self.name_user(entry.user),
            "subject": entry.subject,
            "code": entry.code,
            "times": entry.times,
        }
        log.info("audit", extra={name: value for name, value in told.items() if value is not None})
