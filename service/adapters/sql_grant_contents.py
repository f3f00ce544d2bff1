"""What is put into the row of one grant, all of it at once: by a renewal, a connect, an import or a revocation."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Update, and_, bindparam, case, func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.adapters.sql_database import Database
from service.adapters.sql_grant_rows import (
    FRESH_START,
    GRANT_COLUMNS,
    IS_NAMED,
    NO_CLAIM,
    NO_REFUSALS,
    NO_TROUBLE,
    TOKEN_COLUMNS,
    is_grant,
    naming,
    to_grant,
    token_values,
    told,
)
from service.adapters.tables import grants, to_micros
from service.core.model import Grant, GrantId, GrantState, Reason, SealedTokens, UpstreamRevocation

DIGEST_LENGTH = 32
REMEMBERED_SPENT = 64
REMEMBERED_IMPORTED = 16
_columns = grants.c
_GRANT = select(*GRANT_COLUMNS).where(IS_NAMED)
_LOCKED_GRANT = _GRANT.with_for_update()
_LOCKED_ROW = select(grants).where(IS_NAMED).with_for_update()


async def ensure_row(database: Database, connection: AsyncConnection, grant: GrantId) -> None:
    """Make a row that holds nothing yet, unless there is one."""
    row = {"application": grant.application, "user": grant.user, "generation": 0, "fingerprint": b""}
    row |= {"state": GrantState.CONNECTED, "failures": 0, "spent_digests": "", "imported_digests": ""}
    await connection.execute(
        database.insert(grants).values(row).on_conflict_do_nothing(index_elements=["application", "user"])
    )


async def locked_row(database: Database, connection: AsyncConnection, grant: GrantId) -> Row[Any]:
    """The row of *grant*, made if there was none, that nobody else changes before this transaction ends."""
    await ensure_row(database, connection, grant)
    return (await connection.execute(_LOCKED_ROW, naming(grant))).one()


async def fetch(connection: AsyncConnection, grant: GrantId, *, for_update: bool = False) -> Grant | None:
    """The grant, if it has a row."""
    rows = await connection.execute(_LOCKED_GRANT if for_update else _GRANT, naming(grant))
    row = rows.one_or_none()
    return to_grant(row) if row is not None else None


async def change(connection: AsyncConnection, grant: GrantId, values: Mapping[str, Any]) -> Grant:
    """Write *values* into a row that is there."""
    rows = await connection.execute(update(grants).where(is_grant(grant)).values(values).returning(*GRANT_COLUMNS))
    return to_grant(rows.one())


def renewal_of_one(*, with_refresh_token: bool) -> Update:
    """A renewal's answer put into a named grant that is still `at_generation`; what it left out stays as it is.

    It is also told `token_values`, `saved_attempt_id` and `renewed_at`.
    """
    rotated: ColumnElement[bool] = literal(False)
    values: dict[str, Any] = {column: told(column) for column in TOKEN_COLUMNS}
    if with_refresh_token:
        rotated = _columns.refresh_digest.is_distinct_from(told("refresh_digest"))
        values["refresh_expires_at"] = case((rotated, values["refresh_expires_at"]), else_=_columns.refresh_expires_at)
        values["spent_digests"] = case((rotated, _spent_with_current()), else_=_columns.spent_digests)
    else:
        for kept in ("refresh_sealed", "refresh_digest", "refresh_expires_at"):
            del values[kept]
    generation = bindparam("at_generation", type_=_columns.generation.type)
    still_unfinished = and_(rotated, _columns.unfinished_generation == generation)
    contents = {
        **values,
        **NO_CLAIM,
        **NO_TROUBLE,
        **NO_REFUSALS,
        "state": GrantState.CONNECTED,
        "reason": None,
        "generation": _columns.generation + 1,
        "saved_attempt_id": told("saved_attempt_id"),
        "obtained_at": func.coalesce(_columns.obtained_at, told("renewed_at")),
        "renewed_at": told("renewed_at"),
        "unfinished_generation": case((still_unfinished, _columns.unfinished_generation), else_=None),
    }
    return update(grants).where(IS_NAMED, _columns.generation == generation).values(contents)


def new_contents(tokens: SealedTokens, at: datetime) -> dict[str, Any]:
    """A connect or an import: over whatever was there."""
    return {
        **FRESH_START,
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
    }


def revoked_contents(current: Grant, upstream: UpstreamRevocation, at: datetime, retry_at: datetime) -> dict[str, Any]:
    """A revocation, which keeps no more than the one secret that the provider must be told."""
    values: dict[str, Any] = {
        **FRESH_START,
        "state": GrantState.REVOKED,
        "reason": Reason.REVOKED,
        "generation": _columns.generation + 1,
        "saved_attempt_id": None,
        "upstream_revocation": upstream,
        "entered_at": to_micros(at),
    }
    if upstream is UpstreamRevocation.PENDING:
        values |= {"retry_at": to_micros(retry_at), "failures": 1}
    if upstream is UpstreamRevocation.NOT_CONFIGURED:
        values |= {"access_sealed": None, "refresh_sealed": None}
    elif current.refresh_sealed is not None:
        values["access_sealed"] = None
    return values


def remember_import(row: Row[Any], digest: str | None) -> str:
    """The digests of imported refresh tokens with one more."""
    return f"{digest or ''}{row.imported_digests}"[: DIGEST_LENGTH * REMEMBERED_IMPORTED]


def knows(row: Row[Any], digest: str | None) -> bool:
    """Whether that refresh token is stored, was spent or was imported here."""
    remembered = f"{row.refresh_digest or ''}{row.spent_digests}{row.imported_digests}"
    return digest in {remembered[at : at + DIGEST_LENGTH] for at in range(0, len(remembered), DIGEST_LENGTH)}


def can_revive(grant: Grant) -> bool:
    """The company needs nothing stored to begin again; a user's grant needs its refresh token."""
    if grant.id.is_company:
        return grant.state is not GrantState.CONNECTED
    return grant.state is GrantState.REAUTHORIZATION_REQUIRED and grant.refresh_sealed is not None


def _spent_with_current() -> ColumnElement[str]:
    """The digests of spent refresh tokens once the one now stored is spent as well."""
    newest_first = func.coalesce(_columns.refresh_digest, "").concat(_columns.spent_digests)
    return func.substr(newest_first, 1, DIGEST_LENGTH * REMEMBERED_SPENT)
