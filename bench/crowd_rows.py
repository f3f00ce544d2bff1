"""Many at once: a thousand callers for one expired token, and a thousand expired tokens."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence

from bench.house import House
from bench.report import TIMES, Row
from bench.stage import DidNotWork, container, folder_in, import_users
from bench.wire import Answer, ask, get, post
from sandbox.directory import USER_CLIENT
from service.core.policy import Policy
from tests.support.brokers import KEY
from tests.support.fleet import Fleet, Sandbox, running_fleet

UPSTREAM_SECONDS = 0.2
SLOW = ("fault=delay", f"delay_seconds={UPSTREAM_SECONDS}")
REFRESH = {"endpoint": "token", "grant_type": "refresh_token"}


async def rows(house: House) -> AsyncIterator[Row]:
    yield await callers_of_one_token(house)
    for processes in (1, house.size.fleet):
        for row in await users_at_once(house, processes):
            yield row


async def callers_of_one_token(house: House) -> Row:
    processes, crowd = house.size.fleet, house.size.crowd
    folder = folder_in(house.folder, "callers")
    async with running_fleet(folder, processes, house.postgres, house.redis, "rotation=strict", *SLOW) as fleet:
        await fleet.import_users(["alice"])
        answers = await everybody(fleet, ["alice"] * crowd)
        if unserved(answers):
            raise DidNotWork(f"answers by status: {unserved(answers)}")
        calls = len(await fleet.sandbox.calls(**REFRESH))
    return Row(
        f"{crowd:,} callers for one expired token, {processes} processes: calls upstream",
        float(calls),
        at_most=1,
        figures={"answered": len(answers), "the last after": f"{slowest(answers):.2f} s"},
    )


async def users_at_once(house: House, processes: int) -> list[Row]:
    """The time against what the provider's pauses alone would take with as many flights as the processes may have."""
    count, flights = house.size.expired_users, Policy().renewals_at_once * processes
    ideal = math.ceil(count / flights) * UPSTREAM_SECONDS
    folder = folder_in(house.folder, f"users-of-{processes}")
    async with running_fleet(folder, processes, house.postgres, house.redis, *SLOW) as fleet:
        users = [f"user{number}" for number in range(count)]
        async with container(fleet.variables) as made:
            await import_users(made, await fleet.sandbox.mint(users), access_token=None)
        for broker in fleet.brokers:
            await ask(port_of(broker.base_url), get("/me", KEY))
        began = time.monotonic()
        answers = await everybody(fleet, users)
        took = time.monotonic() - began
        alone = await provider_alone(fleet.sandbox, count, flights)
    figures = {
        "flights allowed": flights,
        "took": f"{took:.2f} s",
        "ideal": f"{ideal:.2f} s",
        "our sandbox alone": f"{alone / ideal:.2f}{TIMES}",
    }
    fleet_of = "1 process" if processes == 1 else f"{processes} processes"
    what = f"{count:,} users expired at once, provider takes {UPSTREAM_SECONDS} s, {fleet_of}"
    return [
        Row(
            f"{what}: against the ideal",
            took / ideal,
            TIMES,
            at_most=1.3,
            figures=figures,
        ),
        Row(
            f"{what}: answered without a token",
            float(sum(unserved(answers).values())),
            at_most=0,
            figures={f"status {status}": times for status, times in unserved(answers).items()},
        ),
    ]


async def everybody(fleet: Fleet, users: Sequence[str]) -> list[Answer]:
    """A token for each of *users*, asked for at once, from the brokers in turn."""
    ports = [port_of(broker.base_url) for broker in fleet.brokers]
    requests = [get(f"/tokens/{user}", KEY) for user in users]
    return await asyncio.gather(*(ask(ports[number % len(ports)], request) for number, request in enumerate(requests)))


def unserved(answers: Sequence[Answer]) -> Counter[int]:
    """Answers other than tokens, by status."""
    return Counter(answer.status for answer in answers if answer.status != 200)


async def provider_alone(sandbox: Sandbox, count: int, at_once: int) -> float:
    """The seconds that the provider itself takes for as many renewals, so many at once, with nobody in between."""
    tokens = list((await sandbox.mint([f"other{number}" for number in range(count)])).values())
    credentials = f"client_id={USER_CLIENT.id}&client_secret={USER_CLIENT.secret}"
    several, port = asyncio.Semaphore(at_once), port_of(sandbox.base_url)

    async def renew(token: str) -> None:
        form = f"grant_type=refresh_token&refresh_token={token}&{credentials}"
        async with several:
            answer = await ask(port, post("/api/oauth/token/", form))
        if answer.status != 200:
            raise DidNotWork(f"the sandbox answered {answer.status}")

    began = time.monotonic()
    await asyncio.gather(*map(renew, tokens))
    return time.monotonic() - began


def slowest(answers: Sequence[Answer]) -> float:
    return max(answer.seconds for answer in answers)


def port_of(base_url: str) -> int:
    return int(base_url.rpartition(":")[2])
