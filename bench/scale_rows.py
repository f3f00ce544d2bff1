"""What everything costs among a million grants, against the same among a thousand."""

import contextlib
import itertools
import random
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from bench.grants import APPLICATION, fill, user
from bench.house import House, median_ratio
from bench.lane_rows import NOBODY
from bench.report import TIMES, Row
from bench.stage import DidNotWork, container, folder_in
from service.adapters.sql_renewal_queue import SqlRenewalQueue
from service.core.handout import Source
from service.core.model import GrantId, GrantType
from service.core.policy import Policy
from service.core.records import Due, GrantFilter
from service.core.sealing.digests import fingerprint
from service.lifecycle import Container
from tests.support.brokers import environment, settings_from
from tests.support.fleet import prepare
from tests.support.servers import new_database

MISSES = 100
CLAIMED = 20
PAGES = 20
AUDITED = 5000
MILLISECOND = timedelta(milliseconds=1)


@dataclass
class Stock:
    """A database full of grants; `users` are those whose tokens open, in no order, each taken once."""

    made: Container
    count: int
    users: Iterator[str]

    def some(self, number: int) -> list[GrantId]:
        return [GrantId(APPLICATION, name) for name in itertools.islice(self.users, number)]


Work = Callable[[Stock], Awaitable[None]]


async def rows(house: House) -> AsyncIterator[Row]:
    size = house.size
    for kind in ("SQLite", "PostgreSQL"):
        async with contextlib.AsyncExitStack() as stack:
            few, many = [
                await stack.enter_async_context(stock(house, kind, count))
                for count in (size.few_grants, size.many_grants)
            ]
            for what, work, budget in WORKS:
                times = await alternate(house, work, many, few)
                yield row(f"{kind}, {many.count:,} grants: {what}", *times, budget)
            yield await hot_users(house, kind, many, few)


@contextlib.asynccontextmanager
async def stock(house: House, kind: str, count: int) -> AsyncIterator[Stock]:
    """A broker without Redis on a new database with *count* grants, of which some are due."""
    name = f"scale_{kind.lower()}_{count}"
    own = {} if kind == "SQLite" else {"BROKER_DATABASE_URL": new_database(house.postgres, name)}
    variables = environment(folder_in(house.folder, name), NOBODY, **own)
    await prepare(variables)
    async with container(variables) as made:
        users = fill(settings_from(variables).broker_database_url.get_secret_value(), made, count, due=500)
        random.Random(7).shuffle(users)  # noqa: S311 - the same order every time
        yield Stock(made, count, itertools.cycle(users))


async def miss(among: Stock) -> None:
    """Tokens that only the database has."""
    application = among.made.services.directory.application(APPLICATION)
    for grant in among.some(MISSES):
        among.made.core.local.drop(grant)
        handout = await among.made.services.broker.get(application, grant)
        if handout.source is not Source.DATABASE:
            raise DidNotWork(f"a miss was answered from {handout.source}")


async def claim(among: Stock) -> None:
    """What the background takes at a time."""
    now, application = among.made.services.clock.now(), among.made.services.directory.application(APPLICATION)
    day = timedelta(days=1)
    due = Due(
        APPLICATION, GrantType.AUTHORIZATION_CODE, fingerprint(application), now - day, now - 80 * day, CLAIMED, 1e6
    )
    queue, minute = SqlRenewalQueue(among.made.database), timedelta(minutes=1)
    claimed = await queue.claim_due(due, attempt_id=f"bench {random.random()}", lease=minute, takeover=minute)  # noqa: S311
    if len(claimed) != CLAIMED:
        raise DidNotWork(f"{len(claimed)} grants were claimed")


async def page(among: Stock) -> None:
    """Pages of a listing, each from somewhere in the middle."""
    now = among.made.services.clock.now()
    for grant in among.some(PAGES):
        await among.made.services.grants.page(GrantFilter(), after=grant, limit=50, now=now)


async def flush(among: Stock) -> None:
    """What was handed out to five callers, for as many users everywhere, written down."""
    audit = among.made.services.audit
    for number in range(AUDITED):
        whom = user(number % 1000 * (among.count // 1000))
        audit.handed_out(f"caller-{number // 1000}", GrantId(APPLICATION, whom))
    await audit.flush()


WORKS: list[tuple[str, Work, float | None]] = [
    (f"{MISSES} misses served from the database", miss, 1.2),
    (f"a batch of {CLAIMED} claimed", claim, None),
    (f"{PAGES} pages of a listing", page, None),
    (f"{AUDITED:,} entries of the audit written", flush, None),
]


async def hot_users(house: House, kind: str, many: Stock, few: Stock) -> Row:
    """One tick that confirms every user in use; among few grants there are fewer, so it counts by the user."""
    hot, times = house.size.hot_users, list[list[float]]()
    for among, number in ((many, hot), (few, min(hot, few.count))):
        grants = list(dict.fromkeys(among.some(number)))
        application, own = among.made.services.directory.application(APPLICATION), list[float]()
        for grant in grants:
            await among.made.services.broker.get(application, grant)
        for _ in range(house.size.rounds):
            for grant in grants:
                among.made.core.local.use(grant)
            own.append(await seconds(among.made.core.revalidator.tick()) / len(grants))
        times.append(own)
    whole = statistics.median(times[0]) * hot
    figures = {
        "one tick for all": f"{whole * 1000:.0f} ms",
        "ticks come every": f"{Policy().confirm_every / MILLISECOND:.0f} ms",
    }
    return row(
        f"{kind}, {many.count:,} grants: {hot:,} users in use confirmed, by the user", times[0], times[1], None, figures
    )


async def alternate(house: House, work: Work, many: Stock, few: Stock) -> tuple[list[float], list[float]]:
    """Seconds among many and among few, in turn, after one round that does not count."""
    found: tuple[list[float], list[float]] = ([], [])
    for turn in range(house.size.rounds + 1):
        for times, among in zip(found, (many, few), strict=True):
            took = await seconds(work(among))
            times.extend([took] if turn else [])
    return found


async def seconds(work: Awaitable[None]) -> float:
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


def row(
    what: str,
    many: Sequence[float],
    few: Sequence[float],
    budget: float | None,
    figures: dict[str, str] | None = None,
) -> Row:
    own = {"among many": millis(many), "among few": millis(few)}
    return Row(what, median_ratio(many, few), TIMES, at_most=budget, figures=own if figures is None else figures)


def millis(times: Sequence[float]) -> str:
    return f"{statistics.median(times) * 1000:.1f} ms"
