"""The audit's rows in memory."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from service.core.audit_store import AuditEntry, AuditFilter
from service.core.errors import StoreUnavailable


class MemoryAuditStore:
    """An `AuditStore` in a dictionary; while it is `away`, nobody can ask it anything."""

    def __init__(self) -> None:
        self.rows: dict[str, AuditEntry] = {}
        self.away = False

    async def put(self, entries: Sequence[AuditEntry]) -> None:
        self._check()
        for entry in entries:
            known = self.rows.get(entry.id)
            self.rows[entry.id] = replace(known, times=entry.times) if known else entry

    async def page(self, which: AuditFilter, *, after: tuple[datetime, str] | None, limit: int) -> Sequence[AuditEntry]:
        self._check()
        found = [entry for entry in self.rows.values() if _matches(which, entry)]
        found = [entry for entry in found if after is None or (entry.at, entry.id) < after]
        return sorted(found, key=lambda entry: (entry.at, entry.id), reverse=True)[:limit]

    async def forget(self, before: datetime, *, limit: int) -> int:
        self._check()
        old = sorted((entry for entry in self.rows.values() if entry.at < before), key=lambda entry: entry.at)[:limit]
        for entry in old:
            del self.rows[entry.id]
        return len(old)

    def _check(self) -> None:
        if self.away:
            raise StoreUnavailable


def _matches(which: AuditFilter, entry: AuditEntry) -> bool:
    if which.since is not None and entry.at < which.since:
        return False
    if which.until is not None and entry.at >= which.until:
        return False
    return all(
        wanted is None or wanted == found
        for wanted, found in (
            (which.caller, entry.caller),
            (which.application, entry.application),
            (which.user, entry.user),
            (which.action, entry.action),
        )
    )
