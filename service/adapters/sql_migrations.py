"""Brings the database's schema to this version, and says whether this version can work on it."""

import re
from collections.abc import Iterable
from enum import Enum, auto
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Table, select
from sqlmodel import SQLModel

from service.adapters.sql_database import Busy, Database
from service.adapters.tables import directory_version, grants
from service.core.errors import StoreUnavailable

ROOT = Path(__file__).parents[2]
FOREIGN = (
    "the schema is of no version of this program: "
    "see that BROKER_DATABASE_URL names the right database, and that one restored from a backup is whole"
)
_NUMBER = re.compile(r"[0-9]{4}")
_FIRST_TABLES = (directory_version, grants)
"""Some that every migrated database has, whatever its version: a later one may have dropped what is not needed now."""
_TABLES = tuple(SQLModel.metadata.tables.values())


class Schema(Enum):
    """What a database's schema is to this version of the program."""

    FITS = auto()
    """Its own, or a later version's, which has all that this one still needs."""
    EARLIER = auto()
    """An earlier version's, or none yet."""
    FOREIGN = auto()
    """Of no version of this program, or restored in part."""


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


async def schema_of(database: Database) -> Schema:
    """Whether this version can work on the schema that there is.

    Raises:
        StoreUnavailable: the database cannot be asked.
    """
    async with database.read() as connection:
        return await connection.run_sync(_schema)


def _upgrade(connection: Connection) -> None:
    match _schema(connection):
        case Schema.EARLIER:
            command.upgrade(alembic_config(connection), "head")
        case Schema.FOREIGN:
            raise StoreUnavailable(f"Nothing has changed: {FOREIGN}.")


def _schema(connection: Connection) -> Schema:
    """Revisions are numbers of four digits that count upwards, so one that is not known yet can still be told."""
    # Asked first: a migration that commits in between brings its tables and its revision together.
    has_tables = connection.dialect.has_table(connection, grants.name)
    match MigrationContext.configure(connection).get_current_heads():
        case ():
            return Schema.FOREIGN if has_tables else Schema.EARLIER
        case (revision,):
            known = _revisions()
            fits = revision == known[0] or (_NUMBER.fullmatch(revision) is not None and revision > known[0])
            tables = _TABLES if revision == known[0] else _FIRST_TABLES
            if not (fits or revision in known) or not _is_whole(connection, tables):
                return Schema.FOREIGN
            return Schema.FITS if fits else Schema.EARLIER
        case _:
            return Schema.FOREIGN


def _is_whole(connection: Connection, tables: Iterable[Table]) -> bool:
    """Whether *tables* and the row that all begin with are there: a backup that is restored in part may lack them."""
    if not all(connection.dialect.has_table(connection, table.name) for table in tables):
        return False
    return connection.execute(select(directory_version.c.version)).one_or_none() is not None


@cache
def _revisions() -> tuple[str, ...]:
    """Those that this version knows, the newest first."""
    return tuple(script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions())
