"""The ports of the database, in memory: as exact as SQL, and able to go away, to hang and to commit without a word."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from service.core.clock import Clock
from service.core.errors import StoreUnavailable
from service.core.model import (
    Application,
    Caller,
    Claim,
    Failure,
    Grant,
    GrantId,
    GrantState,
    GrantType,
    Reason,
    SealedTokens,
    UpstreamRevocation,
)
from service.core.names import matches
from service.core.records import (
    REST,
    ApiKey,
    AuthorizationRequest,
    DirectoryRows,
    Due,
    Force,
    GrantFilter,
    KeyAddition,
    Setback,
    Standing,
)

REMEMBERED_SPENT = 64
REMEMBERED_IMPORTED = 16
KEPT_AFTER_EXPIRY = timedelta(days=1)
ASKED_LATELY = timedelta(seconds=1)
LONGEST_PAUSE = timedelta(hours=1)
_NO_TROUBLE: dict[str, Any] = {"failures": 0, "last_error": None, "retry_at": None}
_NO_REFUSALS: dict[str, Any] = {"refusals": 0, "refused_since": None}
_FRESH_START: dict[str, Any] = {
    **_NO_TROUBLE,
    **_NO_REFUSALS,
    "claim": None,
    "unfinished_generation": None,
    "forced_until": None,
    "forced_interval": None,
}


class _Store:
    """What every store can suffer.

    `away` refuses every call; `away_for` only the methods named. `held` makes the methods named wait for an event
    before they look at anything. `mute` commits the next call of the methods named and then loses the answer.
    """

    def __init__(self) -> None:
        self.away = False
        self.away_for: set[str] = set()
        self.held: dict[str, asyncio.Event] = {}
        self.mute: set[str] = set()
        self.calls: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def _transaction(self, method: str) -> AsyncIterator[None]:
        self.calls[method] += 1
        await asyncio.sleep(0)
        if (gate := self.held.get(method)) is not None:
            await gate.wait()
        if self.away or method in self.away_for:
            raise StoreUnavailable
        yield
        if method in self.mute:
            self.mute.discard(method)
            raise StoreUnavailable


@dataclass(frozen=True, slots=True)
class _Row:
    """A grant, and what of its row the core never sees: the last connect, digests of refresh tokens, newest first.

    `renew_at` is when the background looks next, `entered_at` when a person last decided about the grant.
    """

    grant: Grant
    digest: str | None = None
    spent: tuple[str, ...] = ()
    imported: tuple[str, ...] = ()
    connected_by: str | None = None
    asked_at: datetime | None = None
    renew_at: datetime | None = None
    entered_at: datetime | None = None

    def spend_for(self, digest: str | None) -> tuple[str, ...]:
        """The spent digests once *digest* takes the place of the present one."""
        if digest == self.digest:
            return self.spent
        return ((self.digest,) if self.digest else ()) + self.spent

    def knows(self, digest: str | None) -> bool:
        return digest is not None and digest in {self.digest, *self.spent, *self.imported}


class MemoryGrantStore(_Store):
    """A `GrantStore` whose leases run by *clock*."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self._rows: dict[GrantId, _Row] = {}
        self.free_at: dict[str, datetime] = {}
        """The pace row of each application: when all that was claimed would be done, were it done evenly."""
        self.watch: Callable[[Grant], None] = lambda _: None
        """Told of every committed change."""

    async def get(self, grant: GrantId) -> Grant | None:
        async with self._transaction("get"):
            return self.peek(grant)

    async def standings(self, grants: Sequence[GrantId]) -> Mapping[GrantId, Standing]:
        async with self._transaction("standings"):
            found = {grant: self.peek(grant) for grant in grants}
            return {
                grant: Standing(
                    row.generation, row.issued_at, row.state, row.claim is not None, row.access_sealed is not None
                )
                for grant, row in found.items()
                if row
            }

    async def ensure(self, grant: GrantId) -> None:
        async with self._transaction("ensure"):
            self.make_row(grant)

    async def claim(
        self,
        grant: GrantId,
        *,
        generation: int,
        attempt_id: str,
        fingerprint: bytes,
        lease: timedelta,
        takeover: timedelta,
        force: Force | None = None,
    ) -> Grant | None:
        async with self._transaction("claim"):
            now, row = self.clock.now(), self._rows.get(grant)
            if row is None or row.grant.generation != generation:
                return None
            if not _claimable(row.grant, now, fingerprint, takeover):
                return None
            values: dict[str, Any] = {}
            if force is not None:
                if row.grant.forced_until is not None and row.grant.forced_until > now:
                    return None
                values = {"forced_until": force.until, "forced_interval": force.interval}
            return self._change(row, values | _claimed_values(row.grant, now, attempt_id, fingerprint, lease))

    async def save(
        self, grant: GrantId, *, generation: int, attempt_id: str, tokens: SealedTokens, at: datetime
    ) -> bool:
        async with self._transaction("save"):
            row = self._rows.get(grant)
            if row is None or row.grant.generation != generation:
                return False
            values = _token_values(tokens)
            rotated = tokens.refresh_digest is not None and tokens.refresh_digest != row.digest
            if not rotated:
                del values["refresh_expires_at"]
            if tokens.refresh_digest is None:
                del values["refresh_sealed"]
            still_unfinished = rotated and row.grant.unfinished_generation == generation
            values |= {
                **_NO_TROUBLE,
                **_NO_REFUSALS,
                "claim": None,
                "state": GrantState.CONNECTED,
                "reason": None,
                "generation": generation + 1,
                "saved_attempt_id": attempt_id,
                "obtained_at": row.grant.obtained_at or at,
                "renewed_at": at,
                "unfinished_generation": generation if still_unfinished else None,
            }
            if rotated:
                spent = row.spend_for(tokens.refresh_digest)[:REMEMBERED_SPENT]
                row = replace(row, digest=tokens.refresh_digest, spent=spent)
            self._change(replace(row, renew_at=tokens.due_at), values)
            return True

    async def release(self, grant: GrantId, *, attempt_id: str, at_rest: bool = False) -> None:
        async with self._transaction("release"):
            if (row := self._claimed(grant, attempt_id)) is not None:
                renew_at = self.clock.now() + REST if at_rest else row.renew_at
                self._change(replace(row, renew_at=renew_at), {"claim": None})

    async def note_setback(self, grant: GrantId, *, attempt_id: str, setback: Setback) -> None:
        async with self._transaction("note_setback"):
            if (row := self._claimed(grant, attempt_id)) is None:
                return
            values: dict[str, Any] = {
                "failures": row.grant.failures + 1,
                "last_error": Failure(setback.code, setback.at),
                "retry_at": setback.retry_at,
            }
            if setback.finished:
                values["claim"] = None
            if setback.uncoded:
                values["refusals"] = row.grant.refusals + 1
                values["refused_since"] = row.grant.refused_since or setback.at
            if setback.spent:
                values["unfinished_generation"] = row.grant.generation
            self._change(replace(row, renew_at=row.renew_at and setback.retry_at), values)

    async def declare_dead(
        self, grant: GrantId, *, generation: int, attempt_id: str, reason: Reason, code: str, at: datetime
    ) -> bool:
        async with self._transaction("declare_dead"):
            row = self._claimed(grant, attempt_id)
            if row is None or row.grant.generation != generation:
                return False
            dead = {"claim": None, "state": GrantState.REAUTHORIZATION_REQUIRED, "reason": reason}
            self._change(row, {**_NO_TROUBLE, **dead, "last_error": Failure(code, at)})
            return True

    async def discard_access(self, grant: GrantId, *, generation: int) -> None:
        async with self._transaction("discard_access"):
            row = self._rows.get(grant)
            if row is None or row.grant.state is GrantState.REVOKED:
                return
            if row.grant.generation == generation:
                self._change(row, {"access_sealed": None, "access_expires_at": None})

    async def connect(
        self, grant: GrantId, tokens: SealedTokens, *, at: datetime, attempt_id: str, late: bool = False
    ) -> Grant | None:
        async with self._transaction("connect"):
            row = self.make_row(grant)
            if row.connected_by == attempt_id:
                return row.grant
            if late and row.entered_at is not None and tokens.issued_at < row.entered_at:
                return None
            row = replace(row, connected_by=attempt_id, entered_at=tokens.issued_at)
            return self._replace(row, tokens, at, attempt_id)

    async def import_(self, grant: GrantId, tokens: SealedTokens, *, at: datetime) -> tuple[Grant, bool]:
        async with self._transaction("import_"):
            row = self.make_row(grant)
            if row.knows(tokens.refresh_digest):
                if row.digest == tokens.refresh_digest and row.grant.fingerprint != tokens.fingerprint:
                    return self._change(row, {"fingerprint": tokens.fingerprint}), False
                return row.grant, False
            imported = ((tokens.refresh_digest,) if tokens.refresh_digest else ()) + row.imported
            row = replace(row, imported=imported[:REMEMBERED_IMPORTED], entered_at=at)
            return self._replace(row, tokens, at, None), row.grant.generation == 0

    async def revoke(
        self, grant: GrantId, *, upstream: UpstreamRevocation, at: datetime, retry_at: datetime
    ) -> Grant | None:
        async with self._transaction("revoke"):
            row = self._rows.get(grant)
            if row is None or not row.grant.exists:
                return None
            if row.grant.state is GrantState.REVOKED:
                return row.grant
            values: dict[str, Any] = {
                **_FRESH_START,
                "state": GrantState.REVOKED,
                "reason": Reason.REVOKED,
                "generation": row.grant.generation + 1,
                "saved_attempt_id": None,
                "upstream_revocation": upstream,
            }
            if upstream is UpstreamRevocation.PENDING:
                values |= {"retry_at": retry_at, "failures": 1}
            if upstream is UpstreamRevocation.NOT_CONFIGURED:
                values |= {"access_sealed": None, "refresh_sealed": None}
            elif row.grant.refresh_sealed is not None:
                values["access_sealed"] = None
            return self._change(replace(row, entered_at=at), values)

    async def finish_revocation(self, grant: GrantId, *, generation: int, upstream: UpstreamRevocation) -> None:
        async with self._transaction("finish_revocation"):
            row = self._rows.get(grant)
            if row is None or row.grant.generation != generation or not _is_untold(row.grant):
                return
            erased = {"access_sealed": None, "refresh_sealed": None, "retry_at": None, "failures": 0}
            self._change(row, {**erased, "upstream_revocation": upstream})

    async def revive(self, grant: GrantId) -> Grant | None:
        async with self._transaction("revive"):
            row = self._rows.get(grant)
            if row is None:
                return None
            dead, held = row.grant.state is GrantState.REAUTHORIZATION_REQUIRED, row.grant.refresh_sealed is not None
            if row.grant.state is GrantState.CONNECTED or not (grant.is_company or (dead and held)):
                return row.grant
            revived = {**_NO_TROUBLE, **_NO_REFUSALS, "state": GrantState.CONNECTED, "reason": None}
            return self._change(row, revived)

    async def page(self, which: GrantFilter, *, after: GrantId | None, limit: int, now: datetime) -> Sequence[Grant]:
        async with self._transaction("page"):
            found = sorted((row.grant for row in self._rows.values()), key=lambda grant: _order(grant.id))
            shown = [grant for grant in found if _shows(which, grant, now)]
            return [grant for grant in shown if after is None or _order(grant.id) > _order(after)][:limit]

    def put(self, grant: Grant) -> None:
        """Plant a row as it stands, whatever was there."""
        self._rows[grant.id] = replace(self._rows.get(grant.id) or _Row(grant, renew_at=grant.due_at), grant=grant)

    def peek(self, grant: GrantId) -> Grant | None:
        """The row as it stands, whatever else is wrong with the store."""
        row = self._rows.get(grant)
        return row.grant if row is not None else None

    def make_row(self, grant: GrantId) -> _Row:
        """The row of *grant*, one that holds nothing yet where there was none."""
        return self._rows.setdefault(grant, _Row(blank_grant(grant)))

    def _claimed(self, grant: GrantId, attempt_id: str) -> _Row | None:
        row = self._rows.get(grant)
        return row if row is not None and row.grant.claim and row.grant.claim.attempt_id == attempt_id else None

    def _replace(self, row: _Row, tokens: SealedTokens, at: datetime, attempt_id: str | None) -> Grant:
        """New contents over whatever was there: a connect or an import always wins."""
        spent = row.spend_for(tokens.refresh_digest)[:REMEMBERED_SPENT]
        values = {
            **_FRESH_START,
            **_token_values(tokens),
            "state": GrantState.CONNECTED,
            "reason": None,
            "generation": row.grant.generation + 1,
            "obtained_at": at,
            "renewed_at": at,
            "saved_attempt_id": attempt_id,
            "upstream_revocation": None,
        }
        row = replace(row, digest=tokens.refresh_digest, spent=spent, renew_at=tokens.due_at)
        return self._change(row, values)

    def rows(self) -> Sequence[_Row]:
        """All rows as they stand."""
        return tuple(self._rows.values())

    def write(self, row: _Row, **values: Any) -> Grant:
        """Commit *row* with other *values* in its grant."""
        return self._change(row, values)

    def _change(self, row: _Row, values: dict[str, Any]) -> Grant:
        grant = replace(row.grant, **values)
        self._rows[grant.id] = replace(row, grant=grant)
        self.watch(grant)
        return grant


def _claimable(grant: Grant, now: datetime, fingerprint: bytes, takeover: timedelta) -> bool:
    held = grant.claim is not None and grant.claim.lease_until + takeover >= now
    waiting = grant.retry_at is not None and grant.retry_at > now and grant.fingerprint == fingerprint
    return grant.state is GrantState.CONNECTED and not held and not waiting


def _claimed_values(
    grant: Grant, now: datetime, attempt_id: str, fingerprint: bytes, lease: timedelta
) -> dict[str, Any]:
    return {
        "claim": Claim(attempt_id, now, now + lease),
        "unfinished_generation": grant.generation if grant.claim is not None else grant.unfinished_generation,
        "fingerprint": fingerprint if grant.id.is_company else grant.fingerprint,
    }


def _is_untold(grant: Grant) -> bool:
    return grant.state is GrantState.REVOKED and grant.upstream_revocation is UpstreamRevocation.PENDING


def _token_values(tokens: SealedTokens) -> dict[str, Any]:
    return {
        "access_sealed": tokens.access_sealed,
        "refresh_sealed": tokens.refresh_sealed,
        "scope": tokens.scope,
        "issued_at": tokens.issued_at,
        "access_expires_at": tokens.access_expires_at,
        "due_at": tokens.due_at,
        "refresh_expires_at": tokens.refresh_expires_at,
        "fingerprint": tokens.fingerprint,
    }


def blank_grant(grant: GrantId) -> Grant:
    """A row made only to be claimed."""
    return Grant(
        id=grant,
        state=GrantState.CONNECTED,
        reason=None,
        generation=0,
        fingerprint=b"",
        access_sealed=None,
        refresh_sealed=None,
        scope=None,
        obtained_at=None,
        renewed_at=None,
        issued_at=None,
        access_expires_at=None,
        due_at=None,
        refresh_expires_at=None,
        claim=None,
        unfinished_generation=None,
        saved_attempt_id=None,
        failures=0,
        refusals=0,
        refused_since=None,
        last_error=None,
        retry_at=None,
        forced_until=None,
        forced_interval=None,
        upstream_revocation=None,
    )


def _order(grant: GrantId) -> tuple[str, str]:
    return grant.application, grant.user


def _shows(which: GrantFilter, grant: Grant, now: datetime) -> bool:
    return (
        grant.generation > 0
        and which.application in {None, grant.id.application}
        and which.state in {None, _standing(grant, now)}
        and (which.users is None or any(matches(pattern, grant.id.user) for pattern in which.users))
        and (
            which.applications is None or any(matches(pattern, grant.id.application) for pattern in which.applications)
        )
    )


def _standing(grant: Grant, now: datetime) -> GrantState:
    ended = grant.access_expires_at is None or grant.access_expires_at <= now
    if grant.state is GrantState.CONNECTED and grant.refresh_sealed is None and not grant.id.is_company and ended:
        return GrantState.REAUTHORIZATION_REQUIRED
    return grant.state


class MemoryRenewalQueue(_Store):
    """A `RenewalQueue` over the rows of *grants*, whose pace rows are there too."""

    def __init__(self, grants: MemoryGrantStore) -> None:
        super().__init__()
        self._grants, self._clock = grants, grants.clock

    async def claim_due(self, due: Due, *, attempt_id: str, lease: timedelta, takeover: timedelta) -> Sequence[Grant]:
        async with self._transaction("claim_due"):
            now = self._clock.now()
            overdue: list[tuple[timedelta, _Row]] = []
            for row in self._grants.rows():
                if _is_forgotten(row, due, now):
                    self._grants.write(replace(row, renew_at=None))
            for row in self._grants.rows():
                late = _overdue(row, due, now)
                if late is not None and _is_renewable(row.grant, due, now, takeover):
                    overdue.append((late, row))
            overdue.sort(key=lambda found: found[0], reverse=True)
            return [
                self._grants.write(row, **_claimed_values(row.grant, now, attempt_id, due.fingerprint, lease))
                for _, row in overdue[: self._spend_pace(due, now, len(overdue))]
            ]

    async def release_all(self, application: str, *, attempt_id: str) -> None:
        async with self._transaction("release_all"):
            for row in self._grants.rows():
                claim = row.grant.claim
                if row.grant.id.application == application and claim is not None and claim.attempt_id == attempt_id:
                    self._grants.write(row, claim=None)

    async def note_asked(self, grants: Sequence[GrantId], *, at: datetime) -> None:
        async with self._transaction("note_asked"):
            for row in self._grants.rows():
                if row.grant.id not in grants or row.grant.state is not GrantState.CONNECTED:
                    continue
                asked_at = row.asked_at
                if asked_at is None or asked_at < at - ASKED_LATELY or row.renew_at is None:
                    renew_at = row.renew_at or row.grant.due_at or at
                    self._grants.write(replace(row, asked_at=max(asked_at or at, at), renew_at=renew_at))

    async def others_succeeded(self, grant: GrantId, *, since: datetime) -> bool:
        async with self._transaction("others_succeeded"):
            others = (row.grant for row in self._grants.rows() if row.grant.id.application == grant.application)
            return any(
                other.id != grant
                and not other.id.is_company
                and other.state is GrantState.CONNECTED
                and other.refresh_sealed is not None
                and other.saved_attempt_id is not None
                and other.renewed_at is not None
                and other.renewed_at > since
                for other in others
            )

    async def claim_revocations(self, *, limit: int, pause: timedelta) -> Sequence[Grant]:
        async with self._transaction("claim_revocations"):
            now = self._clock.now()
            untold = [
                row for row in self._grants.rows() if _is_untold(row.grant) and (row.grant.retry_at or now) <= now
            ]
            untold.sort(key=lambda row: row.grant.retry_at or datetime.min.replace(tzinfo=now.tzinfo))
            return [
                self._grants.write(
                    row,
                    retry_at=now + min(pause * 2 ** min(row.grant.failures, 20), LONGEST_PAUSE),
                    failures=row.grant.failures + 1,
                )
                for row in untold[:limit]
            ]

    def _spend_pace(self, due: Due, now: datetime, wanted: int) -> int:
        interval = timedelta(microseconds=int(1_000_000 / due.per_second) or 1)
        saved_up = now - max(timedelta(seconds=1), interval)
        free_at = min(now, self._grants.free_at.get(due.application, saved_up))
        self._grants.free_at[due.application] = free_at
        idle_since = max(saved_up, free_at)
        spent = min(wanted, due.limit, (now - idle_since) // interval)
        if spent:
            self._grants.free_at[due.application] = idle_since + spent * interval
        return spent


def _overdue(row: _Row, due: Due, now: datetime) -> timedelta | None:
    """For how long *row* has been due, one way or the other; None when it is not."""
    found = []
    if row.renew_at is not None and row.renew_at <= now and _was_asked_for(row, due):
        found.append(now - row.renew_at)
    renewed_at, can_end = row.grant.renewed_at, row.grant.refresh_sealed is not None and not row.grant.id.is_company
    rests = row.renew_at is not None and row.renew_at > now
    if can_end and not rests and renewed_at is not None and renewed_at <= due.idle_since:
        found.append(due.idle_since - renewed_at)
    return max(found, default=None)


def _was_asked_for(row: _Row, due: Due) -> bool:
    return due.active_since is not None and row.asked_at is not None and row.asked_at >= due.active_since


def _is_forgotten(row: _Row, due: Due, now: datetime) -> bool:
    listed = row.renew_at is not None and row.renew_at <= now and row.grant.state is GrantState.CONNECTED
    mine = row.grant.id.application == due.application
    return mine and listed and due.active_since is not None and not _was_asked_for(row, due)


def _is_renewable(grant: Grant, due: Due, now: datetime, takeover: timedelta) -> bool:
    if grant.id.application != due.application or grant.id.type is not due.grant_type:
        return False
    if grant.id.is_company:
        return _claimable(grant, now, due.fingerprint, timedelta())
    holds_what_is_asked_for = grant.refresh_sealed is not None and grant.fingerprint == due.fingerprint
    return holds_what_is_asked_for and _claimable(grant, now, due.fingerprint, takeover)


class MemoryAuthorizationStore(_Store):
    """An `AuthorizationStore`; a taken request makes its row in *grants*."""

    def __init__(self, grants: MemoryGrantStore) -> None:
        super().__init__()
        self._grants = grants
        self.requests: dict[bytes, AuthorizationRequest] = {}
        self._states: dict[bytes, bytes] = {}

    async def add(self, request: AuthorizationRequest) -> None:
        async with self._transaction("add"):
            oldest = request.expires_at - KEPT_AFTER_EXPIRY
            self.requests = {ticket: kept for ticket, kept in self.requests.items() if kept.expires_at >= oldest}
            self.requests[request.ticket_digest] = request

    async def find(self, ticket_digest: bytes) -> AuthorizationRequest | None:
        async with self._transaction("find"):
            return self.requests.get(ticket_digest)

    async def start(
        self,
        ticket_digest: bytes,
        *,
        state_digest: bytes,
        cookie_digest: bytes,
        sealed_verifier: bytes | None,
        at: datetime,
    ) -> bool:
        async with self._transaction("start"):
            request = self.requests.get(ticket_digest)
            if request is None or request.completed_at is not None:
                return False
            self._void_state(ticket_digest)
            self._states[state_digest] = ticket_digest
            self.requests[ticket_digest] = replace(
                request, cookie_digest=cookie_digest, sealed_verifier=sealed_verifier, started_at=at
            )
            return True

    async def take(self, state_digest: bytes) -> AuthorizationRequest | None:
        async with self._transaction("take"):
            request = self.requests.get(self._states.get(state_digest, b""))
            if request is None or request.completed_at is not None:
                return None
            del self._states[state_digest]
            self._grants.make_row(request.grant)
            return request

    async def complete(self, ticket_digest: bytes, *, at: datetime) -> None:
        async with self._transaction("complete"):
            request = self.requests.get(ticket_digest)
            if request is not None:
                self._void_state(ticket_digest)
                self.requests[ticket_digest] = replace(request, completed_at=at, sealed_verifier=None)

    def _void_state(self, ticket_digest: bytes) -> None:
        self._states = {state: ticket for state, ticket in self._states.items() if ticket != ticket_digest}


class MemoryDirectoryStore(_Store):
    """A `DirectoryStore`."""

    def __init__(self) -> None:
        super().__init__()
        self._version = 1
        self._callers: dict[str, Caller] = {}
        self._keys: dict[bytes, ApiKey] = {}
        self.applications: dict[str, Application] = {}
        self._defaults: dict[GrantType, str] = {}

    async def version(self) -> int:
        async with self._transaction("version"):
            return self._version

    async def load(self) -> DirectoryRows:
        async with self._transaction("load"):
            return DirectoryRows(
                version=self._version,
                callers=tuple(sorted(self._callers.values(), key=lambda caller: caller.name)),
                keys=tuple(self._keys.values()),
                applications=tuple(self.applications.values()),
                defaults=dict(self._defaults),
            )

    async def add_application(self, application: Application) -> bool:
        async with self._transaction("add_application"):
            if application.name in self.applications:
                return False
            self._forget_default(application.name)
            self.applications[application.name] = application
            self._version += 1
            return True

    async def change_application(self, name: str, change: Callable[[Application], Application]) -> Application | None:
        async with self._transaction("change_application"):
            if name not in self.applications:
                return None
            self.applications[name] = change(self.applications[name])
            self._version += 1
            return self.applications[name]

    async def remove_application(self, name: str) -> bool:
        async with self._transaction("remove_application"):
            self._forget_default(name)
            self._version += 1
            return self.applications.pop(name, None) is not None

    def _forget_default(self, name: str) -> None:
        self._defaults = {kind: chosen for kind, chosen in self._defaults.items() if chosen != name}

    async def set_default(self, grant_type: GrantType, name: str) -> None:
        async with self._transaction("set_default"):
            self._defaults[grant_type] = name
            self._version += 1

    async def add_caller(self, caller: Caller, key: ApiKey) -> bool:
        async with self._transaction("add_caller"):
            if caller.name in self._callers or key.digest in self._keys:
                return False
            self._callers[caller.name] = caller
            self._keys[key.digest] = key
            self._version += 1
            return True

    async def change_caller(self, name: str, change: Callable[[Caller], Caller]) -> Caller | None:
        async with self._transaction("change_caller"):
            if name not in self._callers:
                return None
            self._callers[name] = change(self._callers[name])
            self._version += 1
            return self._callers[name]

    async def remove_caller(self, name: str) -> bool:
        async with self._transaction("remove_caller"):
            self._drop_keys(name)
            self._version += 1
            return self._callers.pop(name, None) is not None

    async def add_key(self, key: ApiKey, *, now: datetime, most: int) -> KeyAddition:
        async with self._transaction("add_key"):
            self._version += 1
            if key.caller not in self._callers:
                return KeyAddition.NO_CALLER
            own = [one for one in self._keys.values() if one.caller == key.caller]
            for gone in [one for one in own if not one.is_live(now)]:
                del self._keys[gone.digest]
            if sum(one.is_live(now) for one in own) >= most:
                return KeyAddition.TOO_MANY
            self._keys[key.digest] = key
            return KeyAddition.ADDED

    async def remove_key(self, caller: str, key_id: str) -> bool:
        async with self._transaction("remove_key"):
            self._version += 1
            found = [digest for digest, key in self._keys.items() if (key.caller, key.id) == (caller, key_id)]
            for digest in found:
                del self._keys[digest]
            return bool(found)

    async def replace_keys(self, caller: str, key: ApiKey) -> bool:
        async with self._transaction("replace_keys"):
            if caller not in self._callers:
                return False
            self._drop_keys(caller)
            self._keys[key.digest] = key
            self._version += 1
            return True

    def move_version(self) -> None:
        self._version += 1

    def _drop_keys(self, caller: str) -> None:
        self._keys = {digest: key for digest, key in self._keys.items() if key.caller != caller}
