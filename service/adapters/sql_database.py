"""One pool of database connections, and the two ways to use it: reads, and writes that are transactions."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, event, exc, literal, make_url, text
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

from service.adapters.tables import to_micros
from service.core.clock import Clock
from service.core.errors import StoreUnavailable

BUSY_TIMEOUT = timedelta(seconds=5)
_WAL_PAUSE = timedelta(milliseconds=20)
_UNAVAILABLE = (exc.OperationalError, exc.InterfaceError, exc.InternalError, exc.TimeoutError, OSError)


class Database:
    """The engine of one process. Every failure of the database itself comes out as `StoreUnavailable`."""

    def __init__(self, url: str, *, pool_size: int, clock: Clock) -> None:
        self.url = url
        self._clock = clock
        self._write_turn = asyncio.Lock()
        self.engine: AsyncEngine = create_async_engine(
            make_url(url),
            pool_size=pool_size,
            max_overflow=0,
            hide_parameters=True,
            connect_args={"timeout": BUSY_TIMEOUT.total_seconds()},
        )
        event.listen(self.engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(self.engine.sync_engine, "begin", _begin)

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection on which every statement sees what is committed when it runs."""
        with _translated():
            async with self.engine.connect() as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that is committed when the block ends without an error.

        SQLite lets one write at a time and makes the others poll, so those of this process queue here instead.
        """
        with _translated():
            async with self._write_turn, self.engine.connect() as connection:
                await connection.execution_options(broker_writes=True)
                async with connection.begin():
                    yield connection

    def now(self) -> ColumnElement[int]:
        """The present instant in microseconds, by the clock that decides leases: on one machine, its own."""
        return literal(to_micros(self._clock.now()))

    async def ping(self) -> None:
        """Ask for nothing.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        async with self.read() as connection:
            await connection.execute(text("SELECT 1"))

    async def close(self) -> None:
        await self.engine.dispose()


@contextlib.contextmanager
def _translated() -> Any:
    try:
        yield
    except _UNAVAILABLE:
        raise StoreUnavailable from None
    except exc.DatabaseError as failure:
        if type(failure) is not exc.DatabaseError:
            raise  # a mistake of ours
        raise StoreUnavailable from None  # the file is no database, or a damaged one


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Readers beside one writer (WAL), every commit on the disk before it counts, and no hidden BEGIN of the driver."""
    connection.isolation_level = None
    cursor = connection.cursor()
    _switch_to_wal(cursor)
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _switch_to_wal(cursor: Any) -> None:
    """Brokers that start at once on a new file meet here, and SQLite waits for every lock but this one."""
    for tries_left in reversed(range(BUSY_TIMEOUT // _WAL_PAUSE)):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            if not tries_left or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
        await_only(asyncio.sleep(_WAL_PAUSE.total_seconds()))


def _begin(connection: Connection) -> None:
    """A write takes the lock at once: a deferred one that read first would fail where it should wait."""
    if connection.get_execution_options().get("broker_writes"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
