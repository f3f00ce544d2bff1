"""How often the provider is asked for users that are in use all the time, and how long their callers wait."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator

from bench.crowd_rows import REFRESH, SLOW, everybody, slowest, unserved
from bench.house import House
from bench.report import Row
from bench.stage import DidNotWork, folder_in
from service.core.lifetimes import RENEWAL_JITTER, RENEWAL_POINT
from tests.support.fleet import running_fleet

LIFE = 6
USERS = 20
PAUSE = 0.1


async def rows(house: House) -> AsyncIterator[Row]:
    folder, seconds = folder_in(house.folder, "interval"), house.size.interval_seconds
    switches = (f"token_lifetime_seconds={LIFE}", *SLOW)
    users, waited = [f"user{number}" for number in range(USERS)], 0.0
    async with running_fleet(folder, 2, house.postgres, house.redis, *switches) as fleet:
        await fleet.import_users(users)
        await everybody(fleet, users)
        before, began = len(await fleet.sandbox.calls(**REFRESH)), time.monotonic()
        while time.monotonic() - began < seconds:
            answers = await everybody(fleet, users)
            if unserved(answers):
                raise DidNotWork(f"answers by status: {unserved(answers)}")
            waited = max(waited, slowest(answers))
            await asyncio.sleep(PAUSE)
        took = time.monotonic() - began
        calls = (await fleet.sandbox.calls(**REFRESH))[before:]
    shortest = LIFE * (RENEWAL_POINT - RENEWAL_JITTER)
    most = max(Counter(call["user"] for call in calls).values(), default=0)
    yield Row(
        f"calls upstream for one active user in {took:.0f} s, tokens of {LIFE} s",
        float(most),
        at_most=float(took // shortest + 1),
        figures={
            "users": USERS,
            "on average": len(calls) / USERS,
            "a caller waited at most": f"{waited:.2f} s",
        },
    )
