"""Brings the database's schema to this version, and says whether this version can work on it."""

import re
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection

from service.adapters.sql_database import Busy, Database
from service.core.errors import StoreUnavailable

ROOT = Path(__file__).parents[2]
_NUMBER = re.compile(r"[0-9]{4}")


def alembic_config(connection: Connection | None = None) -> Config:
    """Alembic's configuration, as pyproject.toml has it, bound to *connection*."""
    config = Config(toml_file=str(ROOT / "pyproject.toml"))
    config.attributes["connection"] = connection
    return config


async def migrate(database: Database) -> None:
    """Run every migration that is missing, in one transaction; a later version's schema is left as it is.

    Raises:
        StoreUnavailable: the database cannot be asked, is busy, or is of no version of this program.
    """
    try:
        async with database.write() as connection:
            await connection.run_sync(_upgrade)
    except Busy:
        raise StoreUnavailable(
            "The migration met another transaction's lock; nothing has changed: try again."
        ) from None
    except CommandError:
        raise StoreUnavailable("The database's schema is of no version of this program.") from None


async def schema_fits(database: Database) -> bool:
    """Whether this version can work on the schema: it is its own, or a later version's, which has only more.

    Raises:
        StoreUnavailable: the database cannot be asked.
    """
    async with database.read() as connection:
        current = await connection.run_sync(_revision)
    return current == _newest() or _is_later(current)


def _upgrade(connection: Connection) -> None:
    if not _is_later(_revision(connection)):
        command.upgrade(alembic_config(connection), "head")


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


@cache
def _newest() -> str:
    return str(ScriptDirectory.from_config(alembic_config()).get_current_head())


def _is_later(revision: str | None) -> bool:
    """Revisions are numbers of four digits that count upwards, so one that is not known yet can still be told."""
    return revision is not None and _NUMBER.fullmatch(revision) is not None and revision > _newest()
