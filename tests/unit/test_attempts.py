"""Every attempt to renew ends in exactly one way, whatever that is, and the ways add up to the attempts."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from service.core.errors import BrokerError, UpstreamUnavailable
from service.core.model import AccessToken, Grant, GrantId
from service.core.redeeming.attempts import Ending, Origin
from service.core.redeeming.upstream import (
    Ambiguous,
    ClientRefused,
    InvalidGrant,
    NotSent,
    OtherRefusal,
    Outcome,
    RateLimited,
    Refused,
    RefusedWithoutCode,
)
from tests.support.fake_server import Rotation
from tests.support.replicas import ALICE, BOB, COMPANYS, THE_COMPANY, VERSATURE, House, Replica

CAROL = GrantId("versature", "carol")
NO = InvalidGrant("x")
Scenario = Callable[[House, Replica], Awaitable[None]]


async def expired(house: House, replica: Replica, *grants: GrantId) -> Grant:
    """Grants whose access token is over; the first one's row."""
    for grant in grants or (ALICE,):
        await house.import_(replica, grant)
    await asyncio.sleep(3600)
    return await house.row((grants or (ALICE,))[0])


async def fail(replica: Replica, grant: GrantId = ALICE) -> None:
    with pytest.raises(BrokerError):
        await replica.ask(grant, COMPANYS if grant.is_company else VERSATURE)


@contextlib.asynccontextmanager
async def under_way(house: House, replica: Replica) -> AsyncIterator[asyncio.Task[AccessToken]]:
    """Alice's renewal while the provider takes its time, which ends with the block."""
    seen = await expired(house, replica)
    silence = house.server.fall_silent()
    flight, _ = replica.renewer.fly(VERSATURE, seen)
    await silence.arrived.wait()
    house.server.speak()
    yield flight
    silence.release()
    await asyncio.wait({flight})


async def claimed(house: House, replica: Replica) -> Grant:
    """Alice, claimed as the background would."""
    seen = await expired(house, replica)
    found = await house.grants.claim(
        ALICE,
        generation=seen.generation,
        attempt_id="background",
        fingerprint=seen.fingerprint,
        lease=house.policy.lease,
        takeover=house.policy.takeover,
    )
    assert found is not None
    return found


def after(outcome: Outcome, grant: GrantId = ALICE) -> Scenario:
    async def scenario(house: House, replica: Replica) -> None:
        await expired(house, replica)
        house.server.script(outcome)
        await fail(replica, grant)

    return scenario


async def saved(house: House, replica: Replica) -> None:
    await expired(house, replica)
    await replica.ask()


async def adopted(house: House, replica: Replica) -> None:
    house.server.rotation = Rotation.OFF
    async with under_way(house, replica):
        house.clock.advance(61)
        await house.import_(house.replica())


async def escrowed(house: House, replica: Replica) -> None:
    await expired(house, replica)
    house.grants.away_for = {"save"}
    await replica.ask()


async def in_memory(house: House, replica: Replica) -> None:
    replica.spool.away = house.copy.away = True
    await escrowed(house, replica)


async def database_behind(house: House, replica: Replica) -> None:
    await house.import_(replica)
    before = await house.row()
    await asyncio.sleep(3600)
    await replica.ask()
    async with under_way(house, replica):
        house.grants.put(replace(before, obtained_at=before.obtained_at))


async def recovered(house: House, replica: Replica) -> None:
    row = await claimed(house, house.replica())
    assert row.claim is not None
    await house.replica().custody.keep(house.answer(attempt_id=row.claim.attempt_id))
    await asyncio.sleep(61)
    await replica.ask()


async def dead_expired(house: House, replica: Replica) -> None:
    house.server.end(await house.import_(replica))
    await asyncio.sleep(90 * 86_400)
    await fail(replica)


async def dead_refused(house: House, replica: Replica) -> None:
    row = await expired(house, replica, ALICE, BOB)
    since = house.clock.now() - timedelta(hours=2)
    await replica.ask(BOB)
    house.grants.put(replace(row, refusals=4, refused_since=since))
    house.server.script(RefusedWithoutCode("x"))
    await fail(replica)


async def dead_lost(house: House, replica: Replica) -> None:
    row = await expired(house, replica)
    house.grants.put(replace(row, unfinished_generation=row.generation - 1))
    house.server.script(NO)
    await fail(replica)


async def guarded(house: House, replica: Replica) -> None:
    await expired(house, replica, ALICE, BOB, CAROL)
    house.server.always(NO)
    for grant in (ALICE, BOB, CAROL):
        await fail(replica, grant)


async def overtaken(house: House, replica: Replica) -> None:
    house.server.script(NO)
    async with under_way(house, replica):
        house.clock.advance(61)
        await house.import_(house.replica())


async def revoked_meanwhile(house: House, replica: Replica) -> None:
    async with under_way(house, replica):
        await house.replica().broker.revoke(VERSATURE, ALICE)


async def undecryptable(house: House, replica: Replica) -> None:
    house.grants.put(replace(await expired(house, replica), refresh_sealed=b"broken"))
    await fail(replica)


async def key_unavailable(house: House, replica: Replica) -> None:
    await expired(house, replica)
    with pytest.raises(BrokerError):
        await replica.ask(ALICE, replace(VERSATURE, sealed_secret=b"broken"))


async def no_claim(house: House, replica: Replica) -> None:
    async with under_way(house, replica) as flight:
        unclaimed = replace(await house.row(), claim=None)
        late, _ = house.replica().renewer.fly(VERSATURE, unclaimed)
        await asyncio.sleep(0.02)
    assert await late == await flight


async def circuit_open(house: House, replica: Replica) -> None:
    row = await claimed(house, replica)
    replica.breaker.trip(VERSATURE, ALICE.type, UpstreamUnavailable("x"), None)
    with pytest.raises(UpstreamUnavailable):
        await replica.renewer.fly_claimed(VERSATURE, row, house.clock.monotonic())


async def lease_too_short(house: House, replica: Replica) -> None:
    row = await claimed(house, replica)
    with pytest.raises(BrokerError):
        await replica.renewer.fly_claimed(VERSATURE, row, house.clock.monotonic() - 21)


async def store_unavailable(house: House, replica: Replica) -> None:
    await expired(house, replica)
    house.grants.away_for = {"claim"}
    await fail(replica)


async def escrow_unavailable(house: House, replica: Replica) -> None:
    await claimed(house, house.replica())
    house.copy.away = True
    await asyncio.sleep(61)
    await fail(replica)


async def broke_off(house: House, replica: Replica) -> None:
    async with under_way(house, replica) as flight:
        flight.cancel()


WAYS: list[tuple[Ending, Scenario]] = [
    (Ending.SAVED, saved),
    (Ending.ADOPTED, adopted),
    (Ending.ESCROWED, escrowed),
    (Ending.IN_MEMORY, in_memory),
    (Ending.DATABASE_BEHIND, database_behind),
    (Ending.RECOVERED, recovered),
    (Ending.NOT_SENT, after(NotSent("x"))),
    (Ending.AMBIGUOUS, after(Ambiguous("x"))),
    (Ending.AMBIGUOUS, after(Ambiguous("x", unreadable=True))),
    (Ending.AMBIGUOUS, after(Ambiguous("x"), THE_COMPANY)),
    (Ending.CLIENT_REFUSED, after(ClientRefused("x"))),
    (Ending.RATE_LIMITED, after(RateLimited("x"))),
    (Ending.REFUSED_WITHOUT_CODE, after(RefusedWithoutCode("x"))),
    (Ending.OTHER_REFUSAL, after(OtherRefusal("x"))),
    (Ending.INVALID_GRANT, after(NO, THE_COMPANY)),
    (Ending.DEAD_REFRESH_TOKEN_EXPIRED, dead_expired),
    (Ending.DEAD_REVOKED, after(NO)),
    (Ending.DEAD_REFUSED, dead_refused),
    (Ending.DEAD_LOST_IN_TRANSIT, dead_lost),
    (Ending.GUARDED, guarded),
    (Ending.OVERTAKEN, overtaken),
    (Ending.REVOKED_MEANWHILE, revoked_meanwhile),
    (Ending.UNDECRYPTABLE, undecryptable),
    (Ending.KEY_UNAVAILABLE, key_unavailable),
    (Ending.NO_CLAIM, no_claim),
    (Ending.CIRCUIT_OPEN, circuit_open),
    (Ending.LEASE_TOO_SHORT, lease_too_short),
    (Ending.STORE_UNAVAILABLE, store_unavailable),
    (Ending.STORE_UNAVAILABLE, escrow_unavailable),
    (Ending.BROKE_OFF, broke_off),
]


@pytest.mark.parametrize(("ending", "scenario"), WAYS, ids=[f"{place}-{way[0]}" for place, way in enumerate(WAYS)])
async def test_every_way_out_of_an_attempt_is_counted_once_and_under_its_own_name(
    house: House, replica: Replica, ending: Ending, scenario: Scenario
) -> None:
    await scenario(house, replica)
    assert house.tally.endings[ending] == 1
    assert house.tally.endings.total() == house.tally.ended.total()
    assert house.tally.ended == house.tally.began
    assert ending is Ending.BROKE_OFF or house.tally.endings[Ending.BROKE_OFF] == 0


def test_every_ending_is_reached_by_a_test_and_explained() -> None:
    assert {ending for ending, _ in WAYS} == set(Ending)
    assert all(ending.explanation for ending in Ending)


def leaves(kind: type[Outcome]) -> Iterator[type[Outcome]]:
    for heir in kind.__subclasses__():
        yield from leaves(heir) if heir.__subclasses__() else (heir,)


def test_whatever_comes_of_a_request_is_an_ending_of_its_attempt() -> None:
    found = set(leaves(Outcome))
    assert Refused not in found
    assert {kind.label for kind in found} <= set(Ending)


async def test_the_backgrounds_attempts_are_told_from_those_for_callers(house: House, replica: Replica) -> None:
    row = await claimed(house, replica)
    await replica.renewer.fly_claimed(VERSATURE, row, house.clock.monotonic())
    assert (house.tally.ended, house.tally.endings) == ({Origin.BACKGROUND: 1}, {Ending.SAVED: 1})
    await asyncio.sleep(3600)
    await replica.ask()
    assert house.tally.ended == {Origin.BACKGROUND: 1, Origin.REQUEST: 1}


async def test_callers_who_share_a_flight_make_one_attempt(house: House, replica: Replica) -> None:
    await expired(house, replica)
    await asyncio.gather(*(replica.ask() for _ in range(20)))
    assert (house.tally.began, house.tally.endings) == ({Origin.REQUEST: 1}, {Ending.SAVED: 1})
