"""The number by which every replica notices that callers, keys or applications have changed."""

from sqlalchemy import case, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.adapters.sql_database import Database, Incomplete
from service.adapters.tables import directory_version

_version = directory_version.c.version


async def read_version(connection: AsyncConnection) -> int:
    """The number as it stands.

    Raises:
        Incomplete: there is none, as in a database that is only being restored.
    """
    version: int | None = (await connection.execute(select(_version))).scalar_one_or_none()
    if version is None:
        raise Incomplete
    return version


async def lock_version(connection: AsyncConnection) -> None:
    """Let one change of the directory happen at a time, before it is known whether there is one."""
    await connection.execute(select(_version).with_for_update())


async def move_version(database: Database, connection: AsyncConnection) -> None:
    """Tell every replica that something changes; the row's lock also lets one change happen at a time.

    A number never comes again, as counting from a restored backup would make it: what replicas concluded under the
    number that the lost change had would be in force once more. So it follows the database's clock.

    Raises:
        Incomplete: there is no number to move, so nobody would ever hear of the change.
    """
    now = database.now()
    moved = await connection.execute(
        update(directory_version).values(version=case((_version < now, now), else_=_version + 1))
    )
    if moved.rowcount != 1:
        raise Incomplete
