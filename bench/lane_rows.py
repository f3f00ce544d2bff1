"""What a cached token costs: against the least possible, against the usual, and with more users, callers, replicas."""

import base64
import contextlib
import statistics
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from redis import Redis

from bench.grants import fill, user
from bench.house import House, median_ratio
from bench.load import Rate, measure
from bench.report import TIMES, Row
from bench.stage import DidNotWork, admit, container, folder_in, process
from bench.wire import Answer, ask, get
from tests.support.brokers import KEY, environment, furnish, settings_from
from tests.support.fleet import prepare
from tests.support.ports import free_port
from tests.support.servers import new_database

NOBODY = "http://127.0.0.1:1"
"""Where a provider would be: no token here is ever renewed."""

FASTER = 1.1
"""What counts as faster than before; less is chance."""


@dataclass(frozen=True)
class Target:
    """A server under load, and what it is asked."""

    port: int
    requests: Sequence[bytes]
    connections: int = 32


async def rows(house: House) -> AsyncIterator[Row]:
    folder = folder_in(house.folder, "lane")
    variables = environment(folder, NOBODY, BROKER_LOG_LEVEL="warning")
    size = house.size
    await furnish(settings_from(variables))
    async with container(variables) as made:
        fill(variables["BROKER_DATABASE_URL"], made, max(size.users_of_the_lane))
        keys = await admit(made, [f"caller-{number}" for number in range(max(size.callers_of_the_lane))])
    async with process("service", "serve", variables=variables, cores=house.on("server")):
        port = int(variables["BROKER_PORT"])
        lane = Target(port, [get(f"/tokens/{user(0)}", KEY)])
        answer = await on_the_lane(lane)
        async with opponents(house, answer) as (bare, ordinary):
            alone, least = await alternate(house, lane, bare, house.size.rounds)
            yield against_bare(alone, least)
            yield against_ordinary(*await alternate(house, lane, ordinary, house.size.rounds))
        # Not in turn with the one: what a crowd leaves to do in the background would be in the other figure.
        for count in size.callers_of_the_lane:
            crowd = Target(port, [get(f"/tokens/{user(0)}", key) for key in keys[:count]])
            yield growth(f"{count:,} callers instead of one", await settled(house, crowd), alone)
        for count in size.users_of_the_lane:
            crowd = Target(port, [get(f"/tokens/{user(number)}", KEY) for number in range(count)])
            yield growth(f"{count:,} users instead of one", await settled(house, crowd), alone)
    yield await replicas(house)


async def on_the_lane(lane: Target) -> Answer:
    """The answer of the second request, which the lane gives."""
    answers = [await ask(lane.port, lane.requests[0]) for _ in range(2)]
    if [answer.status for answer in answers] != [200, 200] or b"t" * 700 not in answers[1].body:
        raise DidNotWork(f"the broker answered {answers}")
    return answers[1]


@contextlib.asynccontextmanager
async def opponents(house: House, answer: Answer) -> AsyncIterator[tuple[Target, Target]]:
    """The bare application, which sends the same bytes as *answer*, and the ordinary one, on the lane's own core."""
    Redis.from_url(house.redis.url).set(user(0), answer.body)
    plain = {
        "headers": undated(answer),
        "body": base64.b64encode(answer.body).decode(),
    }
    usual = {"redis_url": house.redis.url, "key": KEY}
    async with contextlib.AsyncExitStack() as stack:
        targets = []
        for kind, given in (("bare", plain), ("ordinary", usual)):
            variables = environment(house.folder, NOBODY, BROKER_PORT=free_port())
            started = process("bench.serve", kind, variables=variables, cores=house.on("server"), given=given)
            await stack.enter_async_context(started)
            target = Target(int(variables["BROKER_PORT"]), [get(f"/tokens/{user(0)}", KEY)])
            said = await ask(target.port, target.requests[0])
            if said.body != answer.body or (kind == "bare" and undated(said) != undated(answer)):
                raise DidNotWork(f"{kind} answered {said}")
            targets.append(target)
        yield targets[0], targets[1]


def undated(answer: Answer) -> list[tuple[str, str]]:
    """Its headers but the one that the server adds by itself."""
    return [header for header in answer.headers if header[0] != "date"]


async def alternate(house: House, one: Target, other: Target, rounds: int) -> tuple[list[Rate], list[Rate]]:
    """Rounds of both in turn, after one of each that does not count."""
    found: tuple[list[Rate], list[Rate]] = ([], [])
    for target in (one, other):
        await once(house, target)
    for _ in range(rounds):
        for rates, target in zip(found, (one, other), strict=True):
            rates.append(await once(house, target))
    return found


async def settled(house: House, target: Target) -> list[Rate]:
    """Rounds of *target* alone, once it gets no faster: a crowd comes onto the lane only slowly."""
    before, rate = await once(house, target), await once(house, target)
    while rate.per_second > FASTER * before.per_second:
        before, rate = rate, await once(house, target)
    return [rate, *[await once(house, target) for _ in range(house.size.rounds_of_the_told - 1)]]


async def once(house: House, target: Target) -> Rate:
    return await measure(target.port, target.requests, house.size.seconds, house.cores, target.connections)


def against_bare(lane: list[Rate], bare: list[Rate]) -> Row:
    return Row(
        "cached token, against a bare ASGI app that sends the same bytes",
        ratio(lane, bare),
        at_least=0.85,
        figures={"broker": per_second(lane), "bare": per_second(bare), **busy([*lane, *bare])},
    )


def against_ordinary(lane: list[Rate], usual: list[Rate]) -> Row:
    return Row(
        "cached token, against a FastAPI route with Depends, response_model and one Redis GET",
        ratio(lane, usual),
        TIMES,
        at_least=8,
        figures={"broker": per_second(lane), "ordinary": per_second(usual)},
    )


def growth(what: str, many: list[Rate], one: list[Rate]) -> Row:
    figures = {"broker": per_second(many), "with one": per_second(one)}
    return Row(f"cached tokens of {what}", growing(many, one), TIMES, figures=figures)


async def replicas(house: House) -> Row:
    """Several processes behind one port, on PostgreSQL and Redis, against one of them."""
    cores = sorted(house.on("fleet") or ())
    count = max(2, len(cores))
    variables = environment(
        folder_in(house.folder, "replicas"),
        NOBODY,
        BROKER_DATABASE_URL=new_database(house.postgres, "replicas"),
        BROKER_REDIS_URL=house.redis.url,
        BROKER_LOG_LEVEL="warning",
    )
    await prepare(variables)
    async with container(variables) as made:
        fill(variables["BROKER_DATABASE_URL"], made, 1)
    rates: list[list[Rate]] = []
    for number in (count, 1):
        async with contextlib.AsyncExitStack() as stack:
            for which in range(number):
                on = frozenset({cores[which]}) if cores else None
                await stack.enter_async_context(process("bench.serve", "replica", variables=variables, cores=on))
            target = Target(int(variables["BROKER_PORT"]), [get(f"/tokens/{user(0)}", KEY)], 32 * number)
            rates.append(await settled(house, target))
    several, one = rates
    return Row(
        f"cached token, {count} replicas behind one port against one",
        growing(several, one),
        TIMES,
        figures={"together": per_second(several), "one": per_second(one), **busy(several)},
    )


def ratio(ones: list[Rate], others: list[Rate]) -> float:
    return median_ratio([rate.per_second for rate in ones], [rate.per_second for rate in others])


def growing(ones: list[Rate], others: list[Rate]) -> float:
    """The ratio of the medians, for rounds that were not in turn."""
    return statistics.median(rate.per_second for rate in ones) / statistics.median(rate.per_second for rate in others)


def per_second(rates: list[Rate]) -> str:
    return f"{statistics.median(rate.per_second for rate in rates):,.0f}/s"


def busy(rates: list[Rate]) -> dict[str, str]:
    """How busy the one who asks was at most: below 100 % it is not what was measured."""
    return {"load generator busy": f"{max(rate.busy for rate in rates):.0%}"}
