"""Grants in SQL. What must not race is one UPDATE with its whole condition."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import product
from typing import Any

from sqlalchemy import ColumnElement, case, func, select, update

from service.adapters.sql_claims import claim_of_one
from service.adapters.sql_database import Database, guarded
from service.adapters.sql_grant_contents import (
    can_revive,
    change,
    ensure_row,
    fetch,
    knows,
    locked_row,
    new_contents,
    remember_import,
    renewal_of_one,
    revoked_contents,
)
from service.adapters.sql_grant_listing import listing
from service.adapters.sql_grant_rows import (
    MICROSECOND,
    NO_CLAIM,
    NO_REFUSALS,
    NO_TROUBLE,
    among,
    is_grant,
    naming,
    telling,
    to_grant,
    token_values,
)
from service.adapters.tables import grants, to_instant, to_micros
from service.core.model import Grant, GrantId, GrantState, Reason, SealedTokens, UpstreamRevocation
from service.core.records import REST, Force, GrantFilter, Setback, Standing

_columns = grants.c
_RENEWALS = {rotating: renewal_of_one(with_refresh_token=rotating) for rotating in (False, True)}
_REVIVED: Mapping[str, Any] = {**NO_TROUBLE, **NO_REFUSALS, "state": GrantState.CONNECTED, "reason": None}


class SqlGrantStore:
    """A `GrantStore` in a SQL database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._claims = {
            (company, forced): claim_of_one(database.now(), company=company, forced=forced)
            for company, forced in product((False, True), repeat=2)
        }

    @guarded
    async def get(self, grant: GrantId) -> Grant | None:
        async with self._database.read() as connection:
            return await fetch(connection, grant)

    @guarded
    async def standings(self, grants: Sequence[GrantId]) -> Mapping[GrantId, Standing]:
        claimed, has_token = _columns.attempt_id.is_not(None), _columns.access_sealed.is_not(None)
        token = _columns.generation, _columns.issued_at
        statement = select(_columns.application, _columns.user, *token, _columns.state, claimed, has_token).where(
            among(grants)
        )
        async with self._database.read() as connection:
            return {
                GrantId(row[0], row[1]): Standing(row[2], to_instant(row[3]), GrantState(row[4]), row[5], row[6])
                for row in await connection.execute(statement)
            }

    @guarded
    async def ensure(self, grant: GrantId) -> None:
        async with self._database.write() as connection:
            await ensure_row(self._database, connection, grant)

    @guarded
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
        values: dict[str, Any] = {"attempt_id": attempt_id, "fingerprint": fingerprint}
        if force is not None:
            values |= {"forced_until": to_micros(force.until), "forced_interval": force.interval // MICROSECOND}
        parameters = {
            **naming(grant),
            **telling(values),
            "at_generation": generation,
            "lease": lease // MICROSECOND,
            "takeover": takeover // MICROSECOND,
        }
        async with self._database.write_once() as connection:
            rows = await connection.execute(self._claims[grant.is_company, force is not None], parameters)
            row = rows.one_or_none()
        return to_grant(row) if row is not None else None

    @guarded
    async def save(
        self, grant: GrantId, *, generation: int, attempt_id: str, tokens: SealedTokens, at: datetime
    ) -> bool:
        values = {**token_values(tokens), "saved_attempt_id": attempt_id, "renewed_at": to_micros(at)}
        parameters = {**naming(grant), **telling(values), "at_generation": generation}
        async with self._database.write_once() as connection:
            result = await connection.execute(_RENEWALS[tokens.refresh_digest is not None], parameters)
            return result.rowcount == 1

    @guarded
    async def release(self, grant: GrantId, *, attempt_id: str, at_rest: bool = False) -> None:
        values: dict[str, Any] = {**NO_CLAIM}
        if at_rest:
            values["renew_at"] = self._database.now() + REST // MICROSECOND
        await self._update(values, is_grant(grant), _columns.attempt_id == attempt_id)

    @guarded
    async def note_setback(self, grant: GrantId, *, attempt_id: str, setback: Setback) -> None:
        retry_at = to_micros(setback.retry_at)
        values = {
            "failures": _columns.failures + 1,
            "last_error_code": setback.code,
            "last_error_at": to_micros(setback.at),
            "retry_at": retry_at,
            "renew_at": case((_columns.renew_at.is_not(None), retry_at), else_=None),
            **(NO_CLAIM if setback.finished else {}),
        }
        if setback.uncoded:
            values["refusals"] = _columns.refusals + 1
            values["refused_since"] = func.coalesce(_columns.refused_since, to_micros(setback.at))
        if setback.spent:
            values["unfinished_generation"] = _columns.generation
        await self._update(values, is_grant(grant), _columns.attempt_id == attempt_id)

    @guarded
    async def declare_dead(
        self, grant: GrantId, *, generation: int, attempt_id: str, reason: Reason, code: str, at: datetime
    ) -> bool:
        values = {
            **NO_CLAIM,
            **NO_TROUBLE,
            "state": GrantState.REAUTHORIZATION_REQUIRED,
            "reason": reason,
            "last_error_code": code,
            "last_error_at": to_micros(at),
        }
        return await self._update(
            values, is_grant(grant), _columns.generation == generation, _columns.attempt_id == attempt_id
        )

    @guarded
    async def discard_access(self, grant: GrantId, *, generation: int) -> None:
        values = {"access_sealed": None, "access_expires_at": None}
        still_there = _columns.generation == generation, _columns.state != GrantState.REVOKED
        await self._update(values, is_grant(grant), *still_there)

    @guarded
    async def connect(
        self, grant: GrantId, tokens: SealedTokens, *, at: datetime, attempt_id: str, late: bool = False
    ) -> Grant | None:
        async with self._database.write() as connection:
            row = await locked_row(self._database, connection, grant)
            if row.connected_attempt_id == attempt_id:
                return to_grant(row)
            issued_at = to_micros(tokens.issued_at)
            if late and row.entered_at is not None and issued_at < row.entered_at:
                return None
            attempt = {"saved_attempt_id": attempt_id, "connected_attempt_id": attempt_id, "entered_at": issued_at}
            return await change(connection, grant, new_contents(tokens, at) | attempt)

    @guarded
    async def import_(self, grant: GrantId, tokens: SealedTokens, *, at: datetime) -> tuple[Grant, bool]:
        async with self._database.write() as connection:
            row = await locked_row(self._database, connection, grant)
            if knows(row, tokens.refresh_digest):
                if row.refresh_digest == tokens.refresh_digest and row.fingerprint != tokens.fingerprint:
                    return await change(connection, grant, {"fingerprint": tokens.fingerprint}), False
                return to_grant(row), False
            values = new_contents(tokens, at) | {
                "saved_attempt_id": None,
                "imported_digests": remember_import(row, tokens.refresh_digest),
                "entered_at": to_micros(at),
            }
            return await change(connection, grant, values), row.generation == 0

    @guarded
    async def revoke(
        self, grant: GrantId, *, upstream: UpstreamRevocation, at: datetime, retry_at: datetime
    ) -> Grant | None:
        async with self._database.write() as connection:
            current = await fetch(connection, grant, for_update=True)
            if current is None or not current.exists:
                return None
            if current.state is GrantState.REVOKED:
                return current
            return await change(connection, grant, revoked_contents(current, upstream, at, retry_at))

    @guarded
    async def finish_revocation(self, grant: GrantId, *, generation: int, upstream: UpstreamRevocation) -> None:
        values = {
            "access_sealed": None,
            "refresh_sealed": None,
            "upstream_revocation": upstream,
            "retry_at": None,
            "failures": 0,
        }
        await self._update(
            values,
            is_grant(grant),
            _columns.generation == generation,
            _columns.state == GrantState.REVOKED,
            _columns.upstream_revocation == UpstreamRevocation.PENDING,
        )

    @guarded
    async def revive(self, grant: GrantId) -> Grant | None:
        async with self._database.write() as connection:
            current = await fetch(connection, grant, for_update=True)
            if current is None or not can_revive(current):
                return current
            return await change(connection, grant, _REVIVED)

    @guarded
    async def page(self, which: GrantFilter, *, after: GrantId | None, limit: int, now: datetime) -> Sequence[Grant]:
        async with self._database.scan() as connection:
            rows = await connection.execute(listing(which, after, limit, now, sqlite=self._database.is_sqlite))
            return [to_grant(row) for row in rows]

    async def _update(self, values: Mapping[str, Any], *conditions: ColumnElement[bool]) -> bool:
        async with self._database.write() as connection:
            result = await connection.execute(update(grants).where(*conditions).values(values))
            return result.rowcount == 1
