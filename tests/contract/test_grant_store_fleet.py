"""What several replicas on one real database promise each other, and what they cost it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, insert, text

from service.adapters.sql_audit import SqlAuditStore
from service.adapters.sql_database import Database
from service.adapters.sql_grants import SqlGrantStore
from service.adapters.sql_migrations import migrate
from service.adapters.sql_renewal_queue import SqlRenewalQueue
from service.adapters.tables import audit, grants, renewal_paces, to_micros
from service.core.audit_store import Action, AuditEntry, AuditFilter
from service.core.clock import SystemClock
from service.core.model import GrantId, GrantState, GrantType, UpstreamRevocation
from service.core.records import Due, GrantFilter
from tests.contract.databases import sqlite_copy
from tests.contract.samples import ALICE, FINGERPRINT, HOUR, LEASE, SECOND, TAKEOVER
from tests.support.clock import FakeClock
from tests.support.servers import Server, new_database

NOW = SystemClock().now()
REPLICAS = 4


@pytest.fixture(scope="module")
def fleet_url(postgres: Server) -> str:
    return new_database(postgres, "fleet")


@pytest.fixture(params=["sqlite", "postgresql"])
async def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[list[Database]]:
    """One database, new and empty, as several processes see it: leases and paces run by its real clock."""
    if request.param == "sqlite":
        url = sqlite_copy(request.getfixturevalue("migrated"), tmp_path, FakeClock()).url
    else:
        url = request.getfixturevalue("fleet_url")
    databases = [Database(url, pool_size=3, clock=SystemClock()) for _ in range(REPLICAS)]
    await migrate(databases[0])
    async with databases[0].write() as connection:
        await connection.execute(grants.delete())
        await connection.execute(renewal_paces.delete())
        await connection.execute(audit.delete())
    yield databases
    for database in databases:
        await database.close()


def row(user: str, **other: Any) -> dict[str, Any]:
    """A grant due for an hour and asked for just now, unless told otherwise."""
    due = to_micros(NOW - HOUR)
    values = {"application": "versature", "user": user, "state": GrantState.CONNECTED, "generation": 1}
    values |= {"fingerprint": FINGERPRINT, "refresh_sealed": b"r", "spent_digests": "", "imported_digests": ""}
    values |= {"failures": 0, "refusals": 0, "renewed_at": due, "due_at": due, "renew_at": due, "retry_at": None}
    values |= {"asked_at": to_micros(NOW), "upstream_revocation": None, "saved_attempt_id": "a"}
    return values | other


async def fill(database: Database, rows: list[dict[str, Any]]) -> None:
    async with database.write() as connection:
        await connection.execute(insert(grants), rows)


def due(*, per_second: float, limit: int = 1000) -> Due:
    return Due("versature", GrantType.AUTHORIZATION_CODE, FINGERPRINT, NOW - HOUR, NOW - HOUR * 24, limit, per_second)


async def claim_due(database: Database, which: Due, attempt_id: str) -> list[str]:
    claimed = await SqlRenewalQueue(database).claim_due(which, attempt_id=attempt_id, lease=LEASE, takeover=TAKEOVER)
    assert all(grant.claim is not None and grant.claim.attempt_id == attempt_id for grant in claimed)
    return [grant.id.user for grant in claimed]


async def test_replicas_that_claim_at_once_take_no_grant_twice_and_leave_none(fleet: list[Database]) -> None:
    await fill(fleet[0], [row(f"user {i:03}") for i in range(200)])
    which = due(per_second=1000, limit=15)
    rounds = await asyncio.gather(
        *(claim_due(database, which, f"{i} {turn}") for turn in range(5) for i, database in enumerate(fleet))
    )
    users = [user for claimed in rounds for user in claimed]
    assert len(users) == len(set(users)) == 200


async def test_replicas_that_claim_at_once_keep_one_pace(fleet: list[Database]) -> None:
    await fill(fleet[0], [row(f"user {i:03}") for i in range(200)])
    started = time.monotonic()
    rounds = await asyncio.gather(
        *(
            claim_due(database, due(per_second=5), f"{i} {turn}")
            for turn in range(5)
            for i, database in enumerate(fleet)
        )
    )
    elapsed = time.monotonic() - started
    assert 5 <= sum(len(claimed) for claimed in rounds) <= 5 + 5 * elapsed


async def test_the_background_and_callers_take_no_grant_twice(fleet: list[Database]) -> None:
    users = [f"user {i:02}" for i in range(40)]
    await fill(fleet[0], [row(user) for user in users])

    async def claim(database: Database, user: str) -> list[str]:
        won = await SqlGrantStore(database).claim(
            GrantId("versature", user),
            generation=1,
            attempt_id="a caller's",
            fingerprint=FINGERPRINT,
            lease=LEASE,
            takeover=TAKEOVER,
        )
        return [user] if won else []

    everything = [claim(fleet[i % REPLICAS], user) for i, user in enumerate(users)]
    everything += [claim_due(database, due(per_second=1000), "background") for database in fleet]
    taken = [user for claimed in await asyncio.gather(*everything) for user in claimed]
    assert sorted(taken) == users


async def test_replicas_that_note_the_same_grants_never_wait_for_each_other_in_a_circle(fleet: list[Database]) -> None:
    await fill(fleet[0], [row(f"user {i:03}", asked_at=None) for i in range(300)])
    everybody = [GrantId("versature", f"user {i:03}") for i in range(300)]
    for turn in range(5):
        at = NOW + turn * 2 * SECOND
        await asyncio.gather(
            *(
                SqlRenewalQueue(database).note_asked(everybody[:: (-1) ** i], at=at)
                for i, database in enumerate(fleet * 2)
            )
        )


async def test_replicas_hand_out_each_revocation_once(fleet: list[Database]) -> None:
    await fill(fleet[0], [revoked(i) for i in range(40)])
    queues = [SqlRenewalQueue(database) for database in fleet * 3]
    rounds = await asyncio.gather(*(queue.claim_revocations(limit=10, pause=HOUR) for queue in queues))
    users = [grant.id.user for claimed in rounds for grant in claimed]
    assert len(users) == len(set(users))
    assert len(users) + len(await queues[0].claim_revocations(limit=100, pause=HOUR)) == 40


def revoked(number: int) -> dict[str, Any]:
    pending = {"state": GrantState.REVOKED, "upstream_revocation": UpstreamRevocation.PENDING}
    return row(f"revoked {number:02}", **pending, retry_at=None if number % 2 else to_micros(NOW - HOUR))


async def test_a_lease_taken_for_the_background_runs_by_the_databases_clock(fleet: list[Database]) -> None:
    await fill(fleet[0], [row("alice")])
    before = await fleet[0].ask_clock()
    assert await claim_due(fleet[0], due(per_second=1), "mine") == ["alice"]
    grant = await SqlGrantStore(fleet[0]).get(ALICE)
    assert grant is not None
    assert grant.claim is not None
    assert before <= grant.claim.started_at <= await fleet[0].ask_clock()


# What it costs


@contextlib.contextmanager
def watched(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """Every statement that *database* is given meanwhile."""
    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        seen.append((statement, parameters))

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    yield seen
    event.remove(database.engine.sync_engine, "before_cursor_execute", note)


async def plan(database: Database, seen: list[tuple[str, Any]], table: str = "grants") -> str:
    explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
    lines: list[str] = []
    async with database.read() as connection:
        for statement, parameters in seen:
            if table in statement:
                rows = await connection.exec_driver_sql(explain + statement, parameters)
                lines += [str(row[-1]) for row in rows]
    return "\n".join(lines)


@pytest.fixture
async def crowded(fleet: list[Database]) -> Database:
    """Thousands of grants, of which few are due, idle, forgotten, recently renewed or revoked."""
    later = to_micros(NOW + HOUR)
    rested = {"renew_at": later, "due_at": later, "renewed_at": to_micros(NOW - 2 * HOUR)}
    rows = [row(f"user {i:04}", **rested) for i in range(5000)]
    rows += [row(f"due {i}") for i in range(10)]
    rows += [row(f"forgotten {i}", asked_at=None) for i in range(10)]
    rows += [row(f"idle {i}", renew_at=None, renewed_at=to_micros(NOW - 48 * HOUR)) for i in range(10)]
    rows += [revoked(i) for i in range(10)]
    await fill(fleet[0], rows)
    if not fleet[0].is_sqlite:
        async with fleet[0].write() as connection:
            await connection.execute(text("ANALYZE grants"))
    return fleet[0]


PRIMARY_KEY = {True: "sqlite_autoindex_grants_1", False: "grants_pkey"}


def assert_by_index(plan: str, *indexes: str) -> None:
    assert "Seq Scan on grants" not in plan
    assert [line for line in plan.splitlines() if line.startswith("SCAN grants") and "INDEX" not in line] == []
    assert [index for index in indexes if index not in plan] == []


async def test_claiming_among_thousands_reads_along_an_index(crowded: Database) -> None:
    with watched(crowded) as seen:
        assert len(await claim_due(crowded, due(per_second=100), "a")) == 20
    assert any("UPDATE" in statement for statement, _ in seen)
    async with crowded.read() as connection:
        listed = "SELECT count(*) FROM grants WHERE renew_at IS NOT NULL AND asked_at IS NULL"
        assert (await connection.execute(text(listed))).scalar_one() == 0
    found = await plan(crowded, seen)
    assert_by_index(found, "ix_grants_renew_at", "ix_grants_renewed_at")
    assert "ix_grants_census" not in found, "that has all rows of the application, although it counts as a search"


MULTIPLIED = """
INSERT INTO grants (application, "user", state, generation, fingerprint, refresh_sealed, spent_digests,
    imported_digests, failures, refusals, renewed_at, due_at, renew_at, asked_at, saved_attempt_id)
SELECT application, "user" || ' ' || copy, state, generation, fingerprint, refresh_sealed, '', '', 0, 0, renewed_at,
    due_at, renew_at + (random() * 1e9)::bigint, asked_at, saved_attempt_id
FROM grants, generate_series(1, 40) copy WHERE "user" LIKE 'user%'
"""


async def test_looking_for_what_is_due_among_many_reads_along_an_index_whatever_is_due(crowded: Database) -> None:
    """PostgreSQL plans by numbers: it must see the present, or it believes that a third of all rows is due."""
    if not crowded.is_sqlite:
        async with crowded.write() as connection:
            await connection.execute(text("SET LOCAL statement_timeout = 0"))
            await connection.execute(text(MULTIPLIED))
            await connection.execute(text("ANALYZE grants"))
    await claim_due(crowded, due(per_second=100), "a")
    with watched(crowded) as seen:
        assert not await claim_due(crowded, due(per_second=100), "b")
    assert_by_index(await plan(crowded, seen), "ix_grants_renew_at", "ix_grants_renewed_at")


async def test_looking_for_others_among_thousands_reads_along_an_index(crowded: Database) -> None:
    with watched(crowded) as seen:
        assert await SqlRenewalQueue(crowded).others_succeeded(ALICE, since=NOW - 1.5 * HOUR)
        assert not await SqlRenewalQueue(crowded).others_succeeded(ALICE, since=NOW)
    assert_by_index(await plan(crowded, seen), "ix_grants_renewed_at")


async def test_looking_for_revocations_among_thousands_reads_along_an_index(crowded: Database) -> None:
    with watched(crowded) as seen:
        assert len(await SqlRenewalQueue(crowded).claim_revocations(limit=100, pause=HOUR)) == 10
    # As a parameter the planner would not see it, once it plans for any parameters at all.
    assert all("'pending'" in statement for statement, _ in seen if "SELECT" in statement)
    assert_by_index(await plan(crowded, seen), "ix_grants_revocations")


async def test_noting_and_confirming_some_among_thousands_reads_no_others(crowded: Database) -> None:
    everybody = [GrantId("versature", f"user {i:04}") for i in range(0, 5000, 50)]
    with watched(crowded) as seen:
        await SqlRenewalQueue(crowded).note_asked(everybody, at=NOW + HOUR)
    found = await plan(crowded, seen)
    assert_by_index(found)
    assert "ix_grants_census" not in found
    with watched(crowded) as seen:
        assert len(await SqlGrantStore(crowded).standings([*everybody, GrantId("other", "alice")])) == 100
    assert_by_index(await plan(crowded, seen))


async def test_a_miss_among_thousands_reads_its_row_alone(crowded: Database) -> None:
    with watched(crowded) as seen:
        assert await SqlGrantStore(crowded).get(GrantId("versature", "user 2500")) is not None
    assert_by_index(await plan(crowded, seen), PRIMARY_KEY[crowded.is_sqlite])


@pytest.mark.parametrize(
    "which", [GrantFilter(), GrantFilter(application="versature", users=("user*", "x"), applications=("v*",))]
)
async def test_a_page_from_the_middle_of_thousands_reads_on_from_there(crowded: Database, which: GrantFilter) -> None:
    with watched(crowded) as seen:
        page = await SqlGrantStore(crowded).page(which, after=GrantId("versature", "user 2500"), limit=50, now=NOW)
    assert [grant.id.user for grant in page] == [f"user {i:04}" for i in range(2501, 2551)]
    found = await plan(crowded, seen)
    assert_by_index(found, PRIMARY_KEY[crowded.is_sqlite])
    assert "Sort" not in found
    assert "TEMP B-TREE" not in found


@pytest.mark.parametrize("application", [None, "versature"])
@pytest.mark.parametrize("state", [GrantState.REVOKED, GrantState.REAUTHORIZATION_REQUIRED])
async def test_a_page_of_those_who_are_not_connected_reads_no_thousands_of_others(
    crowded: Database, state: GrantState, application: str | None
) -> None:
    which = GrantFilter(state=state, application=application)
    with watched(crowded) as seen:
        page = await SqlGrantStore(crowded).page(which, after=None, limit=50, now=NOW)
    assert len(page) == (10 if state is GrantState.REVOKED else 0)
    assert_by_index(await plan(crowded, seen), "ix_grants_doubtful")


@pytest.mark.parametrize("which", [{}, {"caller": "caller 1"}, {"user": "user 17"}, {"action": Action.REFUSED}])
async def test_the_audit_among_thousands_is_read_and_forgotten_along_an_index(
    crowded: Database, which: dict[str, Any]
) -> None:
    store = SqlAuditStore(crowded)
    await store.put([audited(i) for i in range(6000)])
    if not crowded.is_sqlite:
        async with crowded.write() as connection:
            await connection.execute(text("ANALYZE audit"))
    with watched(crowded) as seen:
        wanted = AuditFilter(since=NOW - 100 * HOUR, **which)
        assert await store.page(wanted, after=(NOW - HOUR, "000000"), limit=20)
        assert await store.forget(NOW - 120 * HOUR, limit=5) == 5
        await store.put([audited(3)])
    found = await plan(crowded, seen, table="audit")
    assert "Seq Scan on audit" not in found
    assert [line for line in found.splitlines() if line.startswith("SCAN audit") and "INDEX" not in line] == []


def audited(number: int) -> AuditEntry:
    return AuditEntry(
        f"{number:06}",
        NOW - number * SECOND * 90,
        f"caller {number % 100}",
        Action.REFUSED if number % 100 == 0 else Action.TOKEN,
        user=f"user {number % 500}",
    )


async def test_where_nothing_is_due_nobody_takes_a_lock(crowded: Database) -> None:
    queue = SqlRenewalQueue(crowded)
    await claim_due(crowded, due(per_second=1000), "a")
    await queue.claim_revocations(limit=100, pause=HOUR)
    with watched(crowded) as seen:
        assert not await claim_due(crowded, due(per_second=1000), "b")
        assert not await queue.claim_revocations(limit=100, pause=HOUR)
        await queue.note_asked([GrantId("versature", "due 1")], at=NOW + SECOND)
    locking = ("UPDATE", "INSERT", "BEGIN")
    assert [statement for statement, _ in seen if any(word in statement for word in locking)] == []
    assert len(seen) == (3 if crowded.is_sqlite else 4)
