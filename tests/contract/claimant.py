"""One more broker process, as far as the database can tell: `python -m tests.contract.claimant NAME URL GRANTS`.

It says `ready`, waits for a line, claims that many grants at once, and prints the users whose claim it won.
"""

import asyncio
import json
import sys

from service.adapters.sql_database import Database
from service.adapters.sql_grants import SqlGrantStore
from service.core.clock import SystemClock
from service.core.model import GrantId
from tests.contract.samples import claim


def contested(count: int) -> list[GrantId]:
    return [GrantId("versature", f"user {i:02}") for i in range(count)]


async def race(name: str, url: str, count: int) -> None:
    database = Database(url, pool_size=5, clock=SystemClock())
    await database.ask_clock()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    grants = SqlGrantStore(database)
    claims = await asyncio.gather(*(claim(grants, f"{name} {grant.user}", grant) for grant in contested(count)))
    await database.close()
    sys.stdout.write(json.dumps([won.id.user for won in claims if won is not None]) + "\n")


if __name__ == "__main__":
    asyncio.run(race(sys.argv[1], sys.argv[2], int(sys.argv[3])))
