"""Rules 6 and 7 at length: two days of a broken provider cost little, kill nobody, and heal by themselves.

The bound on requests is arithmetic. While nobody succeeds an application's circuit is closed only by a refusal that is
believed, and no more than two are: so it opens anew at most three times. Each time it lets off at most what may be in
the air at once; then one probe after each pause, and the pauses double from `backoff_initial` to `backoff_max`.
"""

import asyncio
import math
from collections import Counter
from datetime import timedelta

import pytest

from service.core.model import GrantId, GrantState, Reason, TokenAnswer
from service.core.policy import Policy
from service.core.records import REST
from service.core.redeeming.refusals import BELIEVED
from service.core.redeeming.upstream import Ambiguous, ClientRefused, InvalidGrant, NotSent, Outcome, RateLimited
from tests.support.fake_server import Call, FakeAuthorizationServer, Lost, Rotation
from tests.support.replicas import VERSATURE, House, Replica
from tests.support.virtual_time import VirtualClock

ACTIVE = 10_000
RETRY_AFTER = timedelta(minutes=40)
POLICY = Policy(
    backoff_max=timedelta(minutes=30),
    renew_per_second=200.0,
    background_at_once=200,
    background_every=timedelta(seconds=5),
    renew_active=timedelta(days=3),
)
WAYS_TO_BE_BROKEN: dict[str, Outcome | Lost] = {
    "not sent": NotSent("x"),
    "rate limited": RateLimited("x", retry_after=RETRY_AFTER),
    "invalid_client": ClientRefused("x"),
    "invalid_grant for everybody": InvalidGrant("x"),
    "5xx": Ambiguous("x"),
    "5xx after acting": Lost(),
}
EXTRA = {
    "rate limited": RETRY_AFTER.total_seconds(),
    "invalid_grant for everybody": REST.total_seconds(),  # for those whose refusal was not believed
}
TWO_DAYS = timedelta(days=2)
DUE = timedelta(minutes=48)


class LargeProvider(FakeAuthorizationServer):
    """Finds a refresh token among many at once; it keeps each good for ever."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock, rotation=Rotation.OFF)
        self.known: set[str] = set()

    def log_in(self) -> str:
        self.known.add(token := self._new("refresh"))
        return token

    def _act(self, call: Call) -> TokenAnswer | Outcome:
        assert call.token in self.known
        return self._tokens(self._clock.now(), None)


class Everybody(list[GrantId]):
    """A list that knows quickly whether somebody is on it."""

    def __init__(self, grants: list[GrantId]) -> None:
        super().__init__(grants)
        self._set = set(grants)

    def __contains__(self, grant: object) -> bool:
        return grant in self._set


async def inhabit(house: House, count: int) -> Replica:
    """One process and as many grants, all of them asked for, all due at the same time: now."""
    replica = house.replica(settings=VERSATURE)
    await replica.directory.check()
    grants = [GrantId("versature", f"user-{number}") for number in range(count)]
    for grant in grants:
        await house.import_(replica, grant)
    await house.queue.note_asked(Everybody(grants), at=house.clock.now())
    await asyncio.sleep(DUE.total_seconds())
    return replica


async def work(house: House, replica: Replica, seconds: float) -> None:
    for _ in range(math.ceil(seconds / house.policy.background_every.total_seconds())):
        await replica.background.tick()
        await house.clock.sleep(house.policy.background_every)


async def heal(house: House, replica: Replica, alive: int) -> float:
    """Let the provider be well and the background go on until it has renewed everybody; how many seconds it took."""
    renewed: set[GrantId] = set()
    house.grants.watch = lambda grant: renewed.add(grant.id) if grant.generation == 2 else None
    house.server.forget_script()
    began, patience = house.clock.monotonic(), 2 * most_until_healed(house.policy, alive)
    while len(renewed) < alive and house.clock.monotonic() - began < patience:
        await work(house, replica, 1)
    return house.clock.monotonic() - began


async def suffer(house: House, replica: Replica, spell: timedelta) -> Counter[str]:
    """All ways to be broken, one after the other, and then all over again; how many requests each met."""
    met: Counter[str] = Counter()
    for name, way in 2 * list(WAYS_TO_BE_BROKEN.items()):
        house.server.always(way)
        before = len(house.server.calls)
        await work(house, replica, spell.total_seconds())
        met[name] += len(house.server.calls) - before
    return met


def most_requests(policy: Policy, over: timedelta) -> int:
    openings = 1 + BELIEVED
    doublings = math.ceil(math.log2(policy.backoff_max / policy.backoff_initial))
    return openings * (policy.background_at_once + doublings) + over // policy.backoff_max


def most_until_healed(policy: Policy, count: int) -> float:
    """Seconds: the circuit's last pause, a last unfinished attempt, then everybody at the pace, in whole ticks."""
    waits = policy.backoff_max + policy.lease + policy.takeover + 3 * policy.background_every
    per_tick = min(policy.background_at_once, policy.renew_per_second)  # the pace saves up no more than a second
    return (waits + math.ceil(count / per_tick) * policy.background_every).total_seconds()


def states(house: House) -> Counter[tuple[GrantState, Reason | None, int]]:
    return Counter((row.grant.state, row.grant.reason, row.grant.generation) for row in house.grants.rows())


@pytest.fixture
def broken_house(clock: VirtualClock) -> House:
    house = House(clock, POLICY)
    house.server = LargeProvider(clock)
    return house


@pytest.mark.parametrize("way", WAYS_TO_BE_BROKEN)
async def test_whichever_way_it_breaks_the_requests_of_a_day_stay_within_the_schedule(
    broken_house: House, way: str
) -> None:
    house, day = broken_house, timedelta(days=1)
    replica = await inhabit(house, 300)
    house.server.always(WAYS_TO_BE_BROKEN[way])
    await work(house, replica, day.total_seconds())
    assert len(house.server.calls) <= most_requests(POLICY, day)
    died = sum(row.grant.state is not GrantState.CONNECTED for row in house.grants.rows())
    assert died == (BELIEVED if way == "invalid_grant for everybody" else 0)
    assert await heal(house, replica, 300 - died) <= EXTRA.get(way, 0) + most_until_healed(POLICY, 300)


@pytest.mark.crash
async def test_two_days_of_a_broken_provider_cost_little_kill_nobody_and_heal_by_themselves(
    broken_house: House,
) -> None:
    house = broken_house
    replica = await inhabit(house, ACTIVE)
    met = await suffer(house, replica, TWO_DAYS / (2 * len(WAYS_TO_BE_BROKEN)))
    assert all(met[name] for name in WAYS_TO_BE_BROKEN)
    assert met.total() <= most_requests(POLICY, TWO_DAYS)
    killed = {(GrantState.REAUTHORIZATION_REQUIRED, Reason.REVOKED, 1): BELIEVED}
    assert states(house) == {(GrantState.CONNECTED, None, 1): ACTIVE - BELIEVED} | killed
    assert await heal(house, replica, ACTIVE - BELIEVED) <= most_until_healed(POLICY, ACTIVE)
    assert states(house) == {(GrantState.CONNECTED, None, 2): ACTIVE - BELIEVED} | killed
    assert all(row.grant.claim is None and row.grant.failures == 0 for row in house.grants.rows())
