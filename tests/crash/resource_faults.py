"""Servers taken away, and given back after a while."""

import asyncio
import contextlib
from collections.abc import Callable

import psycopg
from psycopg import sql
from redis import Redis

from service.core.redeeming.steps import Step
from tests.crash import matrix
from tests.crash.stage import Stage
from tests.support.servers import Server

Undo = Callable[[], None]

MISSING_SECONDS = 0.8
HUNG_SECONDS = 2.4
"""Longer than any operation of the database may take."""


class Fault:
    """Something that begins at a moment of a broker's work and is over after a while, or when it is told so."""

    def __init__(self, stage: Stage, kind: str) -> None:
        self._stage, self._kind = stage, kind
        self._undo: Undo | None = None
        self._begun = asyncio.Event()

    def begin(self) -> None:
        """At once, in the midst of the broker's own work."""
        if self._undo is None:
            self._undo = _BEGIN[self._kind](self._stage)
            self._begun.set()

    async def end(self) -> None:
        """Once it has lasted."""
        await asyncio.wait_for(self._begun.wait(), 10)
        await asyncio.sleep(
            HUNG_SECONDS if self._kind in {matrix.DATABASE_HUNG, matrix.REDIS_HUNG} else MISSING_SECONDS
        )
        assert self._undo is not None
        await asyncio.to_thread(self._undo)


class Witness:
    """Tells of each step whoever wants to know, once."""

    def __init__(self) -> None:
        self._deeds: dict[str, Callable[[], None]] = {}

    def at(self, step: str, deed: Callable[[], None]) -> None:
        self._deeds[step] = deed

    def __call__(self, step: Step) -> None:
        if (deed := self._deeds.pop(step, None)) is not None:
            deed()


def _killed(server: Server) -> Undo:
    server.kill()
    return server.start


def _hung(server: Server) -> Undo:
    server.pause()
    return server.go_on


def _read_only(stage: Stage) -> Undo:
    def switch(position: sql.Composable) -> None:
        database = sql.Identifier(stage.database)
        with psycopg.connect(_owner_url(stage), autocommit=True) as connection:
            connection.execute(sql.SQL("ALTER DATABASE {} {}").format(database, position))
            _disconnect(connection)

    switch(sql.SQL("SET default_transaction_read_only = on"))
    return lambda: switch(sql.SQL("RESET default_transaction_read_only"))


def _without_connections(stage: Stage) -> Undo:
    taken = [psycopg.connect(_owner_url(stage), autocommit=True)]
    _disconnect(taken[0])
    with contextlib.suppress(psycopg.OperationalError):
        while True:
            taken.append(psycopg.connect(_owner_url(stage)))

    def undo() -> None:
        for connection in taken:
            connection.close()

    return undo


def _full(server: Server) -> Undo:
    def set_to(maxmemory: str) -> None:
        with Redis.from_url(server.url) as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", maxmemory)

    set_to("1")
    return lambda: set_to("0")


def _disconnect(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")


def _owner_url(stage: Stage) -> str:
    return stage.postgres.url.replace("+psycopg", "")


_BEGIN: dict[str, Callable[[Stage], Undo]] = {
    matrix.DATABASE_KILLED: lambda stage: _killed(stage.postgres),
    matrix.DATABASE_HUNG: lambda stage: _hung(stage.postgres),
    matrix.DATABASE_READ_ONLY: _read_only,
    matrix.DATABASE_FULL: _without_connections,
    matrix.REDIS_KILLED: lambda stage: _killed(stage.redis),
    matrix.REDIS_HUNG: lambda stage: _hung(stage.redis),
    matrix.REDIS_FULL: lambda stage: _full(stage.redis),
}
