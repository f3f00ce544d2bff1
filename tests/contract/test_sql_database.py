"""What the SQL stores promise beyond their ports: many processes at once, locks, and a database that is away."""

import asyncio
import contextlib
import json
import os
import sqlite3
import stat
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from sqlalchemy import delete, event, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from service.adapters.sql_authorizations import SqlAuthorizationStore
from service.adapters.sql_database import Database
from service.adapters.sql_directory import SqlDirectoryStore
from service.adapters.sql_grants import SqlGrantStore
from service.adapters.sql_migrations import Schema, migrate, schema_of
from service.adapters.sql_sealed import SqlSealedRows
from service.adapters.tables import directory_version, to_micros
from service.core.audit_store import Action, AuditEntry, AuditFilter
from service.core.errors import StoreUnavailable
from service.core.model import GrantType, Reason, UpstreamRevocation
from service.core.records import Due, GrantFilter, Setback
from service.core.sealing.resealing import Kind, Resealed
from tests.contract.claimant import contested
from tests.contract.conftest import Stores, sql_stores
from tests.contract.databases import RealDatabase, opened, out_of_reach, sqlite_url
from tests.contract.samples import (
    ALICE,
    HOUR,
    SECOND,
    T0,
    application,
    caller,
    claim,
    connected,
    digest,
    key,
    request,
    stored,
    tokens,
)
from tests.house.tree import ROOT
from tests.support.clock import FakeClock

SECRET = "known-only-here"
RESEALED = Resealed(("acme",), b"old", b"new")


@pytest.fixture
async def two(real: RealDatabase) -> AsyncIterator[tuple[Stores, Stores]]:
    """The stores of two processes on one database."""
    async with real.opened() as one, real.opened() as other:
        yield sql_stores(one, real), sql_stores(other, real)


# Many at once


async def test_fifty_claims_through_two_pools_are_one(two: tuple[Stores, Stores]) -> None:
    await connected(two[0].grants)
    claims = await asyncio.gather(*(claim(two[i % 2].grants, f"attempt {i}") for i in range(50)))
    won = [grant for grant in claims if grant is not None]
    assert len(won) == 1
    assert await stored(two[0].grants) == await stored(two[1].grants) == won[0]


async def test_what_one_process_has_committed_the_other_sees(two: tuple[Stores, Stores]) -> None:
    here, there = two
    grant = await connected(here.grants)
    assert await stored(there.grants) == grant
    await here.directory.add_caller(caller("crm"), key("k1", "crm"))
    assert (await there.directory.load()).callers == (caller("crm"),)
    assert await there.directory.version() == await here.directory.version()


async def test_a_state_is_taken_once_in_two_processes(two: tuple[Stores, Stores]) -> None:
    await two[0].authorizations.add(request())
    await two[0].authorizations.start(b"ticket", state_digest=b"state", cookie_digest=b"c", sealed_verifier=None, at=T0)
    taken = await asyncio.gather(*(two[i % 2].authorizations.take(b"state") for i in range(20)))
    assert sum(one is not None for one in taken) == 1


async def test_connects_of_two_processes_lose_no_generation(two: tuple[Stores, Stores]) -> None:
    answers = [tokens(f"a{i}", f"r{i}") for i in range(20)]
    done = await asyncio.gather(
        *(two[i % 2].grants.connect(ALICE, one, at=T0, attempt_id=f"login {i}") for i, one in enumerate(answers))
    )
    assert sorted(grant.generation for grant in done if grant) == list(range(1, 21))


async def test_applications_added_by_two_processes_all_find_their_place(two: tuple[Stores, Stores]) -> None:
    done = await asyncio.gather(*(two[i % 2].directory.add_application(application(f"app{i}")) for i in range(20)))
    assert all(done)
    assert len((await two[0].directory.load()).applications) == 20


async def test_every_change_of_two_processes_moves_the_version(two: tuple[Stores, Stores]) -> None:
    """By one, where the clock stands still."""
    await two[0].directory.set_default(GrantType.CLIENT_CREDENTIALS, "first")
    before = await two[0].directory.version()
    defaults = list(GrantType) * 10
    await asyncio.gather(*(two[i % 2].directory.set_default(kind, f"a{i}") for i, kind in enumerate(defaults)))
    assert await two[1].directory.version() == before + 20


@pytest.mark.parametrize("directory", ["callers", "client secrets"])
async def test_a_version_that_a_restored_backup_undid_never_comes_again(
    real: RealDatabase, database: Database, directory: str
) -> None:
    """Whoever knew the directory under it would take what it was then for what it is."""
    stores = SqlDirectoryStore(database)

    async def change(number: int) -> None:
        if directory == "callers":
            await stores.add_caller(caller(f"c{number}"), key(f"k{number}", f"c{number}"))
        else:
            await SqlSealedRows(database).replace(Kind.CLIENT_SECRET, [RESEALED])

    await change(0)
    backup = await stores.version()
    lost = []
    for number in (1, 2, 3):
        await change(number)
        lost.append(await stores.version())
    async with database.write() as connection:
        await connection.execute(update(directory_version).values(version=backup))
    for number in (4, 5, 6):
        await real.pass_time(SECOND)
        await change(number)
        assert await stores.version() not in {backup, *lost}


async def test_a_change_that_nobody_would_hear_of_is_refused_and_leaves_nothing(database: Database) -> None:
    directory = SqlDirectoryStore(database)
    await directory.add_caller(caller("crm"), key("k1", "crm"))
    async with database.write() as connection:
        await connection.execute(delete(directory_version))
    changes: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: directory.add_caller(caller("other"), key("k2", "other")),
        lambda: directory.remove_caller("crm"),
        lambda: directory.replace_keys("crm", key("k3", "crm")),
        lambda: SqlSealedRows(database).replace(Kind.CLIENT_SECRET, [RESEALED]),
    )
    for change in changes:
        with pytest.raises(StoreUnavailable, match="just being restored"):
            await change()
    async with database.write() as connection:
        await connection.execute(insert(directory_version).values(id=1, version=1))
    assert [one.name for one in (await directory.load()).callers] == ["crm"]
    assert [one.digest for one in (await directory.load()).keys] == [key("k1", "crm").digest]


async def test_processes_that_claim_the_same_grants_get_each_exactly_once(
    real: RealDatabase, database: Database
) -> None:
    grants, wanted = SqlGrantStore(database), contested(20)
    for grant in wanted:
        await connected(grants, grant)
    async with AsyncExitStack() as running:
        processes = [await running.enter_async_context(claimant(name, real.url)) for name in ("one", "two")]
        for process in processes:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
        outputs = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    won = [user for output, _ in outputs for user in json.loads(output)]
    assert sorted(won) == [grant.user for grant in wanted]
    assert [process.returncode for process in processes] == [0, 0]
    for grant in wanted:
        assert (await stored(grants, grant)).claim is not None


@contextlib.asynccontextmanager
async def claimant(name: str, url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.contract.claimant", name, url, "20"),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_more_readers_than_connections_wait_for_their_turn(real: RealDatabase) -> None:
    async with real.opened(pool_size=1) as database:
        grants = SqlGrantStore(database)
        grant = await connected(grants)
        assert await asyncio.gather(*(grants.get(ALICE) for _ in range(30))) == [grant] * 30


async def test_a_read_sees_what_is_committed_while_it_runs(real: RealDatabase, database: Database) -> None:
    async with real.opened() as other, database.read() as connection:
        counted = text("SELECT count(*) FROM grants")
        assert (await connection.execute(counted)).scalar_one() == 0
        await connected(SqlGrantStore(other))
        assert (await connection.execute(counted)).scalar_one() == 1


async def test_nobody_sees_a_write_before_it_is_committed(real: RealDatabase, database: Database) -> None:
    async with real.opened() as other:
        await SqlDirectoryStore(database).set_default(GrantType.CLIENT_CREDENTIALS, "before")
        async with database.write() as connection:
            await connection.execute(text("UPDATE default_applications SET application = 'after'"))
            rows = await SqlDirectoryStore(other).load()
        assert rows.defaults == {GrantType.CLIENT_CREDENTIALS: "before"}
        assert (await SqlDirectoryStore(other).load()).defaults == {GrantType.CLIENT_CREDENTIALS: "after"}


async def test_a_write_that_fails_midway_leaves_nothing(database: Database) -> None:
    grants = SqlGrantStore(database)
    await connected(grants)
    with pytest.raises(RuntimeError, match="midway"):
        await fail_midway(database)
    assert await grants.get(ALICE)
    assert await claim(grants, "afterwards")


async def fail_midway(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(text("DELETE FROM grants"))
        raise RuntimeError("midway")


@pytest.mark.parametrize("steps", range(12))
async def test_a_write_cancelled_at_any_step_blocks_nobody(real: RealDatabase, database: Database, steps: int) -> None:
    grants = SqlGrantStore(database)
    await connected(grants)
    cancelled = asyncio.create_task(grants.release(ALICE, attempt_id="nobody's"))
    for _ in range(steps):
        await asyncio.sleep(0)
    cancelled.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await cancelled
    async with real.opened() as other:
        assert await claim(SqlGrantStore(other), "elsewhere")
    await grants.release(ALICE, attempt_id="elsewhere")
    assert await claim(grants, "here")


async def test_cancelled_callers_give_their_connections_back(real: RealDatabase) -> None:
    async with real.opened(pool_size=2) as database:
        grants = SqlGrantStore(database)
        await connected(grants)
        callers = [asyncio.create_task(grants.get(ALICE)) for _ in range(10)]
        callers += [asyncio.create_task(claim(grants, f"attempt {i}", generation=9)) for i in range(10)]
        await asyncio.sleep(0.002)
        for one in callers:
            one.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        assert all(await asyncio.gather(*(grants.get(ALICE) for _ in range(10))))
        assert await claim(grants, "afterwards")


# The lock of another process


HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
connection.execute("COMMIT")
"""


@contextlib.asynccontextmanager
async def held_elsewhere(file: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process holds the write lock of *file* until it is sent a line."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOLDER, file), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"held\n"
        yield process
    finally:
        await process.communicate(b"let go\n")


@pytest.fixture
def file(migrated: Path, tmp_path: Path) -> Path:
    """A SQLite database, for what only SQLite does."""
    copy = tmp_path / "only.db"
    copy.write_bytes(migrated.read_bytes())
    return copy


@pytest.fixture
async def sqlite(file: Path, clock: FakeClock) -> AsyncIterator[Database]:
    async with opened(sqlite_url(file), clock) as database:
        yield database


def sqlite_stores(database: Database, clock: FakeClock) -> Stores:
    return sql_stores(database, RealDatabase("", "", clock))


async def test_a_write_waits_while_another_process_holds_the_lock(sqlite: Database, file: Path) -> None:
    grants = SqlGrantStore(sqlite)
    grant = await connected(grants)
    async with held_elsewhere(file) as holder:
        writes = asyncio.gather(claim(grants, "mine"), grants.ensure(ALICE), grants.revive(ALICE))
        await asyncio.wait({writes}, timeout=0.1)
        assert not writes.done()
        assert await stored(grants) == grant  # reads go on
        await holder.communicate(b"let go\n")
        claimed, _, _ = await writes
    assert claimed is not None


async def test_a_new_file_that_another_process_is_just_writing_is_waited_for(sqlite: Database, file: Path) -> None:
    async with held_elsewhere(file) as holder:  # not yet in WAL mode: SQLite itself would not wait for the switch
        first = asyncio.create_task(connected(SqlGrantStore(sqlite)))
        await asyncio.wait({first}, timeout=0.1)
        assert not first.done()
        await holder.communicate(b"let go\n")
        assert (await first).generation == 1


async def test_a_lock_that_is_never_let_go_is_a_store_unavailable(sqlite: Database, file: Path) -> None:
    at_connect(sqlite, "PRAGMA busy_timeout=20")
    grants = SqlGrantStore(sqlite)
    grant = await connected(grants)
    async with held_elsewhere(file):
        with pytest.raises(StoreUnavailable):
            await claim(grants, "mine")
        assert await stored(grants) == grant
    assert await claim(grants, "mine")


def at_connect(database: Database, statement: str) -> None:
    """Run *statement* on every connection made from now on."""

    def run(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(statement)
        cursor.close()

    event.listen(database.engine.sync_engine, "connect", run)


async def test_every_connection_makes_commits_durable_and_readers_free(sqlite: Database) -> None:
    async with sqlite.read() as one, sqlite.read() as other:
        for connection in (one, other):
            found = [
                (await connection.execute(text(f"PRAGMA {pragma}"))).scalar_one()
                for pragma in ("journal_mode", "synchronous", "foreign_keys")
            ]
            assert found == ["wal", 2, 1]


async def test_a_new_file_is_nobody_elses_to_read(tmp_path: Path, clock: FakeClock) -> None:
    before = os.umask(0)
    try:
        async with opened(sqlite_url(tmp_path / "new.db"), clock) as database:
            await migrate(database)
            found = modes(tmp_path)
    finally:
        os.umask(before)
    assert found == {"new.db": 0o600, "new.db-wal": 0o600, "new.db-shm": 0o600}


async def test_another_process_that_comes_and_goes_leaves_the_journal_where_it_is(
    tmp_path: Path, clock: FakeClock
) -> None:
    """POSIX locks end with any descriptor of the file that is closed: then the other would think that it was alone."""
    file, journal = tmp_path / "shared.db", tmp_path / "shared.db-wal"
    visit = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM things'); c.close()"
    async with opened(sqlite_url(file), clock) as database:
        async with database.write() as connection:
            await connection.exec_driver_sql("CREATE TABLE things (name)")
        async with database.read(), database.read():  # the second connection is made beside the first
            before = journal.stat().st_ino
            visitor = await asyncio.create_subprocess_exec(sys.executable, "-c", visit, file)
            assert await visitor.wait() == 0
            assert journal.exists()
            assert journal.stat().st_ino == before


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


async def test_time_is_the_clocks_whole_microseconds(sqlite: Database, clock: FakeClock) -> None:
    clock.advance(HOUR)
    async with sqlite.read() as connection:
        assert (await connection.execute(select(sqlite.now()))).scalar_one() == to_micros(T0 + HOUR)


@pytest.mark.parametrize("attempt", range(3))
async def test_processes_that_start_at_once_on_a_new_file_all_migrate_it(
    tmp_path: Path, clock: FakeClock, attempt: int
) -> None:
    async with AsyncExitStack() as processes:
        url = sqlite_url(tmp_path / f"new {attempt}.db")
        databases = [await processes.enter_async_context(opened(url, clock)) for _ in range(4)]
        await asyncio.gather(*(migrate(database) for database in databases))
        assert {await schema_of(database) for database in databases} == {Schema.FITS}


# A database that is away: every method, every way


Use = Callable[[Stores], Awaitable[object]]
USES: dict[str, Use] = {
    "grants.get": lambda s: s.grants.get(ALICE),
    "grants.standings": lambda s: s.grants.standings([ALICE]),
    "grants.ensure": lambda s: s.grants.ensure(ALICE),
    "grants.claim": lambda s: claim(s.grants, SECRET),
    "grants.save": lambda s: s.grants.save(ALICE, generation=1, attempt_id=SECRET, tokens=tokens("a2", SECRET), at=T0),
    "grants.release": lambda s: s.grants.release(ALICE, attempt_id=SECRET),
    "grants.note_setback": lambda s: s.grants.note_setback(
        ALICE, attempt_id=SECRET, setback=Setback(code="x", at=T0, retry_at=T0, finished=True)
    ),
    "grants.declare_dead": lambda s: s.grants.declare_dead(
        ALICE, generation=1, attempt_id=SECRET, reason=Reason.REVOKED, code="x", at=T0
    ),
    "grants.discard_access": lambda s: s.grants.discard_access(ALICE, generation=1),
    "grants.connect": lambda s: s.grants.connect(ALICE, tokens("a2", SECRET), at=T0, attempt_id="again"),
    "grants.import_": lambda s: s.grants.import_(ALICE, tokens("a2", SECRET), at=T0),
    "grants.revoke": lambda s: s.grants.revoke(ALICE, upstream=UpstreamRevocation.PENDING, at=T0, retry_at=T0),
    "grants.finish_revocation": lambda s: s.grants.finish_revocation(
        ALICE, generation=1, upstream=UpstreamRevocation.REVOKED
    ),
    "grants.revive": lambda s: s.grants.revive(ALICE),
    "grants.page": lambda s: s.grants.page(GrantFilter(users=(SECRET,)), after=None, limit=1, now=T0),
    "queue.claim_due": lambda s: s.queue.claim_due(
        Due("versature", GrantType.AUTHORIZATION_CODE, b"", T0, T0, limit=1, per_second=1),
        attempt_id=SECRET,
        lease=HOUR,
        takeover=HOUR,
    ),
    "queue.release_all": lambda s: s.queue.release_all("versature", attempt_id=SECRET),
    "queue.note_asked": lambda s: s.queue.note_asked([ALICE], at=T0),
    "queue.others_succeeded": lambda s: s.queue.others_succeeded(ALICE, since=T0),
    "queue.claim_revocations": lambda s: s.queue.claim_revocations(limit=1, pause=HOUR),
    "authorizations.add": lambda s: s.authorizations.add(request(SECRET.encode())),
    "authorizations.find": lambda s: s.authorizations.find(SECRET.encode()),
    "authorizations.start": lambda s: s.authorizations.start(
        b"ticket", state_digest=SECRET.encode(), cookie_digest=b"c", sealed_verifier=None, at=T0
    ),
    "authorizations.take": lambda s: s.authorizations.take(SECRET.encode()),
    "authorizations.complete": lambda s: s.authorizations.complete(SECRET.encode(), at=T0),
    "directory.version": lambda s: s.directory.version(),
    "directory.load": lambda s: s.directory.load(),
    "directory.add_application": lambda s: s.directory.add_application(application(SECRET)),
    "directory.change_application": lambda s: s.directory.change_application(SECRET, lambda now: now),
    "directory.remove_application": lambda s: s.directory.remove_application(SECRET),
    "directory.set_default": lambda s: s.directory.set_default(GrantType.AUTHORIZATION_CODE, SECRET),
    "directory.add_caller": lambda s: s.directory.add_caller(caller("crm"), key("k", "crm")),
    "directory.change_caller": lambda s: s.directory.change_caller(SECRET, lambda now: now),
    "directory.add_key": lambda s: s.directory.add_key(key(SECRET, "crm"), now=T0, most=2),
    "directory.remove_key": lambda s: s.directory.remove_key("crm", SECRET),
    "directory.remove_caller": lambda s: s.directory.remove_caller(SECRET),
    "directory.replace_keys": lambda s: s.directory.replace_keys("crm", key("k", "crm")),
    "audit.put": lambda s: s.audit.put([AuditEntry("i", T0, "crm", Action.REFUSED, user=SECRET)]),
    "audit.page": lambda s: s.audit.page(AuditFilter(user=SECRET), after=(T0, SECRET), limit=1),
    "audit.forget": lambda s: s.audit.forget(T0, limit=1),
    "sealed.heads": lambda s: s.sealed.heads(Kind.VERIFIER, after=(SECRET.encode(),), limit=1),
    "sealed.page": lambda s: s.sealed.page(Kind.VERIFIER, header=None, after=(SECRET.encode(),), limit=1),
    "sealed.replace": lambda s: s.sealed.replace(Kind.VERIFIER, [Resealed((SECRET.encode(),), b"old", b"new")]),
}


def test_no_method_of_any_store_is_missing_here() -> None:
    ports = {name: port for name, port in get_type_hints(Stores).items() if name not in {"clock", "_pass_time"}}
    assert set(USES) == {
        f"{store}.{method}" for store, port in ports.items() for method in vars(port) if not method.startswith("_")
    }


async def assert_unavailable(stores: Stores) -> None:
    failures = {name: await failure_of(use(stores)) for name, use in USES.items()}
    assert {name: type(failure) for name, failure in failures.items()} == dict.fromkeys(USES, StoreUnavailable)
    for failure in failures.values():
        assert_discreet(failure)


async def failure_of(asked: Awaitable[object]) -> BaseException | None:
    [outcome] = await asyncio.gather(asked, return_exceptions=True)
    return outcome if isinstance(outcome, BaseException) else None


async def test_a_database_that_cannot_be_reached_is_a_store_unavailable(real: RealDatabase) -> None:
    async with out_of_reach(real.away_url, real.clock) as away:
        await assert_unavailable(sql_stores(away, real))


async def test_a_file_without_our_tables_is_a_store_unavailable(tmp_path: Path, clock: FakeClock) -> None:
    async with opened(sqlite_url(tmp_path / "empty.db"), clock) as empty:
        await assert_unavailable(sqlite_stores(empty, clock))


async def test_a_file_that_is_no_database_is_a_store_unavailable(file: Path, clock: FakeClock) -> None:
    overwrite(file, b"no database at all " * 1000)
    async with opened(sqlite_url(file), clock) as corrupt:
        await assert_unavailable(sqlite_stores(corrupt, clock))


async def test_a_damaged_table_is_a_store_unavailable(file: Path, clock: FakeClock) -> None:
    damage_all_tables(file)
    async with opened(sqlite_url(file), clock) as corrupt:
        await assert_unavailable(sqlite_stores(corrupt, clock))


def damage_all_tables(file: Path) -> None:
    """Overwrite every page but the first, which holds the header and the schema's root."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        schema = {row[0] for row in connection.execute("SELECT rootpage FROM sqlite_master")}
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    content = bytearray(file.read_bytes())
    for page in schema:
        content[(page - 1) * size : page * size] = b"\x2a" * size
    file.write_bytes(content)


async def test_a_full_disk_is_a_store_unavailable_and_leaves_nothing_half_written(
    sqlite: Database, clock: FakeClock
) -> None:
    at_connect(sqlite, "PRAGMA max_page_count=1")  # SQLite keeps what there is: no page more
    stores = sqlite_stores(sqlite, clock)
    grant = await connected(stores.grants)
    with pytest.raises(StoreUnavailable) as failure:
        await stores.grants.connect(ALICE, tokens("x" * 500_000, SECRET), at=T0, attempt_id="too long")
    assert_discreet(failure.value)
    assert await stored(stores.grants) == grant
    assert await claim(stores.grants, "afterwards")


async def test_a_database_that_returns_is_used_again(clock: FakeClock, tmp_path: Path, migrated: Path) -> None:
    folder, content = tmp_path / "mounted later", migrated.read_bytes()  # noqa: ASYNC240 - a small file
    async with out_of_reach(sqlite_url(folder / "broker.db"), clock) as database:
        grants = SqlGrantStore(database)
        with pytest.raises(StoreUnavailable):
            await grants.ensure(ALICE)
        overwrite(folder / "broker.db", content)
        assert await connected(grants) == await stored(grants)


def overwrite(file: Path, content: bytes) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)


async def test_the_clock_can_be_asked_if_the_database_answers(real: RealDatabase, database: Database) -> None:
    assert await database.ask_clock() == real.clock.now()
    async with out_of_reach(real.away_url, real.clock) as away:
        with pytest.raises(StoreUnavailable):
            await away.ask_clock()


async def test_a_closed_database_has_let_go_of_its_file(file: Path, clock: FakeClock) -> None:
    async with opened(sqlite_url(file), clock) as database:
        await connected(SqlGrantStore(database))
    assert not list(file.parent.glob("*-wal"))


async def test_our_own_mistakes_are_not_called_a_database_that_is_away(database: Database) -> None:
    requests = SqlAuthorizationStore(database)
    await requests.add(request(SECRET.encode()))
    with pytest.raises(IntegrityError) as failure:
        await requests.add(request(SECRET.encode()))
    assert_discreet(failure.value)


def assert_discreet(failure: BaseException | None) -> None:
    """No message in the whole chain of causes holds a parameter."""
    told = "".join(str(cause) + "".join(traceback.format_exception_only(cause)) for cause in chain(failure))
    for parameter in (SECRET, digest(SECRET), key("k", "crm").digest.hex(), "alice"):
        assert parameter not in told


def chain(failure: BaseException | None) -> Iterator[BaseException]:
    while failure is not None:
        yield failure
        failure = failure.__cause__ or failure.__context__
