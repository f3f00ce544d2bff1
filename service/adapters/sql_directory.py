"""Callers, keys and applications in SQL."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import Delete, Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from service.adapters.sql_database import Database, guarded
from service.adapters.sql_directory_version import lock_version, move_version, read_version
from service.adapters.tables import (
    api_keys,
    applications,
    callers,
    default_applications,
    to_instant,
    to_micros,
    to_nullable,
)
from service.core.model import Application, Caller, GrantType, Scope
from service.core.records import ApiKey, DirectoryRows, KeyAddition


class SqlDirectoryStore:
    """A `DirectoryStore` in a SQL database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @guarded
    async def version(self) -> int:
        async with self._database.read() as connection:
            return await read_version(connection)

    @guarded
    async def load(self) -> DirectoryRows:
        """The version is read first: a change that comes between is then read again, never missed."""
        async with self._database.read() as connection:
            version = await read_version(connection)
            apps = await connection.execute(select(applications).order_by(applications.c.position))
            defaults = await connection.execute(select(default_applications))
            people = await connection.execute(select(callers).order_by(callers.c.name))
            keys = await connection.execute(select(api_keys))
            return DirectoryRows(
                version=version,
                callers=tuple(_caller(row) for row in people),
                keys=tuple(_key(row) for row in keys),
                applications=tuple(_application(row) for row in apps),
                defaults={GrantType(row.grant_type): row.application for row in defaults},
            )

    @guarded
    async def add_application(self, application: Application) -> bool:
        last = select(func.coalesce(func.max(applications.c.position), 0) + 1).scalar_subquery()
        row = {"name": application.name, "position": last, **_application_row(application)}
        return await self._add(_no_default(application.name), insert(applications).values(row))

    @guarded
    async def change_application(self, name: str, change: Callable[[Application], Application]) -> Application | None:
        async with self._database.write() as connection:
            await move_version(self._database, connection)
            here = applications.c.name == name
            row = (await connection.execute(select(applications).where(here))).one_or_none()
            if row is None:
                return None
            changed = change(_application(row))
            await connection.execute(update(applications).where(here).values(_application_row(changed)))
            return changed

    @guarded
    async def remove_application(self, name: str) -> bool:
        async with self._database.write() as connection:
            await move_version(self._database, connection)
            await connection.execute(_no_default(name))
            removed = await connection.execute(delete(applications).where(applications.c.name == name))
            return removed.rowcount == 1

    @guarded
    async def set_default(self, grant_type: GrantType, name: str) -> None:
        chosen = self._database.insert(default_applications).values(grant_type=grant_type, application=name)
        chosen = chosen.on_conflict_do_update(index_elements=["grant_type"], set_={"application": name})
        async with self._database.write() as connection:
            await move_version(self._database, connection)
            await connection.execute(chosen)

    @guarded
    async def add_caller(self, caller: Caller, key: ApiKey) -> bool:
        row = {"name": caller.name, **_caller_row(caller)}
        return await self._add(insert(callers).values(row), insert(api_keys).values(_key_row(key)))

    @guarded
    async def change_caller(self, name: str, change: Callable[[Caller], Caller]) -> Caller | None:
        async with self._database.write() as connection:
            await move_version(self._database, connection)
            here = callers.c.name == name
            row = (await connection.execute(select(callers).where(here))).one_or_none()
            if row is None:
                return None
            changed = change(_caller(row))
            await connection.execute(update(callers).where(here).values(_caller_row(changed)))
            return changed

    @guarded
    async def remove_caller(self, name: str) -> bool:
        async with self._database.write() as connection:
            await move_version(self._database, connection)
            await connection.execute(delete(api_keys).where(api_keys.c.caller == name))
            removed = await connection.execute(delete(callers).where(callers.c.name == name))
            return removed.rowcount == 1

    @guarded
    async def add_key(self, key: ApiKey, *, now: datetime, most: int) -> KeyAddition:
        async with self._database.write() as connection:
            await move_version(self._database, connection)
            if not await _is_caller(connection, key.caller):
                return KeyAddition.NO_CALLER
            own = api_keys.c.caller == key.caller
            await connection.execute(delete(api_keys).where(own, api_keys.c.expires_at <= to_micros(now)))
            kept = await connection.execute(select(func.count()).select_from(api_keys).where(own))
            if kept.scalar_one() >= most:
                return KeyAddition.TOO_MANY
            await connection.execute(insert(api_keys).values(_key_row(key)))
            return KeyAddition.ADDED

    @guarded
    async def remove_key(self, caller: str, key_id: str) -> bool:
        async with self._database.write() as connection:
            await move_version(self._database, connection)
            one = (api_keys.c.caller == caller) & (api_keys.c.id == key_id)
            removed = await connection.execute(delete(api_keys).where(one))
            return removed.rowcount == 1

    @guarded
    async def replace_keys(self, caller: str, key: ApiKey) -> bool:
        async with self._database.write() as connection:
            # The lock comes first, or a key could be left of a caller that is removed meanwhile.
            await lock_version(connection)
            if not await _is_caller(connection, caller):
                return False
            await move_version(self._database, connection)
            await connection.execute(delete(api_keys).where(api_keys.c.caller == caller))
            await connection.execute(insert(api_keys).values(_key_row(key)))
            return True

    async def _add(self, *statements: Any) -> bool:
        try:
            async with self._database.write() as connection:
                await move_version(self._database, connection)
                for statement in statements:
                    await connection.execute(statement)
        except IntegrityError:
            return False
        return True


def _no_default(name: str) -> Delete:
    return delete(default_applications).where(default_applications.c.application == name)


async def _is_caller(connection: AsyncConnection, name: str) -> bool:
    found = await connection.execute(select(callers.c.name).where(callers.c.name == name))
    return found.one_or_none() is not None


def _caller_row(caller: Caller) -> dict[str, Any]:
    return {
        "scopes": json.dumps(sorted(caller.scopes)),
        "users": json.dumps(caller.users),
        "applications": json.dumps(caller.applications),
    }


def _caller(row: Row[Any]) -> Caller:
    return Caller(
        name=row.name,
        scopes=frozenset(Scope(scope) for scope in json.loads(row.scopes)),
        users=tuple(json.loads(row.users)),
        applications=tuple(json.loads(row.applications)),
    )


def _key(row: Row[Any]) -> ApiKey:
    return ApiKey(
        digest=row.digest,
        caller=row.caller,
        expires_at=to_instant(row.expires_at),
        id=row.id,
        created_at=to_instant(row.created_at),
    )


def _key_row(key: ApiKey) -> dict[str, Any]:
    return {
        "digest": key.digest,
        "caller": key.caller,
        "expires_at": to_nullable(key.expires_at),
        "id": key.id,
        "created_at": to_nullable(key.created_at),
    }


def _application_row(application: Application) -> dict[str, Any]:
    return {
        "client_id": application.client_id,
        "client_secret_sealed": application.sealed_secret,
        "grant_types": json.dumps(sorted(application.grant_types)),
        "token_url": application.token_url,
        "authorize_url": application.authorize_url,
        "revocation_url": application.revocation_url,
        "oauth_scope": application.oauth_scope,
        "vendor_id": application.vendor_id,
        "pkce": application.pkce,
    }


def _application(row: Row[Any]) -> Application:
    return Application(
        name=row.name,
        client_id=row.client_id,
        sealed_secret=row.client_secret_sealed,
        grant_types=frozenset(GrantType(grant_type) for grant_type in json.loads(row.grant_types)),
        token_url=row.token_url,
        authorize_url=row.authorize_url,
        revocation_url=row.revocation_url,
        oauth_scope=row.oauth_scope,
        vendor_id=row.vendor_id,
        pkce=row.pkce,
    )
