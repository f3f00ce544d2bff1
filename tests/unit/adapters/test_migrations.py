from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlmodel import SQLModel

from service.adapters.sql_audit import SqlAuditStore
from service.adapters.sql_authorizations import SqlAuthorizationStore
from service.adapters.sql_database import Database
from service.adapters.sql_directory import SqlDirectoryStore
from service.adapters.sql_grants import SqlGrantStore
from service.adapters.sql_health import DatabaseHealth
from service.adapters.sql_migrations import Schema, alembic_config, migrate, schema_of
from service.adapters.sql_renewal_queue import SqlRenewalQueue
from service.core.audit_store import Action, AuditEntry, AuditFilter
from service.core.condition.health import Readiness
from service.core.condition.skew import ClockSkew
from service.core.errors import StoreUnavailable
from service.core.model import GrantId, GrantType
from service.core.records import Due
from tests.contract.databases import opened, out_of_reach, sqlite_url
from tests.contract.samples import ALICE, FINGERPRINT, T0, application, caller, key, request, tokens
from tests.support.clock import FakeClock

IDLE = Due(
    "versature", GrantType.AUTHORIZATION_CODE, FINGERPRINT, active_since=None, idle_since=T0, limit=1, per_second=1
)
AUDITED = AuditEntry("an event", T0, "crm", Action.REVOKED, "versature", "alice", None, "pending", "a request")
EARLIER = [script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()][1:]
"""Every schema before the newest, latest first."""


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with opened(sqlite_url(tmp_path / "broker.db"), FakeClock()) as database:
        yield database


async def move(database: Database, direction: Callable[..., None], revision: str) -> None:
    def run(connection: Connection) -> None:
        direction(alembic_config(connection), revision)

    async with database.write() as connection:
        await connection.run_sync(run)


async def fill(database: Database) -> None:
    """At least one row in every table, as this version writes them."""
    grants, requests, directory = SqlGrantStore(database), SqlAuthorizationStore(database), SqlDirectoryStore(database)
    await grants.connect(ALICE, tokens("a1", "r1", at=T0 - timedelta(hours=2)), at=T0, attempt_id="login")
    await requests.add(request())
    await requests.start(b"ticket", state_digest=b"state", cookie_digest=b"cookie", sealed_verifier=b"v", at=T0)
    await directory.add_application(application("acme"))
    await directory.set_default(GrantType.AUTHORIZATION_CODE, "acme")
    await directory.add_caller(caller("crm"), key("k1", "crm"))
    await SqlRenewalQueue(database).claim_due(IDLE, attempt_id="mine", lease=timedelta(0), takeover=timedelta(0))
    await grants.release(ALICE, attempt_id="mine")
    await SqlAuditStore(database).put([AUDITED])


async def contents(database: Database) -> tuple[object, ...]:
    return (
        await SqlGrantStore(database).get(ALICE),
        await SqlAuthorizationStore(database).find(b"ticket"),
        await SqlDirectoryStore(database).load(),
    )


async def counts(database: Database) -> dict[str, int]:
    async with database.read() as connection:
        names = await connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'"))
        tables = [name for (name,) in names if name != "alembic_version"]
        return {
            name: (await connection.execute(text(f'SELECT count(*) FROM "{name}"'))).scalar_one()  # noqa: S608 - ours
            for name in tables
        }


async def test_every_table_is_filled_here(database: Database) -> None:
    await migrate(database)
    await fill(database)
    assert min((await counts(database)).values()) >= 1


async def test_migrating_again_changes_nothing(database: Database) -> None:
    await migrate(database)
    await fill(database)
    before = await contents(database)
    await migrate(database)
    assert await contents(database) == before
    assert await SqlAuditStore(database).page(AuditFilter(), after=None, limit=10) == [AUDITED]


async def test_full_tables_go_down_step_by_step_and_come_up_again_usable(database: Database) -> None:
    await migrate(database)
    await fill(database)
    filled = await contents(database)
    for revision in EARLIER:
        await move(database, command.downgrade, revision)
        assert min((await counts(database)).values()) >= 1
        await migrate(database)
        assert await contents(database) == filled
    await move(database, command.downgrade, "base")
    assert await counts(database) == {}
    await migrate(database)
    emptied = await counts(database)
    assert {name for name, rows in emptied.items() if rows} == {"directory_version"}
    await fill(database)
    assert await contents(database) == filled


async def test_rows_of_the_version_before_are_taken_over_and_still_made_beside_this_one(database: Database) -> None:
    await migrate(database)
    await move(database, command.downgrade, "0001")
    old = text(
        "INSERT INTO grants (application, user, state, generation, fingerprint, refresh_sealed, spent_digests, "
        "imported_digests, failures, due_at, renewed_at) "
        "VALUES ('versature', :user, 'connected', 1, :f, 'r', '', '', 0, 1, 1)"
    )
    async with database.write() as connection:
        await connection.execute(old, {"user": "before", "f": FINGERPRINT})
    await migrate(database)
    async with database.write() as connection:
        await connection.execute(old, {"user": "beside", "f": FINGERPRINT})
    for user in ("before", "beside"):
        grant = await SqlGrantStore(database).get(GrantId("versature", user))
        assert grant is not None
        assert (grant.refusals, grant.refused_since) == (0, None)
    queue = SqlRenewalQueue(database)
    active = replace(IDLE, active_since=T0, idle_since=T0 - timedelta(days=30_000))
    assert not await queue.claim_due(active, attempt_id="a", lease=timedelta(0), takeover=timedelta(0))
    await queue.note_asked([GrantId("versature", "before")], at=T0)
    (claimed,) = await queue.claim_due(active, attempt_id="a", lease=timedelta(0), takeover=timedelta(0))
    assert claimed.id.user == "before"


async def test_a_migration_that_fails_midway_leaves_nothing(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(text("CREATE TABLE directory_version (in_the_way TEXT)"))
    with pytest.raises(StoreUnavailable):
        await migrate(database)
    assert await counts(database) == {"directory_version": 0}


async def test_a_migrated_schema_fits(database: Database) -> None:
    await migrate(database)
    assert await schema_of(database) is Schema.FITS


async def test_a_new_file_has_an_earlier_schema(database: Database) -> None:
    assert await schema_of(database) is Schema.EARLIER


@pytest.mark.parametrize("revision", [*EARLIER, "base"])
async def test_an_earlier_schema_does_not_fit(database: Database, revision: str) -> None:
    await migrate(database)
    await move(database, command.downgrade, revision)
    assert await schema_of(database) is Schema.EARLIER


async def test_a_later_versions_schema_fits_and_is_left_alone(database: Database) -> None:
    await migrate(database)
    await fill(database)
    await call_the_schema(database, "9999")
    before = await contents(database)
    assert await schema_of(database) is Schema.FITS
    await migrate(database)
    assert await contents(database) == before
    async with database.read() as connection:
        assert (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar_one() == "9999"


@pytest.mark.parametrize("revisions", ["from the future", "10000", "a999", "0000", "0001 0002", "0005 9999"])
async def test_a_schema_of_no_version_of_ours_is_told_and_left_alone(database: Database, revisions: str) -> None:
    await migrate(database)
    await call_the_schema(database, *([revisions] if "future" in revisions else revisions.split()))
    assert await schema_of(database) is Schema.FOREIGN
    part = await DatabaseHealth(database, ClockSkew(), FakeClock()).database()
    assert part.readiness is Readiness.NOT_READY
    assert "BROKER_DATABASE_URL" in (part.detail or "")
    with pytest.raises(StoreUnavailable, match="BROKER_DATABASE_URL"):
        await migrate(database)


@pytest.mark.parametrize("table", sorted(set(SQLModel.metadata.tables)))
async def test_a_database_that_lost_any_table_is_not_ready(database: Database, table: str) -> None:
    await migrate(database)
    async with database.write() as connection:
        await connection.execute(text(f"DROP TABLE {table}"))
    assert await schema_of(database) is Schema.FOREIGN


@pytest.mark.parametrize(("table", "schema"), [("audit", Schema.FITS), ("grants", Schema.FOREIGN)])
async def test_a_later_version_may_have_dropped_what_nobody_needs_and_never_the_grants(
    database: Database, table: str, schema: Schema
) -> None:
    await migrate(database)
    async with database.write() as connection:
        for statement in ("UPDATE alembic_version SET version_num = '9999'", f"DROP TABLE {table}"):
            await connection.execute(text(statement))
    assert await schema_of(database) is schema


@pytest.mark.parametrize("revision", [*EARLIER, "head"])
@pytest.mark.parametrize(
    "lacking",
    [
        "DELETE FROM alembic_version",
        "DELETE FROM directory_version",
        "DROP TABLE directory_version",
        "DROP TABLE grants",
    ],
)
async def test_a_database_of_which_only_a_part_is_restored_is_not_ready_and_left_alone(
    database: Database, lacking: str, revision: str
) -> None:
    await move(database, command.upgrade, revision)
    async with database.write() as connection:
        await connection.execute(text(lacking))
    part = await DatabaseHealth(database, ClockSkew(), FakeClock()).database()
    assert part.readiness is Readiness.NOT_READY
    assert "restored from a backup" in (part.detail or "")
    with pytest.raises(StoreUnavailable, match="restored from a backup"):
        await migrate(database)


async def test_a_directory_that_is_only_being_restored_is_unavailable_and_not_empty(database: Database) -> None:
    await migrate(database)
    async with database.write() as connection:
        await connection.execute(text("DELETE FROM directory_version"))
    for ask in (SqlDirectoryStore(database).version, SqlDirectoryStore(database).load):
        with pytest.raises(StoreUnavailable, match="just being restored"):
            await ask()


async def test_readiness_tells_to_migrate_where_that_helps(database: Database) -> None:
    health = DatabaseHealth(database, ClockSkew(), FakeClock())
    assert "token-broker migrate" in ((await health.database()).detail or "")
    await migrate(database)
    assert (await health.database()).readiness is Readiness.READY


async def call_the_schema(database: Database, *revisions: str) -> None:
    async with database.write() as connection:
        await connection.execute(text("DELETE FROM alembic_version"))
        for revision in revisions:
            await connection.execute(text("INSERT INTO alembic_version VALUES (:revision)"), {"revision": revision})


Ask = Callable[[Database], Awaitable[object]]


@pytest.mark.parametrize("ask", [migrate, schema_of])
async def test_a_database_that_is_away_is_a_store_unavailable(tmp_path: Path, ask: Ask) -> None:
    async with out_of_reach(sqlite_url(tmp_path / "missing" / "broker.db"), FakeClock()) as away:
        with pytest.raises(StoreUnavailable):
            await ask(away)


@pytest.mark.parametrize("ask", [migrate, schema_of])
async def test_a_file_that_is_no_database_is_a_store_unavailable(tmp_path: Path, ask: Ask) -> None:
    (tmp_path / "broker.db").write_bytes(b"no database at all " * 1000)
    async with opened(sqlite_url(tmp_path / "broker.db"), FakeClock()) as corrupt:
        with pytest.raises(StoreUnavailable):
            await ask(corrupt)
