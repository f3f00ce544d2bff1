"""The pace of background renewals: one row per application that the whole fleet takes turns at.

A generic cell rate algorithm: `free_at` is when all that was claimed would be done, were it done evenly.
"""

from dataclasses import dataclass, replace

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.adapters.sql_database import Database
from service.adapters.tables import renewal_paces

_SECOND = 1_000_000
_columns = renewal_paces.c


@dataclass(frozen=True, slots=True)
class Turn:
    """The pace as it stands at *now* (microseconds), held until the transaction ends."""

    application: str
    now: int
    idle_since: int
    interval: int

    @property
    def allowed(self) -> int:
        """How many renewals may start at once."""
        return (self.now - self.idle_since) // self.interval


async def take_turn(database: Database, connection: AsyncConnection, application: str, per_second: float) -> Turn:
    """Wait until nobody else claims at this pace; no more than a second's worth, and at least one, is ever saved up."""
    row = select(_columns.free_at).where(_columns.application == application).with_for_update()
    free_at = (await connection.execute(row)).scalar_one_or_none()
    if free_at is None:
        fresh = database.insert(renewal_paces).values(application=application, free_at=0)
        await connection.execute(fresh.on_conflict_do_nothing(index_elements=["application"]))
        free_at = (await connection.execute(row)).scalar_one()
    # Asked only now: waiting for the row takes time.
    now = (await connection.execute(select(database.now()))).scalar_one()
    interval = max(1, int(_SECOND / per_second))
    turn = Turn(application, now, max(free_at, now - max(_SECOND, interval)), interval)
    if free_at <= now:
        return turn
    # The clock was set back: nobody should wait for it to catch up.
    turn = replace(turn, idle_since=now)
    await end_turn(connection, turn, 0)
    return turn


async def end_turn(connection: AsyncConnection, turn: Turn, claimed: int) -> None:
    """Count what was claimed in this turn."""
    free_at = turn.idle_since + claimed * turn.interval
    await connection.execute(
        update(renewal_paces).where(_columns.application == turn.application).values(free_at=free_at)
    )
