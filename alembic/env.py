"""Alembic's entry: it works on the connection that it is handed, by the product or by the command line."""

import asyncio
import os

from alembic import context
from sqlalchemy import Connection, pool, text
from sqlalchemy.ext.asyncio import create_async_engine

from service.adapters import tables

DEVELOPMENT_DATABASE = "sqlite+aiosqlite:///token-broker.db"
"""For `alembic` on a developer's command line; the product never asks this module for a database."""


def migrate(connection: Connection) -> None:
    """Run whatever alembic was asked for, in one transaction."""
    context.configure(
        connection=connection,
        target_metadata=tables.grants.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
    )
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            _behave_in_postgresql(connection)
        context.run_migrations()


def _behave_in_postgresql(connection: Connection) -> None:
    """One migration at a time; as long as it needs, but never in the way of others for long.

    Whoever waits for a table's lock keeps everybody waiting who comes later, so brokers must be the more patient ones.
    """
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    connection.execute(text("SET LOCAL lock_timeout = '5s'"))
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('token-broker migrations'))"))
    connection.execute(text("SET LOCAL lock_timeout = '500ms'"))


async def migrate_development_database() -> None:
    """Connect by BROKER_DATABASE_URL, or to the default file in this folder."""
    url = os.environ.get("BROKER_DATABASE_URL", DEVELOPMENT_DATABASE)
    engine = create_async_engine(url, poolclass=pool.NullPool)
    async with engine.begin() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()


given = context.config.attributes.get("connection")
if given is not None:
    migrate(given)
else:
    asyncio.run(migrate_development_database())
