"""Rules 3 and 9: before a refresh token is used, whoever uses it knows that no answer has spent it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from service.core.condition.health import Readiness
from service.core.errors import BrokerError, ReauthorizationRequired, StoreUnavailable, UpstreamUnavailable
from service.core.model import AccessToken, GrantId, Reason, WaitingAnswer
from service.core.records import AuthorizationRequest
from service.core.sealing.vault import Vault
from tests.support.fake_server import Rotation
from tests.support.memory_ports import MemoryKeyring
from tests.support.replicas import ALICE, COMPANYS, HOUR, REDIRECT_URI, THE_COMPANY, VERSATURE, House, Replica

LEASE_AND_TAKEOVER = 61

Way = Callable[[House, Replica], Awaitable[AccessToken]]


async def by_a_caller(house: House, replica: Replica, user: GrantId = ALICE) -> AccessToken:
    flight, _ = replica.renewer.fly(VERSATURE, await house.row(user))
    return await flight


async def by_the_background(house: House, replica: Replica) -> AccessToken:
    """As soon as alice is due, and not set back any more."""
    await replica.directory.check()
    await house.queue.note_asked([ALICE], at=house.clock.now())
    row = await house.row()
    wake_at = max(at for at in (row.due_at, row.retry_at, house.clock.now()) if at is not None)
    await asyncio.sleep((wake_at - house.clock.now()).total_seconds())
    await replica.background.tick()
    flight, collapsed = replica.renewer.fly(VERSATURE, row)
    assert collapsed, "the background claimed nothing"
    return await flight


@pytest.fixture(params=[by_a_caller, by_the_background])
def fly(request: pytest.FixtureRequest) -> Way:
    way: Way = request.param
    return way


@pytest.fixture
def replica(house: House) -> Replica:
    return process(house)


def process(house: House) -> Replica:
    """One that knows its application, as the background has to."""
    return house.replica(settings=VERSATURE)


async def restore(house: House, replica: Replica, renewals: int = 1) -> None:
    """Let alice be renewed, and the database go back to how it was before; the caches know better."""
    house.server.rotation = Rotation.OFF
    await house.import_(replica)
    backup = await house.row()
    for _ in range(renewals):
        await by_a_caller(house, replica)
    house.grants.put(backup)
    house.server.calls.clear()


async def put_in_cache(house: House, generation: int, issued_at_ago: timedelta, keyring: MemoryKeyring) -> None:
    now = house.clock.now()
    token = AccessToken("foreign", None, now - issued_at_ago, now + HOUR, now + HOUR, generation)
    vault = Vault(keyring, house.policy, lambda: 0.0)
    await house.shared.put(ALICE, generation, vault.seal_cached(ALICE, token), HOUR)


def alarmed(replica: Replica, count: int) -> bool:
    return replica.recovery.alarms == count


async def test_an_answer_that_waits_is_brought_in_instead_of_redeeming(house: House, replica: Replica) -> None:
    await house.import_(replica)
    await asyncio.sleep(3600)
    await replica.custody.keep(house.answer())
    token = (await replica.ask()).token
    assert (token, token.generation) == ((await house.stored())[0], 2)
    assert house.server.calls == []
    assert not replica.custody.holds(ALICE)


async def test_an_answer_known_to_wait_that_cannot_be_looked_at_forbids_to_redeem(
    house: House, replica: Replica
) -> None:
    await house.import_(replica)
    await asyncio.sleep(3600)
    await replica.custody.keep(house.answer())
    replica.spool.away = True
    with pytest.raises(StoreUnavailable):
        await replica.ask()
    assert house.server.calls == []
    replica.spool.away = False
    assert (await replica.ask()).token.generation == 2
    assert house.server.calls == []


async def test_a_database_older_than_the_cache_is_an_alarm_and_nothing_is_sent(
    house: House, replica: Replica, fly: Way, caplog: pytest.LogCaptureFixture
) -> None:
    await restore(house, replica)
    fresh = process(house)
    assert (await fresh.recovery.health()).readiness is Readiness.READY
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await fly(house, fresh)
    assert house.server.calls == []
    await asyncio.sleep(0.1)
    assert alarmed(fresh, 1)
    health = await fresh.recovery.health()
    assert (health.readiness, health.detail) == (
        Readiness.DEGRADED,
        "1 grants are older than what has been handed out",
    )
    assert [record.levelname for record in caplog.records if "restored from a backup" in record.message] == ["CRITICAL"]
    assert (await house.row()).claim is None


async def test_the_newer_token_is_handed_out_meanwhile(house: House, replica: Replica) -> None:
    await restore(house, replica)
    assert (await house.replica().ask()).token.generation == 2
    assert house.server.calls == []


async def test_the_alarm_ends_with_an_import_even_of_a_lower_generation(
    house: House, replica: Replica, fly: Way
) -> None:
    await restore(house, replica, renewals=3)
    fresh = process(house)
    with pytest.raises(StoreUnavailable):
        await fly(house, fresh)
    await asyncio.sleep(1)
    await house.import_(fresh)
    await put_in_cache(house, 4, timedelta(seconds=1.5), house.keyring)
    assert (await fly(house, fresh)).generation == 3
    assert house.server.count("refresh") == 1
    assert alarmed(fresh, 0)


async def test_the_alarm_ends_with_a_connect(house: House, replica: Replica, fly: Way) -> None:
    await restore(house, replica, renewals=3)
    fresh = process(house)
    with pytest.raises(StoreUnavailable):
        await fly(house, fresh)
    await asyncio.sleep(1)
    request = AuthorizationRequest(b"ticket", ALICE, "crm", None, house.clock.now() + HOUR)
    await fresh.exchange.redeem(VERSATURE, request, house.server.code(), REDIRECT_URI)
    await put_in_cache(house, 4, timedelta(seconds=1.5), house.keyring)
    assert (await fly(house, fresh)).generation == 3
    assert alarmed(fresh, 0)


async def test_the_alarm_ends_by_itself_when_the_cached_token_is_gone(house: House, replica: Replica, fly: Way) -> None:
    await restore(house, replica)
    fresh = process(house)
    with pytest.raises(StoreUnavailable):
        await fly(house, fresh)
    await asyncio.sleep(3600)
    assert (await fly(house, fresh)).generation == 2
    assert house.server.count("refresh") == 1
    assert alarmed(fresh, 0)


async def test_what_a_database_that_went_back_has_spent_is_lost_by_us_however_many_grants_it_is(house: House) -> None:
    """What showed it, cached tokens, is gone by then; nobody takes the refusals for the users' will, or doubts them."""
    fresh = process(house)
    users = [GrantId(ALICE.application, name) for name in ("alice", "bob", "carol", "dave")]
    for user in users:
        await house.import_(fresh, user)
    backups = [await house.row(user) for user in users]
    for user in users:
        await by_a_caller(house, fresh, user)
    for backup in backups:
        house.grants.put(backup)
    fresh = process(house)
    for user in users:
        for told in ("older than what it was seen to hold", "being left alone for a while"):
            with pytest.raises(StoreUnavailable, match=told):
                await by_a_caller(house, fresh, user)
            await asyncio.sleep(0.1)
    await asyncio.sleep(3600)
    for user in users:
        with pytest.raises(ReauthorizationRequired) as refusal:
            await by_a_caller(house, fresh, user)
        assert refusal.value.reason is Reason.LOST_IN_TRANSIT


async def test_what_nobody_could_look_at_is_not_called_spent(house: House, replica: Replica, fly: Way) -> None:
    await restore(house, replica)
    fresh = process(house)
    fresh.spool.away = True
    with pytest.raises(StoreUnavailable):
        await fly(house, fresh)
    await asyncio.sleep(0.1)
    row = await house.row()
    assert (row.failures, row.unfinished_generation) == (1, None)


async def test_an_alarm_that_nobody_repeats_ends_after_a_while(house: House, replica: Replica, fly: Way) -> None:
    await restore(house, replica)
    with pytest.raises(StoreUnavailable):
        await fly(house, replica)
    await asyncio.sleep(599)
    assert alarmed(replica, 1)
    await asyncio.sleep(1)
    assert alarmed(replica, 0)
    assert (await replica.recovery.health()).readiness is Readiness.READY


async def test_an_escrow_entry_based_on_something_newer_is_the_same_alarm_and_stays(
    house: House, replica: Replica
) -> None:
    await house.import_(replica)
    await asyncio.sleep(3600)
    await replica.custody.keep(house.answer(generation=5))
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await replica.ask()
    assert house.server.calls == []
    assert alarmed(replica, 1)
    assert (replica.custody.holds(ALICE), len(replica.spool.kept)) == (True, 1)
    assert (await house.row()).generation == 1


async def test_that_alarm_too_ends_with_an_import_and_the_entry_is_let_go(
    house: House, replica: Replica, fly: Way
) -> None:
    await house.import_(replica)
    await replica.custody.keep(house.answer(generation=5))
    with pytest.raises(StoreUnavailable):
        await fly(house, replica)
    await asyncio.sleep(1)
    await house.import_(replica)
    assert (await fly(house, replica)).generation == 3
    assert not replica.custody.holds(ALICE)
    assert alarmed(replica, 0)


@pytest.mark.parametrize("restored", [False, True], ids=["its claim stands", "of its claim nothing is known"])
async def test_a_newer_token_whose_answer_waits_in_escrow_is_no_alarm(
    house: House, replica: Replica, fly: Way, restored: bool
) -> None:
    """It was published before the database took it, by a process that died since."""
    await house.import_(replica)
    await asyncio.sleep(3600)
    house.grants.away_for = {"save"}
    published = (await replica.ask()).token
    replica.die()
    house.grants.away_for = set()
    if restored:
        house.grants.put(replace(await house.row(), claim=None))
    await asyncio.sleep(LEASE_AND_TAKEOVER)
    other = process(house)
    assert (await fly(house, other)) == published
    assert (await house.row()).generation == 2
    assert alarmed(other, 0)
    assert house.server.count("refresh") == 1


async def test_a_cached_token_under_a_sealing_key_that_is_not_ours_is_no_alarm(
    house: House, replica: Replica, fly: Way
) -> None:
    await house.import_(replica)
    foreign = MemoryKeyring()
    foreign.sealing = "foreign"
    await put_in_cache(house, 9, timedelta(0), foreign)
    assert (await fly(house, replica)).generation == 2
    assert alarmed(replica, 0)


async def test_the_company_is_never_held_up(house: House, replica: Replica) -> None:
    await replica.ask(THE_COMPANY, COMPANYS)
    await replica.custody.keep(house.answer(THE_COMPANY, generation=7))
    replica.spool.away = True
    now = house.clock.now()
    newer = AccessToken("newer", None, now, now + HOUR, now + HOUR, 9)
    vault = Vault(house.keyring, house.policy, lambda: 0.0)
    await house.shared.put(THE_COMPANY, 9, vault.seal_cached(THE_COMPANY, newer), HOUR)
    house.grants.put(replace(await house.row(THE_COMPANY), unfinished_generation=1))
    flight, _ = replica.renewer.fly(COMPANYS, await house.row(THE_COMPANY))
    assert (await flight).generation == 2
    assert alarmed(replica, 0)


async def unfinished(house: House) -> tuple[WaitingAnswer, Replica]:
    """A process died over alice's renewal. What it would have saved, and itself."""
    dead = house.replica()
    await house.import_(dead)
    await asyncio.sleep(3600)
    silence = house.server.fall_silent()
    asking = asyncio.create_task(dead.ask())
    await silence.arrived.wait()
    asking.cancel()
    dead.life.over = True
    house.server.speak()
    claim = (await house.row()).claim
    assert claim is not None
    return house.answer(attempt_id=claim.attempt_id), dead


async def test_the_answer_of_a_dead_process_is_found_in_the_copy_and_its_token_served(
    house: House, replica: Replica
) -> None:
    answer, _ = await unfinished(house)
    another = house.replica()
    await another.custody.keep(answer)
    assert not replica.custody.holds(ALICE)
    await asyncio.sleep(LEASE_AND_TAKEOVER)
    token = (await replica.ask()).token
    assert (token, token.generation) == ((await house.stored())[0], 2)
    row = await house.row()
    assert (row.saved_attempt_id, row.claim) == (answer.attempt_id, None)
    assert house.server.count("refresh") == 1
    assert house.copy.kept == {}


@pytest.mark.parametrize("place", ["spool", "copy"])
async def test_over_an_unfinished_attempt_nothing_is_sent_while_escrow_cannot_be_looked_into(
    house: House, replica: Replica, place: str
) -> None:
    await unfinished(house)
    await asyncio.sleep(LEASE_AND_TAKEOVER)
    escrow = house.copy if place == "copy" else replica.spool
    escrow.away = True
    with pytest.raises(StoreUnavailable):
        await replica.ask()
    await asyncio.sleep(0.1)
    row = await house.row()
    assert (row.claim, row.unfinished_generation, row.generation) == (None, 1, 1)
    assert house.server.count("refresh") == 1
    with pytest.raises(StoreUnavailable):
        await replica.ask()
    assert house.server.count("refresh") == 1
    escrow.away = False
    assert await replica.errands.drain(HOUR) == 0
    await asyncio.sleep(1)
    with pytest.raises(Exception, match="lost"):
        await replica.ask()
    assert house.server.count("refresh") == 2


async def test_over_an_unfinished_attempt_an_answer_from_the_future_is_an_alarm(house: House, replica: Replica) -> None:
    answer, _ = await unfinished(house)
    await house.replica().custody.keep(replace(answer, generation=4))
    house.copy.kept.clear()
    other = house.replica()
    await other.custody.keep(house.answer(generation=4))
    await asyncio.sleep(LEASE_AND_TAKEOVER)
    with pytest.raises(StoreUnavailable):
        await replica.ask()
    await asyncio.sleep(0.1)
    assert (await house.row()).claim is None
    assert alarmed(replica, 1)
    assert house.server.count("refresh") == 1


@pytest.mark.parametrize("unfinished_generation", [None, 0], ids=["finished", "of an earlier generation"])
async def test_nobody_looks_into_escrow_over_anything_but_an_unfinished_attempt_of_this_generation(
    house: House, replica: Replica, unfinished_generation: int | None
) -> None:
    await house.import_(replica)
    house.grants.put(replace(await house.row(), unfinished_generation=unfinished_generation))
    await asyncio.sleep(3600)
    replica.spool.away = house.copy.away = True
    assert (await replica.ask()).token.generation == 2


async def test_a_probe_that_found_its_answer_in_escrow_leaves_its_place_to_the_next(
    house: House, replica: Replica
) -> None:
    answer, _ = await unfinished(house)
    await house.replica().custody.keep(answer)
    await asyncio.sleep(LEASE_AND_TAKEOVER)
    await half_open(replica)
    await replica.ask()
    assert (house.server.count("refresh"), replica.breaker.room(VERSATURE, ALICE.type)) == (1, 1)


async def test_a_probe_that_may_not_be_sent_for_want_of_escrow_leaves_its_place_to_the_next(
    house: House, replica: Replica
) -> None:
    await unfinished(house)
    await asyncio.sleep(LEASE_AND_TAKEOVER)
    await half_open(replica)
    house.copy.away = True
    with pytest.raises(StoreUnavailable):
        await replica.ask()
    assert (house.server.count("refresh"), replica.breaker.room(VERSATURE, ALICE.type)) == (1, 1)


async def half_open(replica: Replica) -> None:
    pause = replica.breaker.trip(VERSATURE, ALICE.type, UpstreamUnavailable("x"), None)
    await asyncio.sleep(pause.total_seconds())


@pytest.mark.parametrize("cached", [True, False], ids=["its token is cached", "nothing is cached"])
async def test_an_answer_that_is_only_in_memory_is_stored_before_anything_is_sent(
    house: House, replica: Replica, fly: Way, cached: bool
) -> None:
    house.server.rotation = Rotation.STRICT
    await house.import_(replica)
    await asyncio.sleep(3600)
    replica.spool.full = house.copy.full = True
    house.grants.away_for = {"save"}
    await replica.ask()
    if not cached:
        await house.shared.forget(ALICE, up_to=0)
    await asyncio.sleep(LEASE_AND_TAKEOVER)
    house.grants.away_for = set()  # and the saver has not tried again yet
    assert (await fly(house, replica)).generation == 2
    assert (house.server.count("refresh"), house.server.reused) == (1, [])
    assert not replica.custody.holds(ALICE)


async def leave_behind(house: House, damage: str) -> None:
    """An answer for alice in the copy that does not open."""
    if damage == "retired key":
        house.keyring.sealing = "retired"
        house.keyring.known.add("retired")
    await house.replica().custody.keep(house.answer())
    house.keyring.sealing = "k1"
    house.keyring.known = {"k1"}
    if damage == "broken seal":
        house.copy.kept = {key: replace(entry, sealed=b"broken") for key, entry in house.copy.kept.items()}


async def connect(house: House, replica: Replica) -> None:
    request = AuthorizationRequest(b"ticket", ALICE, "crm", None, house.clock.now() + HOUR)
    await replica.exchange.redeem(VERSATURE, request, house.server.code(), REDIRECT_URI)


@pytest.mark.parametrize("damage", ["retired key", "broken seal"])
@pytest.mark.parametrize("anew", [House.import_, connect], ids=["import", "connect"])
async def test_what_does_not_open_hinders_nobody_who_was_connected_anew_since(
    house: House, replica: Replica, fly: Way, damage: str, anew: Callable[[House, Replica], Awaitable[object]]
) -> None:
    await house.import_(replica)
    await leave_behind(house, damage)
    await asyncio.sleep(1)
    await anew(house, replica)
    await replica.recovery.replay()
    assert replica.custody.holds(ALICE)
    assert (await fly(house, replica)).generation == 3


@pytest.mark.parametrize(("damage", "code"), [("retired key", "key_unavailable"), ("broken seal", "store_unavailable")])
async def test_what_does_not_open_and_may_have_spent_the_token_forbids_to_send_it(
    house: House, replica: Replica, fly: Way, damage: str, code: str
) -> None:
    await house.import_(replica)
    await leave_behind(house, damage)
    await replica.recovery.replay()
    with pytest.raises(BrokerError) as caught:
        await fly(house, replica)
    assert caught.value.code == code
    assert house.server.calls == []


async def test_a_claim_given_back_for_want_of_escrow_is_a_setback_that_tells_callers_how_long(
    house: House, replica: Replica
) -> None:
    await unfinished(house)
    await asyncio.sleep(LEASE_AND_TAKEOVER)
    house.copy.away = True
    for failures in range(1, 6):
        with pytest.raises(StoreUnavailable):
            await replica.ask()
        await asyncio.sleep(0.01)
        row = await house.row()
        assert row.last_error is not None
        assert row.retry_at is not None
        assert (row.claim, row.failures, row.last_error.code) == (None, failures, "store_unavailable")
        claims = house.grants.calls["claim"]
        with pytest.raises(StoreUnavailable) as caught:
            await replica.ask()
        left = row.retry_at - house.clock.now()
        assert caught.value.retry_after == left
        assert left.total_seconds() == pytest.approx(2 ** (failures - 1), abs=0.02)
        assert house.grants.calls["claim"] == claims
        await asyncio.sleep(left.total_seconds())
    assert house.server.count("refresh") == 1
