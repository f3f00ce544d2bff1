"""Brings the database's schema to this version, and says whether it is there."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection

from service.adapters.sql_database import Database
from service.core.errors import StoreUnavailable

ROOT = Path(__file__).parents[2]


def alembic_config(connection: Connection | None = None) -> Config:
    """Alembic's configuration, as pyproject.toml has it, bound to *connection*."""
    config = Config(toml_file=str(ROOT / "pyproject.toml"))
    config.attributes["connection"] = connection
    return config


async def migrate(database: Database) -> None:
    """Run every migration that is missing, in one transaction.

    Raises:
        StoreUnavailable: the database cannot be asked, or is of a version that this program does not know.
    """
    try:
        async with database.write() as connection:
            await connection.run_sync(lambda sync: command.upgrade(alembic_config(sync), "head"))
    except CommandError:
        raise StoreUnavailable("The database's schema is of a version that this program does not know.") from None


async def schema_is_current(database: Database) -> bool:
    """Whether the schema is the one that this version was written for.

    Raises:
        StoreUnavailable: the database cannot be asked.
    """
    newest = ScriptDirectory.from_config(alembic_config()).get_current_head()
    async with database.read() as connection:
        current = await connection.run_sync(lambda sync: MigrationContext.configure(sync).get_current_revision())
    return current == newest
