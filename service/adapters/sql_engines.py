"""Engines: how connections to SQLite and PostgreSQL are made, and how their transactions begin."""

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import URL, Connection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

DEADLINE = timedelta(seconds=2)
"""How long one operation may keep PostgreSQL before it counts as hung, waiting for locks included."""

SQLITE_BUSY_TIMEOUT = timedelta(seconds=5)
_WAL_PAUSE = timedelta(milliseconds=20)


def sqlite_engine(url: URL, pool_size: int) -> AsyncEngine:
    """On a file that is its owner's alone; each commit is on the disk before it counts."""
    engine = create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        hide_parameters=True,
        connect_args={"timeout": SQLITE_BUSY_TIMEOUT.total_seconds()},
    )
    event.listen(engine.sync_engine, "do_connect", _make_private)
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def postgresql_engine(url: URL, pool_size: int) -> AsyncEngine:
    """READ COMMITTED by name; the server gives up as early as we do, and a vanished host is noticed."""
    deadline = int(DEADLINE.total_seconds() * 1000)
    options = (
        f"-c statement_timeout={deadline} -c lock_timeout={deadline // 2} -c idle_in_transaction_session_timeout=10000"
        r" -c default_transaction_isolation=read\ committed"
    )
    engine = create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=DEADLINE.total_seconds(),
        pool_recycle=1800,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
        connect_args={"connect_timeout": 2, "tcp_user_timeout": 10_000, "keepalives_idle": 30, "options": options},
    )
    event.listen(engine.sync_engine, "begin", _begin_postgresql)
    return engine


def _make_private(_dialect: object, _record: object, where: Sequence[Any], options: Mapping[str, Any]) -> None:
    """A new file is nobody else's to read, whatever the umask; SQLite gives those beside it the same mode.

    A file that is there is never opened here: closing it again would end all locks that this process has on it.
    """
    if not options.get("uri"):
        with contextlib.suppress(FileExistsError):
            os.close(os.open(where[0], os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o600))


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
    for tries_left in reversed(range(SQLITE_BUSY_TIMEOUT // _WAL_PAUSE)):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            if not tries_left or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
        await_only(asyncio.sleep(_WAL_PAUSE.total_seconds()))


def _begin_postgresql(connection: Connection) -> None:
    """By hand, not by switching autocommit off for a while: cancelled in between, a connection would stay switched.

    A single statement on it would later be believed committed, and be taken back.
    """
    if connection.get_execution_options().get("broker_writes"):
        connection.exec_driver_sql("BEGIN")


def _begin_sqlite(connection: Connection) -> None:
    """A write takes the lock at once: a deferred one that read first would fail where it should wait."""
    if connection.get_execution_options().get("broker_writes"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
