"""What only PostgreSQL does: leases by its own clock, and claims by processes that wait for each other's locks."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from alembic import command
from sqlalchemy import make_url, text

from service.adapters.sql_audit import SqlAuditStore
from service.adapters.sql_census import SqlCensusStore
from service.adapters.sql_database import Database, Incomplete
from service.adapters.sql_directory import SqlDirectoryStore
from service.adapters.sql_grants import SqlGrantStore
from service.adapters.sql_health import DatabaseHealth
from service.adapters.sql_migrations import Schema, alembic_config, migrate, schema_of
from service.adapters.sql_renewal_queue import SqlRenewalQueue
from service.core.audit_store import Action, AuditEntry, AuditFilter
from service.core.clock import SystemClock
from service.core.condition.skew import ClockSkew
from service.core.errors import StoreUnavailable
from service.core.model import GrantId, GrantType
from service.core.records import Due, GrantFilter
from tests.contract.samples import ALICE, FINGERPRINT, LEASE, T0, TAKEOVER, connected, tokens
from tests.support.brokers import environment
from tests.support.clock import FakeClock
from tests.support.servers import Server, new_database

SLOW_TABLES = (
    "ALTER TABLE grants RENAME TO all_grants",
    "CREATE VIEW grants AS SELECT all_grants.* FROM all_grants, pg_sleep(60)",
    "ALTER TABLE audit RENAME TO all_audit",
    "CREATE VIEW audit AS SELECT all_audit.* FROM all_audit, pg_sleep(60)",
)


@pytest.fixture(scope="module")
def url(postgres: Server) -> str:
    return new_database(postgres, "leases")


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    found = Database(url, pool_size=10, clock=FakeClock())
    await migrate(found)
    yield found
    await found.close()


async def claim(grants: SqlGrantStore, grant: GrantId, name: str, lease: timedelta) -> bool:
    won = await grants.claim(grant, generation=0, attempt_id=name, fingerprint=b"f", lease=lease, takeover=timedelta(0))
    return won is not None


async def test_leases_run_by_the_clock_of_the_server_whatever_a_process_believes(database: Database) -> None:
    grants = SqlGrantStore(database)
    await grants.ensure(ALICE)
    before = SystemClock().now()
    assert await claim(grants, ALICE, "first", timedelta(hours=1))
    row = await grants.get(ALICE)
    assert row is not None
    assert row.claim is not None
    assert timedelta(0) <= row.claim.started_at - before < timedelta(minutes=1)
    assert row.claim.lease_until - row.claim.started_at >= timedelta(hours=1)


async def test_a_hundred_claims_at_once_are_won_once_each(url: str, database: Database) -> None:
    second = Database(url, pool_size=10, clock=SystemClock())
    contested = [GrantId("fleet", f"user{number}") for number in range(10)]
    stores = [SqlGrantStore(database), SqlGrantStore(second)]
    for grant in contested:
        await stores[0].ensure(grant)
    attempts = [
        claim(stores[number % 2], grant, f"{number}", timedelta(minutes=5))
        for grant in contested
        for number in range(10)
    ]
    assert sum(await asyncio.gather(*attempts)) == len(contested)
    await second.close()


async def test_a_write_is_seen_whole_or_not_at_all(url: str, database: Database) -> None:
    grants, grant = SqlGrantStore(database), GrantId("whole", "alice")
    await connected(grants, grant)
    other = Database(url, pool_size=1, clock=FakeClock())

    async def deleted_midway() -> None:
        async with database.write() as connection:
            await connection.execute(text("DELETE FROM grants WHERE application = 'whole'"))
            assert await SqlGrantStore(other).get(grant)
            raise RuntimeError("midway")

    for _ in range(2):  # on the same connection, which has written by single statements meanwhile
        with pytest.raises(RuntimeError, match="midway"):
            await deleted_midway()
        await grants.release(grant, attempt_id="nobody's")
    assert await SqlGrantStore(other).get(grant)
    await other.close()


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("steps", range(12))
async def test_a_write_cancelled_at_any_step_takes_nothing_back_that_is_committed_later(url: str, steps: int) -> None:
    one, other = (Database(url, pool_size=1, clock=FakeClock()) for _ in range(2))
    grants, grant = SqlGrantStore(one), GrantId("cancelled", f"user-{steps}")
    await grants.ensure(grant)
    await asyncio.sleep(0.01)  # longer than that, and the driver pauses in places where it otherwise does not
    writing = asyncio.create_task(SqlRenewalQueue(one).release_all("cancelled", attempt_id="nobody's"))
    for _ in range(steps):
        await asyncio.sleep(0)
    writing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await writing
    assert await claim(grants, grant, "mine", timedelta(hours=1))
    row = await SqlGrantStore(other).get(grant)
    assert row is not None
    assert row.claim is not None
    for database in (one, other):
        await database.close()


async def test_isolation_is_ours_whatever_the_server_takes_for_the_default(postgres: Server) -> None:
    url = new_database(postgres, "serializable")
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as owner:
        owner.execute(f"ALTER DATABASE {owner.info.dbname} SET default_transaction_isolation = serializable".encode())
    database = Database(url, pool_size=1, clock=FakeClock())
    for way in (database.read, database.write, database.write_once, database.scan):
        async with way() as connection:
            level = (await connection.execute(text("SHOW transaction_isolation"))).scalar_one()
            assert level == "read committed", way
    await database.close()


async def test_the_background_never_waits_for_a_grant_that_somebody_else_has_locked(database: Database) -> None:
    grants, queue = SqlGrantStore(database), SqlRenewalQueue(database)
    for user in ("alice", "bob"):
        await connected(grants, GrantId("locked", user))
    idle = Due(
        "locked", GrantType.AUTHORIZATION_CODE, FINGERPRINT, active_since=None, idle_since=T0, limit=9, per_second=9
    )
    lock = text("SELECT 1 FROM grants WHERE application = 'locked' AND \"user\" = 'alice' FOR UPDATE")
    async with database.write() as connection:
        await connection.execute(lock)
        claimed = await queue.claim_due(idle, attempt_id="mine", lease=LEASE, takeover=TAKEOVER)
    assert [grant.id.user for grant in claimed] == ["bob"]


async def test_an_unmigrated_database_is_no_current_schema_and_a_store_unavailable(postgres: Server) -> None:
    empty = Database(new_database(postgres, "unmigrated"), pool_size=2, clock=SystemClock())
    assert await schema_of(empty) is Schema.EARLIER
    with pytest.raises(StoreUnavailable):
        await SqlGrantStore(empty).get(ALICE)
    await empty.close()


LOST_COLUMN = "ALTER TABLE directory_version RENAME COLUMN version TO lost"


@pytest.mark.parametrize("lacking", ["DELETE FROM directory_version", "DROP TABLE directory_version", LOST_COLUMN])
async def test_a_database_that_is_just_being_restored_is_told_as_that_and_not_as_one_that_is_away(
    postgres: Server, lacking: str
) -> None:
    restored = Database(new_database(postgres, f"half_{lacking[:4]}_{len(lacking)}"), pool_size=2, clock=SystemClock())
    await migrate(restored)
    async with restored.write() as connection:
        await connection.execute(text(lacking))
    directory, health = SqlDirectoryStore(restored), DatabaseHealth(restored, ClockSkew(), SystemClock())
    for ask in (directory.version, directory.load):
        with pytest.raises(StoreUnavailable) as told:
            await ask()
        assert not told.value.asked
    assert not restored.is_bypassed
    assert "restored from a backup" in ((await health.database()).detail or "")
    await restored.close()


async def test_a_restore_that_has_not_reached_its_keys_yet_takes_no_grant_in_twice(postgres: Server) -> None:
    """They come last, and could not be made over two rows of one grant."""
    restored = Database(new_database(postgres, "keyless"), pool_size=6, clock=SystemClock())
    await migrate(restored)
    async with restored.write() as connection:
        await connection.execute(text("ALTER TABLE grants DROP CONSTRAINT grants_pkey"))
    grants = SqlGrantStore(restored)
    imports = (grants.import_(ALICE, tokens("a1", "r1"), at=T0) for _ in range(5))
    ends = await asyncio.gather(*imports, return_exceptions=True)
    assert [type(end) for end in ends] == [Incomplete] * 5
    assert await grants.get(ALICE) is None
    await restored.close()


async def test_what_the_databases_user_may_not_write_has_changed_nothing(postgres: Server) -> None:
    url = new_database(postgres, "forbidden")
    owners = Database(url, pool_size=2, clock=SystemClock())
    await migrate(owners)
    async with owners.write() as connection:
        for statement in ("CREATE ROLE reader LOGIN", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader"):
            await connection.execute(text(statement))
    readers = Database(
        make_url(url).set(username="reader").render_as_string(hide_password=False), pool_size=2, clock=SystemClock()
    )
    assert await SqlGrantStore(readers).get(ALICE) is None
    with pytest.raises(StoreUnavailable, match="own the database") as told:
        await claim(SqlGrantStore(readers), ALICE, "mine", LEASE)
    assert not told.value.asked
    await readers.close()
    await owners.close()


async def test_a_table_too_large_to_be_looked_through_takes_the_database_from_nobody(postgres: Server) -> None:
    """A listing that nobody waits for is the trouble of whoever asked for it: others get their tokens meanwhile."""
    slow = Database(new_database(postgres, "slow"), pool_size=3, clock=SystemClock())
    await migrate(slow)
    stores, audit, census = SqlGrantStore(slow), SqlAuditStore(slow), SqlCensusStore(slow)
    await connected(stores, ALICE)
    await audit.put([AuditEntry("1", T0, "crm", Action.TOKEN)])
    async with slow.write() as connection:
        for statement in SLOW_TABLES:
            await connection.execute(text(statement))
    for look in (
        lambda: stores.page(GrantFilter(), after=None, limit=1, now=T0),
        lambda: audit.page(AuditFilter(), after=None, limit=1),
        lambda: census.count(T0, []),
    ):
        with pytest.raises(StoreUnavailable):
            await look()
        assert not slow.is_bypassed
    await slow.close()


async def test_migrations_and_declared_tables_agree_in_postgresql_too(database: Database) -> None:
    async with database.write() as connection:
        await connection.run_sync(lambda sync: command.check(alembic_config(sync)))


async def test_migrations_go_down_and_up_again_in_postgresql_too(postgres: Server) -> None:
    moved = Database(new_database(postgres, "moved"), pool_size=2, clock=SystemClock())
    await migrate(moved)
    async with moved.write() as connection:
        await connection.run_sync(lambda sync: command.downgrade(alembic_config(sync), "base"))
    assert await schema_of(moved) is Schema.EARLIER
    await migrate(moved)
    assert await schema_of(moved) is Schema.FITS
    await moved.close()


async def test_a_migration_gives_way_before_brokers_that_wait_behind_it_give_up(postgres: Server) -> None:
    url = new_database(postgres, "dumped")
    database, dump = (Database(url, pool_size=3, clock=SystemClock()) for _ in range(2))
    await migrate(database)
    async with database.write() as connection:
        await connection.run_sync(lambda sync: command.downgrade(alembic_config(sync), "0001"))
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'")
    async with dump.write() as connection:
        await connection.execute(text("SELECT count(*) FROM grants"))
        migration = asyncio.create_task(migrate(database))
        while not (await connection.execute(waiting)).scalar_one() and not migration.done():  # noqa: ASYNC110 - locks
            await asyncio.sleep(0.01)
        async with database.read() as broker:
            await broker.execute(text("SELECT count(*) FROM grants"))
        with pytest.raises(StoreUnavailable, match="try again"):
            await migration
    await migrate(database)
    assert await schema_of(database) is Schema.FITS
    await database.close()
    await dump.close()


async def test_migrations_started_at_once_do_the_work_only_once(postgres: Server, tmp_path: Path) -> None:
    url = new_database(postgres, "contended")
    variables = environment(tmp_path, "http://127.0.0.1:1", BROKER_DATABASE_URL=url)
    migrations = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "service",
            "migrate",
            env={**os.environ, **variables},
            stderr=asyncio.subprocess.PIPE,
        )
        for _ in range(3)
    ]
    told = [(await migration.communicate())[1].decode() for migration in migrations]
    assert told == 3 * ["The schema is up to date.\n"]
    assert [migration.returncode for migration in migrations] == [0, 0, 0]
    database = Database(url, pool_size=1, clock=SystemClock())
    assert await schema_of(database) is Schema.FITS
    await database.close()
