"""Grants in SQL. What must not race is one UPDATE with its whole condition."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, case, func, literal, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.adapters.sql_database import Database, guarded
from service.adapters.sql_grant_listing import listing
from service.adapters.sql_grant_rows import MICROSECOND, to_grant, to_instant, token_values
from service.adapters.tables import grants, to_micros
from service.core.model import Grant, GrantId, GrantState, Reason, SealedTokens, UpstreamRevocation
from service.core.records import Force, GrantFilter, Setback, Standing

DIGEST_LENGTH = 32
REMEMBERED_SPENT = 64
REMEMBERED_IMPORTED = 16
_columns = grants.c
_NO_CLAIM: Mapping[str, Any] = {"attempt_id": None, "attempt_started_at": None, "lease_until": None}
_NO_TROUBLE: Mapping[str, Any] = {"failures": 0, "last_error_code": None, "last_error_at": None, "retry_at": None}
_FRESH_START: Mapping[str, Any] = {
    **_NO_CLAIM,
    **_NO_TROUBLE,
    "unfinished_generation": None,
    "forced_until": None,
    "forced_interval": None,
}


class SqlGrantStore:
    """A `GrantStore` in a SQL database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @guarded
    async def get(self, grant: GrantId) -> Grant | None:
        async with self._database.read() as connection:
            return await _fetch(connection, grant)

    @guarded
    async def standings(self, grants: Sequence[GrantId]) -> Mapping[GrantId, Standing]:
        wanted = [(grant.application, grant.user) for grant in grants]
        claimed = _columns.attempt_id.is_not(None)
        statement = select(
            _columns.application, _columns.user, _columns.generation, _columns.issued_at, _columns.state, claimed
        ).where(tuple_(_columns.application, _columns.user).in_(wanted))
        async with self._database.read() as connection:
            return {
                GrantId(row[0], row[1]): Standing(row[2], to_instant(row[3]), GrantState(row[4]), row[5])
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
        now = self._database.now()
        conditions = [
            _is(grant),
            _columns.generation == generation,
            _columns.state == GrantState.CONNECTED,
            or_(_columns.lease_until.is_(None), _columns.lease_until + takeover // MICROSECOND < now),
            or_(_columns.retry_at.is_(None), _columns.retry_at <= now, _columns.fingerprint != fingerprint),
        ]
        values: dict[str, Any] = {
            "attempt_id": attempt_id,
            "attempt_started_at": now,
            "lease_until": now + lease // MICROSECOND,
            "unfinished_generation": case(
                (_columns.attempt_id.is_not(None), _columns.generation), else_=_columns.unfinished_generation
            ),
        }
        if grant.is_company:
            values["fingerprint"] = fingerprint
        if force is not None:
            conditions.append(or_(_columns.forced_until.is_(None), _columns.forced_until <= now))
            values |= {"forced_until": to_micros(force.until), "forced_interval": force.interval // MICROSECOND}
        async with self._database.write() as connection:
            rows = await connection.execute(update(grants).where(*conditions).values(values).returning(*_columns))
            row = rows.one_or_none()
        return to_grant(row) if row is not None else None

    @guarded
    async def save(
        self, grant: GrantId, *, generation: int, attempt_id: str, tokens: SealedTokens, at: datetime
    ) -> bool:
        rotated: ColumnElement[bool] = literal(False)
        values = token_values(tokens)
        if tokens.refresh_digest is None:
            for kept in ("refresh_sealed", "refresh_digest", "refresh_expires_at"):
                del values[kept]
        else:
            rotated = _columns.refresh_digest.is_distinct_from(tokens.refresh_digest)
            values["refresh_expires_at"] = case(
                (rotated, values["refresh_expires_at"]), else_=_columns.refresh_expires_at
            )
            values["spent_digests"] = case((rotated, _spent_with_current()), else_=_columns.spent_digests)
        values |= {
            **_NO_CLAIM,
            **_NO_TROUBLE,
            "state": GrantState.CONNECTED,
            "reason": None,
            "generation": generation + 1,
            "saved_attempt_id": attempt_id,
            "obtained_at": func.coalesce(_columns.obtained_at, to_micros(at)),
            "renewed_at": to_micros(at),
            "unfinished_generation": case(
                (and_(rotated, _columns.unfinished_generation == generation), _columns.unfinished_generation),
                else_=None,
            ),
        }
        return await self._update(values, _is(grant), _columns.generation == generation)

    @guarded
    async def release(self, grant: GrantId, *, attempt_id: str) -> None:
        await self._update(dict(_NO_CLAIM), _is(grant), _columns.attempt_id == attempt_id)

    @guarded
    async def note_setback(self, grant: GrantId, *, attempt_id: str, setback: Setback) -> None:
        values = {
            "failures": _columns.failures + 1,
            "last_error_code": setback.code,
            "last_error_at": to_micros(setback.at),
            "retry_at": to_micros(setback.retry_at),
            **(_NO_CLAIM if setback.finished else {}),
        }
        await self._update(values, _is(grant), _columns.attempt_id == attempt_id)

    @guarded
    async def declare_dead(
        self, grant: GrantId, *, generation: int, attempt_id: str, reason: Reason, code: str, at: datetime
    ) -> bool:
        values = {
            **_NO_CLAIM,
            **_NO_TROUBLE,
            "state": GrantState.REAUTHORIZATION_REQUIRED,
            "reason": reason,
            "last_error_code": code,
            "last_error_at": to_micros(at),
        }
        return await self._update(
            values, _is(grant), _columns.generation == generation, _columns.attempt_id == attempt_id
        )

    @guarded
    async def connect(self, grant: GrantId, tokens: SealedTokens, *, at: datetime, attempt_id: str) -> Grant:
        async with self._database.write() as connection:
            await ensure_row(self._database, connection, grant)
            rows = await connection.execute(select(grants).where(_is(grant)).with_for_update())
            row = rows.one()
            if row.connected_attempt_id == attempt_id:
                return to_grant(row)
            values = {"saved_attempt_id": attempt_id, "connected_attempt_id": attempt_id}
            return await _replace(connection, grant, tokens, at, values)

    @guarded
    async def import_(self, grant: GrantId, tokens: SealedTokens, *, at: datetime) -> tuple[Grant, bool]:
        async with self._database.write() as connection:
            await ensure_row(self._database, connection, grant)
            rows = await connection.execute(select(grants).where(_is(grant)).with_for_update())
            row = rows.one()
            if _knows(row, tokens.refresh_digest):
                if row.refresh_digest == tokens.refresh_digest and row.fingerprint != tokens.fingerprint:
                    return await _change(connection, grant, {"fingerprint": tokens.fingerprint}), False
                return to_grant(row), False
            remembered = f"{tokens.refresh_digest}{row.imported_digests}"[: DIGEST_LENGTH * REMEMBERED_IMPORTED]
            values = {"saved_attempt_id": None, "imported_digests": remembered}
            return await _replace(connection, grant, tokens, at, values), row.generation == 0

    @guarded
    async def revoke(self, grant: GrantId, *, upstream: UpstreamRevocation, at: datetime) -> Grant | None:
        async with self._database.write() as connection:
            current = await _fetch(connection, grant, for_update=True)
            if current is None or not current.exists:
                return None
            if current.state is GrantState.REVOKED:
                return current
            values: dict[str, Any] = {
                **_FRESH_START,
                "state": GrantState.REVOKED,
                "reason": Reason.REVOKED,
                "generation": _columns.generation + 1,
                "saved_attempt_id": None,
                "upstream_revocation": upstream,
            }
            if upstream is UpstreamRevocation.NOT_CONFIGURED:
                values |= {"access_sealed": None, "refresh_sealed": None}
            elif current.refresh_sealed is not None:
                values["access_sealed"] = None
            return await _change(connection, grant, values)

    @guarded
    async def finish_revocation(self, grant: GrantId, *, generation: int) -> None:
        values = {
            "access_sealed": None,
            "refresh_sealed": None,
            "upstream_revocation": UpstreamRevocation.REVOKED,
        }
        await self._update(values, _is(grant), _columns.generation == generation, _columns.state == GrantState.REVOKED)

    @guarded
    async def revive(self, grant: GrantId) -> Grant | None:
        async with self._database.write() as connection:
            current = await _fetch(connection, grant, for_update=True)
            if current is None or not _can_revive(current):
                return current
            return await _change(connection, grant, {**_NO_TROUBLE, "state": GrantState.CONNECTED, "reason": None})

    @guarded
    async def page(self, which: GrantFilter, *, after: GrantId | None, limit: int, now: datetime) -> Sequence[Grant]:
        async with self._database.read() as connection:
            rows = await connection.execute(listing(which, after, limit, now, sqlite=self._database.is_sqlite))
            return [to_grant(row) for row in rows]

    async def _update(self, values: Mapping[str, Any], *conditions: ColumnElement[bool]) -> bool:
        async with self._database.write() as connection:
            result = await connection.execute(update(grants).where(*conditions).values(values))
            return result.rowcount == 1


async def ensure_row(database: Database, connection: AsyncConnection, grant: GrantId) -> None:
    """Make a row that holds nothing yet, unless there is one."""
    row = {"application": grant.application, "user": grant.user, "generation": 0, "fingerprint": b""}
    row |= {"state": GrantState.CONNECTED, "failures": 0, "spent_digests": "", "imported_digests": ""}
    await connection.execute(database.insert(grants).values(row).on_conflict_do_nothing())


async def _fetch(connection: AsyncConnection, grant: GrantId, *, for_update: bool = False) -> Grant | None:
    statement = select(grants).where(_is(grant))
    rows = await connection.execute(statement.with_for_update() if for_update else statement)
    row = rows.one_or_none()
    return to_grant(row) if row is not None else None


async def _replace(
    connection: AsyncConnection, grant: GrantId, tokens: SealedTokens, at: datetime, also: Mapping[str, Any]
) -> Grant:
    """New contents over whatever was there: a connect or an import always wins."""
    values = {
        **_FRESH_START,
        **token_values(tokens),
        "spent_digests": case(
            (_columns.refresh_digest.is_distinct_from(tokens.refresh_digest), _spent_with_current()),
            else_=_columns.spent_digests,
        ),
        "state": GrantState.CONNECTED,
        "reason": None,
        "generation": _columns.generation + 1,
        "obtained_at": to_micros(at),
        "renewed_at": to_micros(at),
        "upstream_revocation": None,
        **also,
    }
    return await _change(connection, grant, values)


async def _change(connection: AsyncConnection, grant: GrantId, values: Mapping[str, Any]) -> Grant:
    rows = await connection.execute(update(grants).where(_is(grant)).values(values).returning(*_columns))
    return to_grant(rows.one())


def _is(grant: GrantId) -> ColumnElement[bool]:
    return and_(_columns.application == grant.application, _columns.user == grant.user)


def _spent_with_current() -> ColumnElement[str]:
    """The digests of spent refresh tokens once the one now stored is spent as well."""
    newest_first = func.coalesce(_columns.refresh_digest, "").concat(_columns.spent_digests)
    return func.substr(newest_first, 1, DIGEST_LENGTH * REMEMBERED_SPENT)


def _can_revive(grant: Grant) -> bool:
    """The company needs nothing stored to begin again; a user's grant needs its refresh token."""
    if grant.id.is_company:
        return grant.state is not GrantState.CONNECTED
    return grant.state is GrantState.REAUTHORIZATION_REQUIRED and grant.refresh_sealed is not None


def _knows(row: Row[Any], digest: str | None) -> bool:
    remembered = f"{row.refresh_digest or ''}{row.spent_digests}{row.imported_digests}"
    return digest in {remembered[at : at + DIGEST_LENGTH] for at in range(0, len(remembered), DIGEST_LENGTH)}
