"""Authorization requests in SQL."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, delete, insert, select, update

from service.adapters.sql_database import Database, guarded
from service.adapters.sql_grant_contents import ensure_row
from service.adapters.tables import authorization_requests, from_micros, to_instant, to_micros
from service.core.model import GrantId
from service.core.records import AuthorizationRequest

KEPT_AFTER_EXPIRY = timedelta(days=1)
_columns = authorization_requests.c


class SqlAuthorizationStore:
    """An `AuthorizationStore` in a SQL database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @guarded
    async def add(self, request: AuthorizationRequest) -> None:
        """Also forgets requests that are long over, so that the table does not grow."""
        row = {
            "ticket_digest": request.ticket_digest,
            "application": request.grant.application,
            "user": request.grant.user,
            "caller": request.caller,
            "return_to": request.return_to,
            "expires_at": to_micros(request.expires_at),
        }
        over = _columns.expires_at < to_micros(request.expires_at - KEPT_AFTER_EXPIRY)
        async with self._database.write() as connection:
            await connection.execute(delete(authorization_requests).where(over))
            await connection.execute(insert(authorization_requests).values(row))

    @guarded
    async def find(self, ticket_digest: bytes) -> AuthorizationRequest | None:
        statement = select(authorization_requests).where(_columns.ticket_digest == ticket_digest)
        async with self._database.read() as connection:
            row = (await connection.execute(statement)).one_or_none()
        return _request(row) if row is not None else None

    @guarded
    async def start(
        self,
        ticket_digest: bytes,
        *,
        state_digest: bytes,
        cookie_digest: bytes,
        sealed_verifier: bytes | None,
        at: datetime,
    ) -> bool:
        statement = (
            update(authorization_requests)
            .where(_columns.ticket_digest == ticket_digest, _columns.completed_at.is_(None))
            .values(
                state_digest=state_digest,
                cookie_digest=cookie_digest,
                sealed_verifier=sealed_verifier,
                started_at=to_micros(at),
            )
        )
        async with self._database.write() as connection:
            return (await connection.execute(statement)).rowcount == 1

    @guarded
    async def take(self, state_digest: bytes) -> AuthorizationRequest | None:
        statement = (
            update(authorization_requests)
            .where(_columns.state_digest == state_digest, _columns.completed_at.is_(None))
            .values(state_digest=None)
            .returning(*_columns)
        )
        async with self._database.write() as connection:
            row = (await connection.execute(statement)).one_or_none()
            if row is None:
                return None
            request = _request(row)
            await ensure_row(self._database, connection, request.grant)
            return request

    @guarded
    async def complete(self, ticket_digest: bytes, *, at: datetime) -> None:
        statement = (
            update(authorization_requests)
            .where(_columns.ticket_digest == ticket_digest)
            .values(completed_at=to_micros(at), state_digest=None, sealed_verifier=None)
        )
        async with self._database.write() as connection:
            await connection.execute(statement)


def _request(row: Row[Any]) -> AuthorizationRequest:
    return AuthorizationRequest(
        ticket_digest=row.ticket_digest,
        grant=GrantId(row.application, row.user),
        caller=row.caller,
        return_to=row.return_to,
        expires_at=from_micros(row.expires_at),
        completed_at=to_instant(row.completed_at),
        started_at=to_instant(row.started_at),
        cookie_digest=row.cookie_digest,
        sealed_verifier=row.sealed_verifier,
    )
