"""What a census promises: every grant counted once, under its application and state, and nobody by name."""

from datetime import timedelta

import pytest
from sqlalchemy import event, text

from service.adapters.sql_census import SqlCensusStore
from service.adapters.sql_database import Database
from service.adapters.sql_grants import SqlGrantStore
from service.core.errors import StoreUnavailable
from service.core.model import GrantId, GrantState
from service.core.upkeep.census import Count
from tests.contract.conftest import REAL, Stores
from tests.contract.samples import ALICE, T0, connect, connected, revoke, tokens

BOB, CAROL, DAVE = GrantId("versature", "bob"), GrantId("another", "carol"), GrantId("versature", "dave")
DAY = timedelta(days=1)
WITHIN = (DAY, 7 * DAY, 30 * DAY)

on_every_database = pytest.mark.parametrize("stores", [*REAL, "postgresql"], indirect=True)


@pytest.fixture
def census(stores: Stores) -> SqlCensusStore:
    assert isinstance(stores.grants, SqlGrantStore)
    return SqlCensusStore(stores.grants._database)


@on_every_database
async def test_grants_are_counted_by_application_and_state(stores: Stores, census: SqlCensusStore) -> None:
    assert await census.count(T0, WITHIN) == []
    for grant in (ALICE, BOB, CAROL):
        await connected(stores.grants, grant)
    await revoke(stores.grants, BOB)
    await stores.grants.ensure(GrantId("versature", "never connected"))
    due_at = tokens("a1").due_at
    assert await census.count(T0, WITHIN) == [
        Count("another", GrantState.CONNECTED, 1, (0, 0, 0), 1, due_at),
        Count("versature", GrantState.CONNECTED, 1, (0, 0, 0), 1, due_at),
        Count("versature", GrantState.REVOKED, 1, (0, 0, 0), 0, None),
    ]


@on_every_database
@pytest.mark.parametrize(
    ("left", "ending"),
    [
        (31 * DAY, (0, 0, 0)),
        (30 * DAY, (0, 0, 1)),
        (7 * DAY, (0, 1, 1)),
        (DAY, (1, 1, 1)),
        (timedelta(microseconds=1), (1, 1, 1)),
        (timedelta(0), (0, 0, 0)),
    ],
)
async def test_refresh_tokens_that_end_soon_are_counted_and_those_that_ended_are_not(
    stores: Stores, census: SqlCensusStore, left: timedelta, ending: tuple[int, int, int]
) -> None:
    await connected(stores.grants)
    (count,) = await census.count(T0 + timedelta(days=90) - left, WITHIN)
    assert count.ending == ending


@on_every_database
async def test_a_grant_without_refresh_token_or_connection_ends_nowhere(stores: Stores, census: SqlCensusStore) -> None:
    await connected(stores.grants, ALICE, None)
    await connected(stores.grants, BOB)
    await revoke(stores.grants, BOB)
    counts = await census.count(T0 + timedelta(days=89, hours=12), WITHIN)
    assert [count.ending for count in counts] == [(0, 0, 0), (0, 0, 0)]


@on_every_database
async def test_the_active_ones_are_those_that_the_background_renews_and_the_oldest_due_tells_its_lag(
    stores: Stores, census: SqlCensusStore
) -> None:
    for place, grant in enumerate((ALICE, BOB)):
        await connect(stores.grants, tokens("a1", "r1", at=T0 - place * DAY), "login", grant)
    await connected(stores.grants, DAVE)
    async with census._database.write() as connection:
        await connection.execute(text("UPDATE grants SET renew_at = NULL WHERE \"user\" = 'dave'"))
    (count,) = await census.count(T0, WITHIN)
    assert (count.grants, count.active, count.oldest_due_at) == (3, 2, tokens("a1", at=T0 - DAY).due_at)


async def test_all_is_counted_along_one_index(database: Database) -> None:
    """SQLite tells; PostgreSQL plans by what it finds in the table."""
    assert await plans(database) == ["SCAN grants USING COVERING INDEX ix_grants_census"]


async def plans(database: Database) -> list[str]:
    """How SQLite would go about what a census asks."""
    asked: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    await SqlCensusStore(database).count(T0, WITHIN)
    event.remove(database.engine.sync_engine, "before_cursor_execute", note)
    async with database.read() as connection:
        found = []
        for statement in asked:
            places = tuple(0 for _ in range(statement.count("?")))
            explained = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", places)
            found += [row.detail for row in explained]
    return found


async def test_a_census_without_a_database_says_so(database: Database) -> None:
    await database.close()
    async with database.write() as connection:
        await connection.exec_driver_sql("ALTER TABLE grants RENAME TO elsewhere")
    with pytest.raises(StoreUnavailable):
        await SqlCensusStore(database).count(T0, WITHIN)
