"""Real databases to run the contract suites on, each new and empty for one test."""

import asyncio
import contextlib
import shutil
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from alembic import command
from sqlalchemy import ColumnElement, create_engine, text
from sqlmodel import SQLModel

from service.adapters.sql_database import Database, read_when_run
from service.adapters.sql_migrations import alembic_config, migrate
from tests.support.clock import FakeClock


@dataclass(frozen=True, slots=True)
class RealDatabase:
    """A migrated database that any number of processes may open; `away_url` leads to one that never answers."""

    url: str
    away_url: str
    clock: FakeClock

    @contextlib.asynccontextmanager
    async def opened(self, *, pool_size: int = 5) -> AsyncIterator[Database]:
        """The database as one more process sees it."""
        async with opened(self.url, self.clock, pool_size=pool_size) as database:
            yield database

    async def pass_time(self, duration: timedelta) -> None:
        """Let *duration* pass by the clock that decides leases here."""
        self.clock.advance(duration)


@contextlib.asynccontextmanager
async def opened(url: str, clock: FakeClock, *, pool_size: int = 5) -> AsyncIterator[Database]:
    database = Database(url, pool_size=pool_size, clock=clock)
    try:
        yield database
    finally:
        await database.close()


@contextlib.asynccontextmanager
async def out_of_reach(url: str, clock: FakeClock) -> AsyncIterator[Database]:
    """A database that no connection can be made to; no other may be opened meanwhile.

    aiosqlite does not wait for the thread of such a connection, so this does, or it would outlive the test's loop.
    """
    before = set(threading.enumerate())
    async with opened(url, clock) as database:
        yield database
    for thread in set(threading.enumerate()) - before:
        if "_connection_worker_thread" in thread.name:
            await asyncio.to_thread(thread.join)


def migrated_file(folder: Path) -> Path:
    """An empty SQLite database with today's schema, to be copied for every test."""
    file = folder / "migrated.db"
    engine = create_engine(f"sqlite:///{file}")
    with engine.begin() as connection:
        command.upgrade(alembic_config(connection), "head")
    engine.dispose()
    return file


def sqlite_url(file: Path) -> str:
    return f"sqlite+aiosqlite:///{file}"


def sqlite_copy(migrated: Path, folder: Path, clock: FakeClock) -> RealDatabase:
    file = folder / "broker.db"
    shutil.copyfile(migrated, file)
    return RealDatabase(sqlite_url(file), sqlite_url(folder / "missing" / "broker.db"), clock)


class ClockedDatabase(Database):
    """PostgreSQL whose leases run by a test's clock; that they really run by the server's is a test of its own."""

    def __init__(self, url: str, clock: FakeClock) -> None:
        super().__init__(url, pool_size=5, clock=clock)
        self._tests_clock = clock

    def now(self) -> ColumnElement[int]:
        return read_when_run(self._tests_clock)


@contextlib.asynccontextmanager
async def postgres_tables(url: str, clock: FakeClock) -> AsyncIterator[ClockedDatabase]:
    """The migrated database at *url* with nothing in it."""
    database = ClockedDatabase(url, clock)
    try:
        await migrate(database)
        async with database.write() as connection:
            names = ", ".join(name for name in SQLModel.metadata.tables if name != "directory_version")
            await connection.execute(text(f"TRUNCATE {names}"))
        yield database
    finally:
        await database.close()
