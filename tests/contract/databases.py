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
from sqlalchemy import create_engine

from service.adapters.sql_database import Database
from service.adapters.sql_migrations import alembic_config
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
    database, others = Database(url, pool_size=pool_size, clock=clock), set(threading.enumerate())
    try:
        yield database
    finally:
        await database.close()
        # aiosqlite does not wait for the thread of a connection that could not be made; the test's loop must.
        for thread in set(threading.enumerate()) - others:
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
