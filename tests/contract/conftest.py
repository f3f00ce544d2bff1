"""The ports' stores: the memory fakes, and SQL on every real database. A further database is one more of `REAL`."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from service.adapters.sql_audit import SqlAuditStore
from service.adapters.sql_authorizations import SqlAuthorizationStore
from service.adapters.sql_database import Database
from service.adapters.sql_directory import SqlDirectoryStore
from service.adapters.sql_grants import SqlGrantStore
from service.adapters.sql_renewal_queue import SqlRenewalQueue
from service.adapters.sql_sealed import SqlSealedRows
from service.core.access.directory_store import DirectoryStore
from service.core.audit_store import AuditStore
from service.core.ports import AuthorizationStore, GrantStore, RenewalQueue
from service.core.sealing.resealing import SealedRows
from tests.contract.databases import RealDatabase, migrated_file, postgres_tables, sqlite_copy
from tests.support.clock import FakeClock
from tests.support.memory_audit import MemoryAuditStore
from tests.support.memory_sealed import MemorySealedRows
from tests.support.memory_stores import (
    MemoryAuthorizationStore,
    MemoryDirectoryStore,
    MemoryGrantStore,
    MemoryRenewalQueue,
)
from tests.support.servers import Server, new_database

REAL = ("sqlite",)


@dataclass(frozen=True, slots=True)
class Stores:
    """All stores of one database, and the hook that makes its time pass."""

    grants: GrantStore
    queue: RenewalQueue
    authorizations: AuthorizationStore
    directory: DirectoryStore
    audit: AuditStore
    sealed: SealedRows
    clock: FakeClock
    _pass_time: Callable[[timedelta], Awaitable[None]]

    async def pass_time(self, duration: timedelta) -> None:
        await self._pass_time(duration)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return migrated_file(tmp_path_factory.mktemp("migrated"))


@pytest.fixture(params=REAL)
def real(request: pytest.FixtureRequest, clock: FakeClock, tmp_path: Path) -> RealDatabase:
    """A real database, one of each kind."""
    return real_database(request, clock, tmp_path)


@pytest.fixture
async def database(real: RealDatabase) -> AsyncIterator[Database]:
    async with real.opened() as opened:
        yield opened


@pytest.fixture(scope="session")
def postgres_url(postgres: Server) -> str:
    return new_database(postgres, "contract")


@pytest.fixture(params=["memory", *REAL, "postgresql"])
async def stores(request: pytest.FixtureRequest, clock: FakeClock, tmp_path: Path) -> AsyncIterator[Stores]:
    """The stores that must all behave alike."""
    if request.param == "memory":
        yield memory_stores(clock)
        return
    if request.param == "postgresql":
        async with postgres_tables(request.getfixturevalue("postgres_url"), clock) as database:
            yield sql_stores(database, RealDatabase("", "", clock))
        return
    real = real_database(request, clock, tmp_path)
    async with real.opened() as opened:
        yield sql_stores(opened, real)


def real_database(request: pytest.FixtureRequest, clock: FakeClock, tmp_path: Path) -> RealDatabase:
    """A new database of the kind that the fixture's parameter names."""
    match request.param:
        case "sqlite":
            return sqlite_copy(request.getfixturevalue("migrated"), tmp_path, clock)
        case unknown:
            raise LookupError(unknown)


def memory_stores(clock: FakeClock) -> Stores:
    async def pass_time(duration: timedelta) -> None:
        clock.advance(duration)

    grants, directory = MemoryGrantStore(clock), MemoryDirectoryStore()
    requests = MemoryAuthorizationStore(grants)
    sealed = MemorySealedRows(grants, requests, directory)
    audit = MemoryAuditStore()
    return Stores(grants, MemoryRenewalQueue(grants), requests, directory, audit, sealed, clock, pass_time)


def sql_stores(database: Database, real: RealDatabase) -> Stores:
    return Stores(
        SqlGrantStore(database),
        SqlRenewalQueue(database),
        SqlAuthorizationStore(database),
        SqlDirectoryStore(database),
        SqlAuditStore(database),
        SqlSealedRows(database),
        real.clock,
        real.pass_time,
    )
