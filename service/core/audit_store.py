"""The port of the audit, and what goes through it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol


class Action(StrEnum):
    """What happened."""

    TOKEN = "token"  # noqa: S105 - a word of the contract
    REFUSED = "refused"
    REJECTED = "rejected"
    INVITED = "invited"
    CONNECTED = "connected"
    CONNECT_FAILED = "connect_failed"
    IMPORTED = "imported"
    REVOKED = "revoked"
    REVIVED = "revived"
    APPLICATION_ADDED = "application_added"
    APPLICATION_CHANGED = "application_changed"
    APPLICATION_REMOVED = "application_removed"
    DEFAULT_SET = "default_set"
    CALLER_ADDED = "caller_added"
    CALLER_CHANGED = "caller_changed"
    CALLER_REMOVED = "caller_removed"
    KEY_ADDED = "key_added"
    KEY_REMOVED = "key_removed"
    KEYS_ROTATED = "keys_rotated"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One event, or what one process counted of one kind in one minute.

    `id` is the same whenever the same thing is written again. `subject` names what an administrative act was about.
    `at` is the event's instant, or the beginning of the minute. `times` is absolute.
    """

    id: str
    at: datetime
    caller: str
    action: Action
    application: str | None = None
    user: str | None = None
    subject: str | None = None
    code: str | None = None
    request_id: str | None = None
    times: int = 1


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries a listing shows; None everything."""

    since: datetime | None = None
    until: datetime | None = None
    caller: str | None = None
    application: str | None = None
    user: str | None = None
    action: Action | None = None


class AuditStore(Protocol):
    """The rows of the audit. Every method commits and raises `StoreUnavailable`."""

    async def put(self, entries: Sequence[AuditEntry]) -> None:
        """Write *entries*, a bounded number, all or none, each in place of an earlier one of its id."""
        ...

    async def page(self, which: AuditFilter, *, after: tuple[datetime, str] | None, limit: int) -> Sequence[AuditEntry]:
        """Up to *limit* entries, the newest first, those that come after the instant and id of *after*."""
        ...

    async def forget(self, before: datetime, *, limit: int) -> int:
        """Remove up to *limit* entries older than *before*; returns how many were."""
        ...
