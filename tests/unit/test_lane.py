"""What was decided once and is handed out without deciding again: only while every part of the decision still holds."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import pytest

from service.core import lane as lanes
from service.core.directory import Identity
from service.core.model import Caller, GrantId, Scope
from service.core.records import ApiKey
from service.core.sealing.digests import secret_digest
from service.core.upkeep.revalidation import Revalidator
from tests.support.replicas import ALICE, BOB, HOUR, VERSATURE, House, Replica

KEY, PATH = b"vtb_crm", b"/tokens/alice"
CRM = Caller("crm", frozenset({Scope.TOKENS}), ("*",), ("*",))
SECOND = timedelta(seconds=1)


async def admit(house: House, replica: Replica, *, expires_at: datetime | None = None) -> None:
    await house.rows.add_caller(CRM, ApiKey(secret_digest(KEY.decode()), "crm", expires_at))
    await replica.directory.check()


async def ask(replica: Replica, grant: GrantId = ALICE, min_ttl: timedelta | None = None) -> Identity:
    """As the route does it."""
    identity = await replica.directory.identify(KEY.decode())
    handout = await replica.ask(grant, min_ttl=min_ttl)
    replica.lane.offer((KEY, b"/tokens/" + grant.user.encode(), b""), identity, grant, handout.token, min_ttl)
    return identity


def taken(replica: Replica, path: bytes = PATH) -> str | None:
    found = replica.lane.take((KEY, path, b""))
    return None if found is None else found.token.value


async def tick(house: House, replica: Replica) -> None:
    await Revalidator(house.grants, replica.directory, replica.local, replica.lane, house.clock).tick()


@pytest.fixture
async def open_lane(house: House, replica: Replica) -> Replica:
    """A replica on whose lane alice's token can be had."""
    await admit(house, replica)
    await house.import_(replica)
    await ask(replica)
    assert taken(replica) is not None
    return replica


async def test_only_the_very_key_path_and_query_that_were_decided_are_answered(open_lane: Replica) -> None:
    for key in ((b"vtb_other", PATH, b""), (KEY, b"/tokens/%61lice", b""), (KEY, PATH, b"min_ttl=1")):
        assert open_lane.lane.take(key) is None


async def test_ticks_keep_the_lane_open_for_as_long_as_somebody_asks(house: House, open_lane: Replica) -> None:
    for _ in range(100):
        house.clock.advance(4 * SECOND)
        assert taken(open_lane) is not None
        await tick(house, open_lane)
    house.clock.advance(house.policy.local_cache)
    assert taken(open_lane) is None


CHANGES: dict[str, Callable[[House], Awaitable[object]]] = {
    "the caller goes": lambda house: house.rows.remove_caller("crm"),
    "the key goes": lambda house: house.rows.remove_key("crm", "first"),
    "another application comes": lambda house: house.rows.add_application(VERSATURE),
    "the grant is revoked": lambda house: house.replica().broker.revoke(VERSATURE, ALICE),
}
on_every_change = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


@on_every_change
async def test_a_change_elsewhere_is_seen_within_the_promise_even_if_no_tick_ever_comes(
    house: House, open_lane: Replica, change: Callable[[House], Awaitable[object]]
) -> None:
    await change(house)
    house.clock.advance(house.policy.local_cache - timedelta(milliseconds=1))
    assert taken(open_lane) is not None
    house.clock.advance(timedelta(milliseconds=1))
    assert taken(open_lane) is None


async def test_a_caller_that_goes_is_forgotten_in_time_though_its_token_was_confirmed_later(
    house: House, replica: Replica
) -> None:
    await admit(house, replica)
    await house.import_(replica)
    house.clock.advance(4 * SECOND)
    await ask(replica)
    await house.rows.remove_caller("crm")
    house.clock.advance(SECOND)
    assert taken(replica) is None


@on_every_change
async def test_a_clock_that_is_set_back_makes_no_decision_last_longer(
    house: House, open_lane: Replica, change: Callable[[House], Awaitable[object]]
) -> None:
    """Confirmations from the future tell nothing; the next one counts from the clock as it now is."""
    house.clock.advance(-HOUR / 2)
    assert taken(open_lane) is None
    await tick(house, open_lane)
    assert taken(open_lane) is not None
    await change(house)
    house.clock.advance(house.policy.local_cache)
    assert taken(open_lane) is None


@on_every_change
async def test_a_change_elsewhere_is_seen_by_the_next_tick(
    house: House, open_lane: Replica, change: Callable[[House], Awaitable[object]]
) -> None:
    await change(house)
    await tick(house, open_lane)
    assert taken(open_lane) is None


async def test_a_revocation_here_is_seen_at_once(open_lane: Replica) -> None:
    await open_lane.broker.revoke(VERSATURE, ALICE)
    assert taken(open_lane) is None


async def test_what_the_directory_learns_while_a_caller_waits_counts(house: House, replica: Replica) -> None:
    """A renewal may take seconds; the key it was asked with may be gone by then."""
    await admit(house, replica)
    await house.import_(replica)
    identity = await replica.directory.identify(KEY.decode())
    handout = await replica.ask()
    await house.rows.remove_caller("crm")
    await replica.directory.check()
    replica.lane.offer((KEY, PATH, b""), identity, ALICE, handout.token, None)
    assert taken(replica) is None


async def test_nothing_is_handed_out_after_the_keys_end(house: House, replica: Replica) -> None:
    await admit(house, replica, expires_at=house.clock.now() + 3 * SECOND)
    await house.import_(replica)
    await ask(replica)
    house.clock.advance(3 * SECOND - timedelta(milliseconds=1))
    assert taken(replica) is not None
    house.clock.advance(timedelta(milliseconds=1))
    assert taken(replica) is None


async def test_nothing_is_handed_out_that_lives_shorter_than_was_asked_for(house: House, replica: Replica) -> None:
    await admit(house, replica)
    await house.import_(replica)
    await ask(replica, min_ttl=HOUR / 2)
    for _ in range(449):
        house.clock.advance(4 * SECOND)
        assert taken(replica) is not None
        await tick(house, replica)
    house.clock.advance(4 * SECOND)
    assert taken(replica) is None


async def test_nothing_is_handed_out_once_renewal_is_due(house: House, open_lane: Replica) -> None:
    due_in = (await house.stored())[0].due_at - house.clock.now()  # type: ignore[union-attr]
    while due_in > 4 * SECOND:
        house.clock.advance(4 * SECOND)
        due_in -= 4 * SECOND
        assert taken(open_lane) is not None
        await tick(house, open_lane)
    house.clock.advance(due_in)
    await tick(house, open_lane)
    assert taken(open_lane) is None


async def test_during_a_flight_everybody_takes_the_long_way_and_afterwards_gets_the_new_token(
    house: House, open_lane: Replica
) -> None:
    before = taken(open_lane)
    assert before is not None
    silence = house.server.fall_silent()
    reporting = asyncio.create_task(open_lane.reject(before))
    await silence.arrived.wait()
    assert taken(open_lane) is None
    silence.release()
    renewed = (await reporting).token.value
    assert taken(open_lane) is None
    await ask(open_lane)
    assert taken(open_lane) == renewed != before


async def test_what_was_taken_is_counted_and_confirmed_once_it_is_collected(house: House, open_lane: Replica) -> None:
    open_lane.lane.collect()
    while open_lane.local.in_use():
        pass
    counted = house.on_the_lane
    for _ in range(4):
        taken(open_lane)
    for _ in range(2):
        open_lane.lane.collect()
    assert house.on_the_lane - counted == 4
    assert open_lane.local.in_use() == [ALICE]


async def test_the_seconds_left_are_cut_exactly_where_a_second_ends(house: House, replica: Replica) -> None:
    """As the route cuts them, which does not count in floats."""
    await admit(house, replica)
    for user in range(50):
        house.clock.advance(timedelta(microseconds=7919))
        grant = GrantId("versature", str(user))
        await house.import_(replica, grant)
        await replica.directory.check()
        await ask(replica, grant)
        found = []
        for micros in (0, 999_999, 1, 999_999, 1):
            house.clock.advance(timedelta(microseconds=micros))
            entry = replica.lane.take((KEY, f"/tokens/{user}".encode(), b""))
            found.append(entry and entry.expires_in)
        assert found == [3600, 3599, 3599, 3598, 3598]


async def test_a_pass_keeps_no_token_in_memory(house: House, open_lane: Replica) -> None:
    open_lane.local.drop(ALICE)
    gc.collect()
    assert all(found.entry() is None for found in open_lane.lane._passes._values.values())
    assert taken(open_lane) is None


async def test_passes_are_bounded_and_the_one_used_longest_ago_goes(
    house: House, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "MOST_PASSES", 2)
    replica = house.replica()
    carol = GrantId("versature", "carol")
    await admit(house, replica)
    for grant in (ALICE, BOB, carol):
        await house.import_(replica, grant)
    for grant in (ALICE, BOB):
        await ask(replica, grant)
    taken(replica)
    replica.lane.collect()
    await ask(replica, carol)
    found = [taken(replica, path) is not None for path in (PATH, b"/tokens/bob", b"/tokens/carol")]
    assert found == [True, False, True]
