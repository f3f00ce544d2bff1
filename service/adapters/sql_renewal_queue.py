"""What the background takes up, in SQL: look without a lock, lock what nobody else has, change it if it still fits."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    Select,
    and_,
    case,
    cast,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from service.adapters.sql_claims import claim_values
from service.adapters.sql_database import Database, guarded
from service.adapters.sql_due import forgotten, longest_due, may_be_claimed
from service.adapters.sql_grant_rows import GRANT_COLUMNS, MICROSECOND, NO_CLAIM, among, is_now, spelt_out, to_grant
from service.adapters.sql_pace import end_turn, take_turn
from service.adapters.tables import grants, to_micros
from service.core.model import COMPANY, Grant, GrantId, GrantState, UpstreamRevocation
from service.core.records import Due

ASKED_BATCH = 500
ASKED_LATELY = timedelta(seconds=1)
PARKED_BATCH = 1000
LONGEST_PAUSE = timedelta(hours=1)
_MOST_DOUBLINGS = 20  # more than any sensible pause needs to reach an hour, and too few to overflow a column
_columns = grants.c
_keys = select(_columns.application, _columns.user)


class SqlRenewalQueue:
    """A `RenewalQueue` in a SQL database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @guarded
    async def claim_due(self, due: Due, *, attempt_id: str, lease: timedelta, takeover: timedelta) -> Sequence[Grant]:
        any_due, any_forgotten = await self._look(due, takeover)
        # Parked first: an error after the claims would leave them to nobody.
        if any_forgotten:
            await self._park(due)
        if not any_due:
            return ()
        async with self._database.write() as connection:
            turn = await take_turn(self._database, connection, due.application, due.per_second)
            now = literal(turn.now)
            chosen = await _choose(connection, longest_due(due, now, takeover), min(due.limit, turn.allowed))
            values = claim_values(self._database.now(), attempt_id, lease // MICROSECOND)
            values["fingerprint"] = due.fingerprint
            claimed = await _change(connection, chosen, may_be_claimed(due, now, takeover), values)
            if claimed:
                await end_turn(connection, turn, len(claimed))
        return [claimed[grant] for grant in chosen if grant in claimed]

    @guarded
    async def release_all(self, application: str, *, attempt_id: str) -> None:
        mine = and_(_columns.application == application, _columns.attempt_id == attempt_id)
        async with self._database.write() as connection:
            await connection.execute(update(grants).where(mine).values(NO_CLAIM))

    @guarded
    async def note_asked(self, grants: Sequence[GrantId], *, at: datetime) -> None:
        ordered = sorted(set(grants), key=lambda grant: (grant.application, grant.user))
        for start in range(0, len(ordered), ASKED_BATCH):
            await self._note_asked(ordered[start : start + ASKED_BATCH], at)

    @guarded
    async def others_succeeded(self, grant: GrantId, *, since: datetime) -> bool:
        # An import moves `renewed_at` as well, but leaves no attempt: it asked the provider nothing.
        statement = _keys.where(
            _columns.application == grant.application,
            _columns.user.not_in([grant.user, COMPANY]),
            _columns.state == spelt_out(GrantState.CONNECTED),
            _columns.refresh_sealed.is_not(None),
            _columns.saved_attempt_id.is_not(None),
            _columns.renewed_at > to_micros(since),
        )
        async with self._database.read() as connection:
            return await _any(connection, statement.order_by(_columns.renewed_at.desc()))

    @guarded
    async def claim_revocations(self, *, limit: int, pause: timedelta) -> Sequence[Grant]:
        untold = and_(
            _columns.upstream_revocation == spelt_out(UpstreamRevocation.PENDING),
            _columns.state == GrantState.REVOKED,
            or_(_columns.retry_at.is_(None), _columns.retry_at <= self._instant()),
        )
        wanted = _keys.where(untold).order_by(_columns.retry_at.nulls_first())
        async with self._database.read() as connection:
            if not await _any(connection, wanted):
                return ()
        values = {"retry_at": self._database.now() + _doubled(pause), "failures": _columns.failures + 1}
        async with self._database.write() as connection:
            chosen = await _lock(connection, wanted.limit(limit))
            return list((await _change(connection, [_id(row) for row in chosen], untold, values)).values())

    async def _look(self, due: Due, takeover: timedelta) -> tuple[bool, bool]:
        """Whether there is something to claim, and something to park."""
        async with self._database.read() as connection:
            now = await self._present(connection)
            ways = [way.with_only_columns(_columns.user) for way in longest_due(due, now, takeover)]
            parked = select(_columns.user).where(forgotten(due, now)).order_by(_columns.renew_at)
            # Ordered, so that the planner takes the index even where it believes that any row will do.
            firsts = [wanted.limit(1).scalar_subquery() for wanted in (*ways, parked)]
            *found, idle = (await connection.execute(select(*firsts))).one()
        return any(user is not None for user in found), idle is not None

    async def _park(self, due: Due) -> None:
        async with self._database.write() as connection:
            idle = forgotten(due, await self._present(connection))
            rows = await _lock(connection, _keys.where(idle).order_by(_columns.renew_at).limit(PARKED_BATCH))
            if rows:
                found = among(map(_id, rows))
                await connection.execute(update(grants).where(found, idle).values(renew_at=None))

    async def _note_asked(self, some: Sequence[GrantId], at: datetime) -> None:
        asked = to_micros(at)
        long_ago = or_(_columns.asked_at.is_(None), _columns.asked_at < asked - ASKED_LATELY // MICROSECOND)
        worth_it = and_(
            among(some),
            is_now(GrantState.CONNECTED),
            or_(long_ago, _columns.renew_at.is_(None)),
        )
        values = {
            "asked_at": case((_columns.asked_at > asked, _columns.asked_at), else_=asked),
            "renew_at": func.coalesce(_columns.renew_at, _columns.due_at, asked),
        }
        async with self._database.read() as connection:
            if not await _any(connection, _keys.where(worth_it)):
                return
        async with self._database.write() as connection:
            # In one order, whoever notes: two replicas must not wait for each other.
            locked = _keys.where(worth_it).order_by(_columns.application, _columns.user).with_for_update()
            rows = (await connection.execute(locked)).all()
            if rows:
                found = among(map(_id, rows))
                await connection.execute(update(grants).where(found, worth_it).values(values))

    async def _present(self, connection: AsyncConnection) -> ColumnElement[int]:
        """The present as a value that the planner sees: of a subquery it believes that a third of all rows is due."""
        if self._database.is_sqlite:
            return self._database.now()
        return literal((await connection.execute(select(self._database.now()))).scalar_one(), BigInteger)

    def _instant(self) -> ColumnElement[int]:
        """The present as one value per statement: no index can be searched for a clock that moves meanwhile."""
        return select(self._database.now()).scalar_subquery()


async def _any(connection: AsyncConnection, wanted: Select[Any]) -> bool:
    return (await connection.execute(wanted.limit(1))).first() is not None


async def _lock(connection: AsyncConnection, wanted: Select[Any]) -> Sequence[Sequence[Any]]:
    """The rows *wanted* that nobody else has locked; ours until the transaction ends."""
    return [tuple(row) for row in await connection.execute(wanted.with_for_update(skip_locked=True))]


async def _choose(connection: AsyncConnection, ways: Sequence[Select[Any]], room: int) -> list[GrantId]:
    """Up to *room* grants, locked, those due longest first whichever way they are due."""
    if room < 1:
        return []
    overdue: dict[GrantId, int] = {}
    for way in ways:
        for row in await _lock(connection, way.limit(room)):
            overdue[_id(row)] = max(row[2], overdue.get(_id(row), row[2]))
    return sorted(overdue, key=lambda grant: -overdue[grant])[:room]


async def _change(
    connection: AsyncConnection, chosen: Sequence[GrantId], still: ColumnElement[bool], values: Mapping[str, Any]
) -> dict[GrantId, Grant]:
    """Write *values* where *still* holds; the rows as they stand then."""
    if not chosen:
        return {}
    changed = update(grants).where(among(chosen), still).values(values).returning(*GRANT_COLUMNS)
    return {_id(row): to_grant(row) for row in await connection.execute(changed)}


def _id(row: Sequence[Any]) -> GrantId:
    return GrantId(row[0], row[1])


def _doubled(pause: timedelta) -> ColumnElement[int]:
    """*pause* doubled once for every failure, an hour at most."""
    doublings = case((_columns.failures > _MOST_DOUBLINGS, _MOST_DOUBLINGS), else_=_columns.failures)
    doubled = literal(pause // MICROSECOND, BigInteger).bitwise_lshift(cast(doublings, Integer))
    longest = LONGEST_PAUSE // MICROSECOND
    return case((doubled > longest, longest), else_=doubled)
