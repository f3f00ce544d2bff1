"""Rule 4: what comes after a revocation or another login reaches nobody, however slow the database is meanwhile."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from service.core.errors import BrokerError, ReauthorizationRequired, RenewalInProgress, StoreUnavailable
from service.core.model import Grant, GrantId, Reason
from service.core.records import CachedToken
from service.core.redeeming.attempts import Ending
from service.core.redeeming.upstream import Ambiguous
from tests.support.replicas import ALICE, COMPANYS, HOUR, REVOCABLE, THE_COMPANY, VERSATURE, House, Replica

REVOCABLE_COMPANYS = replace(COMPANYS, revocation_url=REVOCABLE.revocation_url)
LONG_ENOUGH = timedelta(minutes=30)


async def log_in(house: House, replica: Replica, way: str) -> None:
    await (house.connect(replica) if way == "connect" else house.import_(replica))


async def cached_anywhere(house: House, replica: Replica) -> bool:
    return await house.shared_token() is not None or len(replica.local) > 0


async def test_over_a_revocation_the_row_is_read_where_it_cannot_be_written(house: House, replica: Replica) -> None:
    asking, silence = await house.held_answer(replica, REVOCABLE)
    await house.replica().broker.revoke(REVOCABLE, ALICE)
    await house.shared.forget(ALICE, up_to=0)
    house.grants.away_for = {"save"}
    silence.release()
    with pytest.raises(ReauthorizationRequired) as caught:
        await asking
    assert (caught.value.reason, caught.value.by_us) == (Reason.REVOKED, True)
    assert (await house.shared.get(ALICE), len(replica.local)) == (CachedToken(2, None), 0)
    assert house.tally.endings == {Ending.REVOKED_MEANWHILE: 1}
    assert len(replica.spool.kept) == 1
    house.grants.away_for = set()
    assert await replica.saver.drain(HOUR) == 0
    assert house.server.good == set()
    assert (replica.spool.kept, house.copy.kept) == ({}, {})


@pytest.mark.parametrize("trouble", ["is away", "hangs"])
@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_a_remembered_revocation_makes_callers_wait_for_what_the_database_says(
    house: House, replica: Replica, where: str, trouble: str
) -> None:
    """By this process, or by the tombstone in the shared cache."""
    asking, silence = await house.held_answer(replica, REVOCABLE)
    await (replica if where == "here" else house.replica()).broker.revoke(REVOCABLE, ALICE)
    if where == "here":
        await house.shared.forget(ALICE, up_to=0)
    gate = asyncio.Event()
    house.grants.away = trouble == "is away"
    if trouble == "hangs":
        house.grants.held = {"save": gate, "get": gate}
    silence.release()
    with pytest.raises(RenewalInProgress):
        await asking
    assert not await cached_anywhere(house, replica)
    again = asyncio.create_task(replica.ask(app=REVOCABLE))
    await asyncio.sleep(0)
    house.grants.away, house.grants.held = False, {}
    gate.set()
    with pytest.raises(ReauthorizationRequired):
        await again
    assert await replica.saver.drain(HOUR) == 0
    assert await replica.renewer.drain(HOUR) == 0
    assert not await cached_anywhere(house, replica)
    assert house.server.good == set()
    assert house.tally.endings == {Ending.REVOKED_MEANWHILE: 1}


@pytest.mark.parametrize("way", ["connect", "import"])
@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_another_login_after_a_revocation_is_what_callers_get(
    house: House, replica: Replica, where: str, way: str
) -> None:
    asking, silence = await house.held_answer(replica, REVOCABLE)
    other = replica if where == "here" else house.replica()
    await other.broker.revoke(REVOCABLE, ALICE)
    await log_in(house, other, way)
    house.grants.away_for = {"save"}
    silence.release()
    token = (await asking).token
    assert token == (await house.stored())[0]
    assert await house.shared_token() == token
    assert house.tally.endings == {Ending.ADOPTED: 1}


@pytest.mark.parametrize("way", ["connect", "import"])
@pytest.mark.parametrize("where", ["here", "elsewhere"])
@pytest.mark.parametrize("served", [False, True], ids=["nobody asked yet", "its token was handed out"])
async def test_another_login_after_a_revocation_is_remembered_while_the_database_cannot_be_asked(
    house: House, replica: Replica, where: str, served: bool, way: str
) -> None:
    asking, silence = await house.held_answer(replica, REVOCABLE)
    other = replica if where == "here" else house.replica()
    await other.broker.revoke(REVOCABLE, ALICE)
    await log_in(house, other, way)
    token = None
    if served:
        token = (await house.replica().ask(app=REVOCABLE)).token
        assert await house.shared_token() == token
    house.grants.away = True
    silence.release()
    with pytest.raises(RenewalInProgress):
        await asking
    assert await house.shared_token() == token
    house.grants.away = False
    assert await replica.renewer.drain(HOUR) == 0
    assert (await replica.ask(app=REVOCABLE)).token == (await house.stored())[0]


async def test_an_answer_handed_out_from_escrow_is_withdrawn_everywhere_once_another_login_won(
    house: House, replica: Replica
) -> None:
    asking, silence = await house.held_answer(replica)
    house.grants.away_for = {"save"}
    silence.release()
    token = (await asking).token
    assert await house.shared_token() == token
    await house.import_(house.replica())
    assert await house.shared_token() is None
    house.grants.away_for = set()
    assert await replica.saver.drain(HOUR) == 0
    house.grants.away = True
    with pytest.raises(StoreUnavailable):
        await replica.ask()


@pytest.mark.parametrize("way", ["connect", "import"])
async def test_a_login_that_is_repeated_after_a_revocation_lets_nothing_in_again(
    house: House, replica: Replica, way: str
) -> None:
    """An import that is retried, or an answer to a login that was stored before and lies in escrow still."""
    refresh_token, other = await house.import_(replica), house.replica()
    repeated = house.answer(generation=0, attempt_id="a login", ticket_digest=b"ticket")
    if way == "connect":
        await other.saver.settle(repeated)
    generation = (await house.row()).generation
    await asyncio.sleep(3600)
    silence = house.server.fall_silent()
    asking = asyncio.create_task(replica.ask(app=REVOCABLE))
    await silence.arrived.wait()
    house.server.speak()
    await other.broker.revoke(REVOCABLE, ALICE)
    if way == "connect":
        await other.saver.settle(repeated)
    else:
        await other.broker.import_(
            VERSATURE, ALICE, refresh_token=refresh_token, access_token=None, expires_in=None, scope=None
        )
    assert await house.shared.get(ALICE) == CachedToken(generation + 1, None)
    house.grants.away = True
    silence.release()
    with pytest.raises(RenewalInProgress):
        await asking
    house.grants.away = False
    assert await replica.renewer.drain(HOUR) == 0


async def test_an_answer_that_is_settled_while_the_shared_cache_is_asked_comes_to_what_its_row_says(
    house: House, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking, silence = await house.held_answer(replica, REVOCABLE)
    await house.replica().broker.revoke(REVOCABLE, ALICE)
    house.grants.away, remembered = True, await house.shared.get(ALICE)

    async def slowly(_grant: GrantId) -> CachedToken | None:
        house.grants.away = False
        monkeypatch.undo()
        assert await replica.saver.drain(HOUR) == 0
        return remembered

    monkeypatch.setattr(house.shared, "get", slowly)
    silence.release()
    with pytest.raises(ReauthorizationRequired) as caught:
        await asking
    assert caught.value.by_us


async def test_a_shared_token_of_a_revoked_grant_is_buried_by_whoever_finds_it(house: House, replica: Replica) -> None:
    await house.import_(replica)
    token = (await replica.ask()).token
    await replica.broker.revoke(VERSATURE, ALICE)
    await house.shared.forget(ALICE, up_to=0)
    await house.shared.put(ALICE, token.generation, replica.vault.seal_cached(ALICE, token), HOUR)
    with pytest.raises(ReauthorizationRequired):
        await house.replica().ask()
    assert await house.shared.get(ALICE) == CachedToken(2, None)


async def test_a_revocation_that_only_a_restored_database_remembers_withholds_no_answer(
    house: House, replica: Replica
) -> None:
    await house.import_(replica)
    await house.replica().broker.revoke(VERSATURE, ALICE)
    backup = await house.row()
    asking, silence = await house.held_answer(replica)
    house.grants.put(backup)
    house.grants.away_for = {"save"}
    silence.release()
    assert (await asking).token.generation == 4


async def test_a_revived_companys_answer_does_not_come_too_late_for_the_revocation_before(
    house: House, replica: Replica
) -> None:
    """A revival is no new generation."""
    await replica.ask(THE_COMPANY, COMPANYS)
    await replica.broker.revoke(COMPANYS, THE_COMPANY)
    await house.grants.revive(THE_COMPANY)
    silence = house.server.fall_silent()
    asking = asyncio.create_task(replica.ask(THE_COMPANY, COMPANYS))
    await silence.arrived.wait()
    house.server.speak()
    house.grants.away = True
    silence.release()
    assert (await asking).token.generation == 3


async def test_whatever_reading_the_row_comes_to_the_callers_get_the_answer_and_saving_goes_on(
    house: House, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_arguments: Any) -> Grant | None:
        raise RuntimeError("cached plan must not change result type")

    asking, silence = await house.held_answer(replica)
    house.grants.away_for = {"save"}
    with monkeypatch.context() as broken:
        broken.setattr(house.grants, "get", fail)
        silence.release()
        token = (await asking).token
    assert await replica.saver.drain(timedelta(0)) == 1
    house.grants.away_for = set()
    assert await replica.saver.drain(HOUR) == 0
    assert (await house.stored())[0] == token


async def test_an_answer_is_in_escrow_before_the_row_is_read_and_nobody_waits_for_a_row_longer_than_for_saving(
    house: House, replica: Replica
) -> None:
    asking, silence = await house.held_answer(replica)
    saving, reading = asyncio.Event(), asyncio.Event()
    house.grants.held = {"save": saving, "get": reading}
    reads = house.grants.calls["get"]
    silence.release()
    await asyncio.sleep(house.policy.save_patience.total_seconds() * 1.1)
    assert (len(replica.spool.kept), house.grants.calls["get"] - reads, asking.done()) == (1, 1, False)
    saving.set()
    answered_at = house.clock.monotonic()
    await asking
    assert house.clock.monotonic() == answered_at
    reading.set()
    assert await replica.saver.drain(HOUR) == 0


async def test_a_row_that_hangs_costs_the_callers_no_more_than_saving_may(house: House, replica: Replica) -> None:
    asking, silence = await house.held_answer(replica)
    gate = asyncio.Event()
    house.grants.held = {"save": gate, "get": gate}
    silence.release()
    released_at = house.clock.monotonic()
    assert (await asking).token.generation == 2
    patience = house.policy.save_patience.total_seconds()
    assert house.clock.monotonic() - released_at == pytest.approx(2 * patience)
    gate.set()
    assert await replica.saver.drain(HOUR) == 0


# The old token of a grant that is revoked while a renewal is under way


@pytest.mark.parametrize("way", ["takes long", "breaks off"])
async def test_a_revocation_here_keeps_the_old_token_from_those_who_wait_for_a_new_one(
    house: House, replica: Replica, way: str
) -> None:
    await house.import_(replica)
    await asyncio.sleep(3000)
    silence = house.server.fall_silent()
    if way == "breaks off":
        house.server.script(Ambiguous("broke off"))
    asking = asyncio.create_task(replica.ask(app=REVOCABLE))
    await silence.arrived.wait()
    house.server.speak()
    await replica.broker.revoke(REVOCABLE, ALICE)
    if way == "breaks off":
        silence.release()
    with pytest.raises(BrokerError):
        await asking
    silence.release()


async def test_a_late_answer_over_a_revocation_takes_the_old_token_along(house: House, replica: Replica) -> None:
    """It was good for other callers until then: the row was not asked again yet."""
    await house.import_(replica)
    await asyncio.sleep(2000)
    await replica.ask(app=REVOCABLE)
    silence = house.server.fall_silent()
    asking = asyncio.create_task(replica.ask(app=REVOCABLE, min_ttl=LONG_ENOUGH))
    await silence.arrived.wait()
    house.server.speak()
    await house.replica().broker.revoke(REVOCABLE, ALICE)
    house.grants.away_for = {"save"}
    silence.release()
    with pytest.raises(ReauthorizationRequired):
        await asking
    house.grants.away = True
    with pytest.raises(StoreUnavailable):
        await replica.ask(app=REVOCABLE)


async def test_a_shared_token_that_outlived_its_revocation_is_not_handed_out_by_whoever_revoked_it(
    house: House, replica: Replica
) -> None:
    """The shared cache missed its tombstone, and is asked again when the database cannot be."""
    await house.import_(replica)
    token = (await replica.ask()).token
    await replica.broker.revoke(VERSATURE, ALICE)
    await house.shared.forget(ALICE, up_to=0)
    sealed = replica.vault.seal_cached(ALICE, token)
    await house.shared.put(ALICE, token.generation, sealed, HOUR)
    house.grants.away = True
    with pytest.raises(StoreUnavailable):
        await replica.ask()


@pytest.mark.parametrize(("grant", "app"), [(ALICE, REVOCABLE), (THE_COMPANY, REVOCABLE_COMPANYS)])
async def test_who_waits_for_another_replica_gets_nothing_of_a_revoked_grant(
    house: House, replica: Replica, grant: GrantId, app: Any
) -> None:
    """The company's row keeps its token until the provider knows: it has nothing else to be told by."""
    if grant == ALICE:
        await house.import_(replica)
    await replica.ask(grant, app)
    await asyncio.sleep(2000)
    waiting = house.replica()
    silence = house.server.fall_silent()
    asking = asyncio.create_task(replica.ask(grant, app, LONG_ENOUGH))
    await silence.arrived.wait()
    outside = asyncio.create_task(waiting.ask(grant, app, LONG_ENOUGH))
    await asyncio.sleep(0.5)
    revoking = asyncio.create_task(house.replica().broker.revoke(app, grant))
    with pytest.raises(ReauthorizationRequired):
        await outside
    house.server.speak()
    silence.release()
    with pytest.raises(ReauthorizationRequired):
        await asking
    await revoking
