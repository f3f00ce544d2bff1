"""One pool of database connections: reads, writes that are transactions, and a short patience with both."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from datetime import datetime, timedelta
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Table,
    bindparam,
    cast,
    exc,
    extract,
    func,
    make_url,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.adapters.sql_engines import DEADLINE, postgresql_engine, sqlite_engine
from service.adapters.tables import from_micros, to_micros
from service.core.clock import Clock
from service.core.condition.bypass import Bypass
from service.core.errors import StoreUnavailable

SCAN_DEADLINE = DEADLINE / 2
"""Less than that of all else: a table too large to be looked through must not pass for a database that hangs."""

_UNAVAILABLE = (exc.OperationalError, exc.InterfaceError, exc.InternalError, exc.TimeoutError, OSError)
_FOREIGN_SCHEMA = frozenset({"42P01", "42703", "42P10"})  # undefined table, column, and constraint to conflict with
_FORBIDDEN = "42501"  # insufficient privilege

_BUSY = frozenset({"55P03", "57014", "40P01", "40001"})  # lock or statement timeout, deadlock, serialization failure


class Busy(StoreUnavailable):
    """One statement met another's lock; the database itself is well."""


class Incomplete(StoreUnavailable):
    """The database answers, but lacks what every migrated one has: it is another one, or is just being restored."""

    def __init__(self) -> None:
        detail = "The database lacks what every migrated one has: it is another one, or is just being restored."
        super().__init__(detail, asked=False)


class Forbidden(StoreUnavailable):
    """The database answers, but its user may not do what we do there."""

    def __init__(self) -> None:
        detail = "The database's user has to own the database and its tables, after a restore too."
        super().__init__(detail, asked=False)


T = TypeVar("T")
P = ParamSpec("P")


class Database:
    """The engine of one process. Every failure of the database itself comes out as `StoreUnavailable`."""

    def __init__(self, url: str, *, pool_size: int, clock: Clock) -> None:
        parsed = make_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self._clock, self._bypass = clock, Bypass(clock, self._answers)
        self._write_turn = asyncio.Lock()
        self._slots = asyncio.Semaphore(pool_size)
        self._abandoned: set[asyncio.Task[Any]] = set()
        self.engine: AsyncEngine = (sqlite_engine if self.is_sqlite else postgresql_engine)(parsed, pool_size)

    @property
    def is_bypassed(self) -> bool:
        """Whether it failed and is left alone, but for a probe."""
        return self._bypass.is_down

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection on which every statement sees what is committed when it runs."""
        with _translated():
            async with self.engine.connect() as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def scan(self) -> AsyncIterator[AsyncConnection]:
        """As `read`, for a query that may look through a whole table: if that takes too long, it alone is given up."""
        if self.is_sqlite:
            async with self.read() as connection:
                yield connection
            return
        async with self.write() as connection:  # a transaction, for the setting's sake
            milliseconds = SCAN_DEADLINE // timedelta(milliseconds=1)
            await connection.exec_driver_sql(f"SET LOCAL statement_timeout = {milliseconds}")
            yield connection

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that is committed when the block ends without an error.

        SQLite lets one write at a time and makes the others poll, so those of this process queue here instead.
        """
        turn = self._write_turn if self.is_sqlite else contextlib.nullcontext()
        with _translated():
            async with turn, self.engine.connect() as connection:
                await connection.execution_options(broker_writes=True)
                async with connection.begin():
                    yield connection

    @contextlib.asynccontextmanager
    async def write_once(self) -> AsyncIterator[AsyncConnection]:
        """For one statement that may come late: PostgreSQL commits it by itself, which spares two round trips of three.

        Nothing that happens after it undoes it, and one that a hung server was sent counts when the server goes on.
        """
        async with self.write() if self.is_sqlite else self.read() as connection:
            yield connection

    async def guard(self, operation: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do *operation* within the deadline; a database that broke it is left alone until a probe succeeds.

        Waiting for one of our own connections does not count. A hung server also hangs the driver's own cancelling,
        so an operation that is too slow is left behind and not waited for. SQLite is a file: its own busy timeout
        bounds it.

        Raises:
            StoreUnavailable: at once while the database is left alone.
        """
        if self.is_sqlite:
            return await operation()
        async with self._slots:
            if self._bypass.is_down:
                raise StoreUnavailable(asked=False)
            return await self._within_deadline(operation)

    async def _within_deadline(self, operation: Callable[[], Coroutine[Any, Any, T]]) -> T:
        task = asyncio.create_task(operation())
        try:
            done, _ = await asyncio.wait({task}, timeout=DEADLINE.total_seconds())
        except asyncio.CancelledError:
            self._abandon(task)
            raise
        if not done:
            self._abandon(task)
            self._bypass.failed()
            raise StoreUnavailable
        try:
            return task.result()
        except (Busy, Incomplete):
            raise
        except StoreUnavailable:
            self._bypass.failed()
            raise

    async def _answers(self) -> bool:
        try:
            await self._within_deadline(self.ask_clock)
        except StoreUnavailable:
            return False
        return True

    def _abandon(self, task: asyncio.Task[Any]) -> None:
        task.cancel()
        self._abandoned.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._abandoned.discard(task)
        if not task.cancelled():
            task.exception()  # marks it as seen: nobody waits for it any more

    def now(self) -> ColumnElement[int]:
        """The present instant in microseconds, by the clock that decides leases.

        PostgreSQL's own, and the moving one: `now()` would be the statement's start even after it waited for a lock.
        SQLite is one machine, whose clock is this process's.
        """
        if self.is_sqlite:
            return read_when_run(self._clock)
        return cast(extract("epoch", func.clock_timestamp()) * 1_000_000, BigInteger)

    def insert(self, table: Table) -> Any:
        """An INSERT of this database's dialect, for `ON CONFLICT`."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    async def ask_clock(self) -> datetime:
        """The instant that the database has; asked even while the database is left alone.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        async with self.read() as connection:
            return from_micros(int((await connection.execute(select(self.now()))).scalar_one()))

    async def close(self) -> None:
        await self._bypass.close()
        await self.engine.dispose()


def read_when_run(clock: Clock) -> ColumnElement[int]:
    """What *clock* says at the moment at which a statement is run, however long ago it was built."""
    return bindparam("now", callable_=lambda: to_micros(clock.now()), type_=BigInteger, unique=True)


class UsesDatabase(Protocol):
    """A store over one database."""

    _database: Database


S = TypeVar("S", bound=UsesDatabase)


def guarded(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Let a store's method run under `Database.guard`."""

    @functools.wraps(method)
    async def call(store: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await store._database.guard(lambda: method(store, *args, **kwargs))

    return call


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except _UNAVAILABLE as failure:
        busy = getattr(getattr(failure, "orig", None), "sqlstate", None) in _BUSY
        raise (Busy if busy else StoreUnavailable) from None
    except exc.DBAPIError as failure:
        sqlstate = getattr(failure.orig, "sqlstate", None)
        if sqlstate == _FORBIDDEN:
            raise Forbidden from None
        if sqlstate in _FOREIGN_SCHEMA:
            raise Incomplete from None
        damaged_file = type(failure) is exc.DatabaseError
        if failure.connection_invalidated or damaged_file:
            raise StoreUnavailable from None
        raise
