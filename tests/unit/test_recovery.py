"""Rule 4: what waits in escrow is brought in at start, by whoever can read it, and never twice."""

import asyncio
import contextlib
from dataclasses import replace
from datetime import datetime

import pytest

from service.core.errors import BrokerError, ReauthorizationRequired, StoreUnavailable
from service.core.model import Application, GrantId, GrantState, SealedTokens, WaitingAnswer
from service.core.records import AuthorizationRequest, CachedToken
from service.core.redeeming.upstream import NotSent, RefusedWithoutCode
from tests.support.memory_stores import MemoryGrantStore
from tests.support.replicas import ALICE, BOB, HOUR, REDIRECT_URI, REVOCABLE, VERSATURE, House, Replica

TICKET = b"ticket"


async def wait(house: House, *answers: WaitingAnswer) -> Replica:
    """A process keeps *answers* and dies; the one that is started on its disk."""
    dead = house.replica()
    for answer in answers:
        await dead.custody.keep(answer)
    dead.die()
    return house.replica(spool=dead.spool)


async def started(house: House, replica: Replica, settings: Application = REVOCABLE) -> Replica:
    """Another process on the disk of *replica*, which knows its application."""
    other = house.replica(settings=settings, spool=replica.spool)
    await other.directory.check()
    return other


async def login(house: House, grant: GrantId = ALICE) -> WaitingAnswer:
    """The answer to a code, on its way."""
    request = AuthorizationRequest(TICKET, grant, "crm", None, house.clock.now() + HOUR)
    await house.requests.add(request)
    return house.answer(grant, generation=0, attempt_id="a login", ticket_digest=TICKET)


def nothing_waits(house: House, replica: Replica) -> bool:
    return not replica.spool.kept and not house.copy.kept and not replica.custody.count


async def test_a_renewals_answer_is_brought_in_at_start(house: House, replica: Replica) -> None:
    await house.import_(replica)
    await asyncio.sleep(3600)
    answer = house.answer()
    fresh = await wait(house, answer)
    await fresh.recovery.replay()
    row = await house.row()
    assert (row.generation, row.saved_attempt_id, row.claim) == (2, answer.attempt_id, None)
    assert nothing_waits(house, fresh)
    assert (await fresh.ask()).token == (await house.stored())[0]
    assert house.server.calls == []


async def test_any_replica_brings_in_what_it_finds_in_the_copy(house: House, replica: Replica) -> None:
    await house.import_(replica)
    await wait(house, house.answer())
    await replica.recovery.replay()
    assert (await house.row()).generation == 2
    assert house.copy.kept == {}


async def test_a_logins_answer_is_brought_in_and_its_request_completed(house: House) -> None:
    fresh = await wait(house, await login(house))
    await fresh.recovery.replay()
    row, request = await house.row(), await house.requests.find(TICKET)
    assert (row.generation, row.state) == (1, GrantState.CONNECTED)
    assert request is not None
    assert request.completed_at == house.clock.now()
    assert nothing_waits(house, fresh)


async def test_a_login_that_died_between_its_row_and_its_request_completes_the_request(house: House) -> None:
    answer = await login(house)
    await house.grants.connect(ALICE, answer.tokens, at=house.clock.now(), attempt_id=answer.attempt_id)
    fresh, before = await wait(house, answer), await house.row()
    await fresh.recovery.replay()
    request = await house.requests.find(TICKET)
    assert request is not None
    assert request.completed_at is not None
    assert await house.row() == before


@pytest.mark.parametrize("kind", ["renewal", "login"])
async def test_bringing_in_twice_changes_nothing(house: House, replica: Replica, kind: str) -> None:
    await house.import_(replica, BOB if kind == "login" else ALICE)
    answer = await login(house) if kind == "login" else house.answer()
    await (await wait(house, answer)).recovery.replay()
    before = await house.row()
    await asyncio.sleep(1)
    again = await wait(house, answer)
    await asyncio.gather(again.recovery.replay(), house.replica(spool=again.spool).recovery.replay())
    assert await house.row() == before
    assert nothing_waits(house, again)


async def test_more_than_are_brought_in_at_once_all_arrive(house: House, replica: Replica) -> None:
    users = [GrantId("versature", f"user-{number}") for number in range(25)]
    for user in users:
        await house.import_(replica, user)
    fresh = await wait(house, *(house.answer(user) for user in users))
    await fresh.recovery.replay()
    assert {(await house.row(user)).generation for user in users} == {2}
    assert nothing_waits(house, fresh)


async def test_what_waits_revives_a_grant_that_was_declared_dead_meanwhile(house: House, replica: Replica) -> None:
    house.server.end(await house.import_(replica))
    await asyncio.sleep(3600)
    with pytest.raises(ReauthorizationRequired):
        await replica.ask()
    fresh = await wait(house, house.answer())
    await fresh.recovery.replay()
    row = await house.row()
    assert (row.state, row.reason, row.generation) == (GrantState.CONNECTED, None, 2)
    assert (await fresh.ask()).token == (await house.stored())[0]


async def test_only_the_very_generation_it_is_based_on_takes_an_answer(house: House, replica: Replica) -> None:
    """Whether a later save, an import or a connect came meanwhile: what stands, stands."""
    await house.import_(replica)
    answer = house.answer()
    await asyncio.sleep(3600)
    await replica.ask()
    saved = await house.row()
    fresh = await wait(house, answer)
    await fresh.recovery.replay()
    assert await house.row() == saved
    assert nothing_waits(house, fresh)


async def test_an_import_that_came_meanwhile_beats_what_waits(house: House, replica: Replica) -> None:
    await house.import_(replica)
    answer = house.answer()
    await asyncio.sleep(1)
    refresh_token = await house.import_(replica)
    fresh = await wait(house, answer)
    await fresh.recovery.replay()
    assert (await house.stored())[1] == refresh_token
    assert nothing_waits(house, fresh)


async def test_a_connect_that_came_meanwhile_beats_what_waits(house: House, replica: Replica) -> None:
    await house.import_(replica)
    answer = house.answer()
    await asyncio.sleep(1)
    fresh = await wait(house, await login(house))
    await fresh.recovery.replay()
    before = await house.row()
    late = await wait(house, answer)
    await late.recovery.replay()
    assert await house.row() == before
    assert nothing_waits(house, late)


async def test_an_import_beats_a_login_that_waited_for_long(house: House, replica: Replica) -> None:
    answer = await login(house)
    await asyncio.sleep(1)
    refresh_token = await house.import_(replica)
    fresh = await wait(house, answer)
    await fresh.recovery.replay()
    assert (await house.stored())[1] == refresh_token
    assert nothing_waits(house, fresh)


async def test_an_import_over_a_database_that_went_back_is_not_undone_by_what_waits(
    house: House, replica: Replica
) -> None:
    """It is older than the import, although by chance the import's generation is the one it is based on."""
    await house.import_(replica)
    answer = house.answer(generation=2)
    await asyncio.sleep(1)
    refresh_token = await house.import_(replica)
    assert (await house.row()).generation == answer.generation
    fresh = await wait(house, answer)
    await fresh.recovery.replay()
    assert (await house.stored())[1] == refresh_token


async def revoked_with_an_answer_waiting(house: House, replica: Replica) -> tuple[Replica, str]:
    """A revoked grant, a process that finds an answer for it, and the answer's refresh token."""
    await house.import_(replica)
    answer = house.answer()
    [issued] = [token for token in house.server.good if f"access-beside-{token}".encode() in seal_of(answer)]
    await replica.broker.revoke(REVOCABLE, ALICE)
    return await wait(house, answer), issued


def seal_of(answer: WaitingAnswer) -> bytes:
    assert answer.tokens.access_sealed is not None
    return answer.tokens.access_sealed


async def test_over_a_revocation_what_waits_is_handed_back_to_the_provider(house: House, replica: Replica) -> None:
    dead, issued = await revoked_with_an_answer_waiting(house, replica)
    before, fresh = await house.row(), await started(house, dead)
    await fresh.recovery.replay()
    assert issued in house.server.revoked
    assert await house.row() == before
    assert await house.shared.get(ALICE) == CachedToken(2, None)
    assert nothing_waits(house, fresh)


async def test_what_could_not_be_handed_back_waits_until_the_provider_is_told(house: House, replica: Replica) -> None:
    dead, issued = await revoked_with_an_answer_waiting(house, replica)
    fresh = await started(house, dead)
    house.server.always(NotSent("x"))
    for _ in range(3):
        await fresh.recovery.replay()
        assert fresh.custody.holds(ALICE)
    assert issued not in house.server.revoked
    house.server.forget_script()
    await asyncio.sleep(30)
    await fresh.recovery.replay()
    assert house.server.revoked.count(issued) == 1
    assert nothing_waits(house, fresh)


async def test_what_is_to_be_handed_back_waits_until_the_applications_have_been_read(
    house: House, replica: Replica
) -> None:
    """Not to have read them yet is not the same as that the application is gone."""
    dead, issued = await revoked_with_an_answer_waiting(house, replica)
    fresh = house.replica(settings=REVOCABLE, spool=dead.spool)
    house.rows.away = True
    with pytest.raises(StoreUnavailable):
        await fresh.directory.check()
    with contextlib.suppress(StoreUnavailable):
        await fresh.recovery.replay()
    house.rows.away = False
    await fresh.directory.check()
    await fresh.recovery.replay()
    assert issued in house.server.revoked


async def test_what_nobody_can_hand_back_any_more_is_let_go(house: House, replica: Replica) -> None:
    dead, issued = await revoked_with_an_answer_waiting(house, replica)
    fresh = await started(house, dead, replace(VERSATURE, name="another"))
    await fresh.recovery.replay()
    assert issued not in house.server.revoked
    assert nothing_waits(house, fresh)


async def test_while_the_database_is_away_nothing_is_lost_and_nothing_else_hindered(
    house: House, replica: Replica
) -> None:
    await house.import_(replica)
    fresh = await wait(house, house.answer())
    house.grants.away_for = {"save"}
    with pytest.raises(StoreUnavailable):
        await fresh.recovery.replay()
    assert fresh.custody.holds(ALICE)
    house.grants.away_for = set()
    await fresh.recovery.replay()
    assert nothing_waits(house, fresh)


async def test_an_answer_that_does_not_open_keeps_no_other_from_arriving(house: House, replica: Replica) -> None:
    await house.import_(replica)
    await house.import_(replica, BOB)
    fresh = await wait(house, house.answer(ALICE), house.answer(BOB))
    for key, entry in list(fresh.spool.kept.items()):
        if entry.grant == ALICE:
            fresh.spool.kept[key] = house.copy.kept[key] = replace(entry, sealed=b"broken")
    await fresh.recovery.replay()
    assert ((await house.row(ALICE)).generation, (await house.row(BOB)).generation) == (1, 2)
    assert list(fresh.spool.kept) == [(ALICE, "an attempt")]


async def test_an_answer_that_is_just_being_saved_is_left_to_whoever_saves_it(house: House, replica: Replica) -> None:
    await house.import_(replica)
    await asyncio.sleep(3600)
    house.grants.away_for = {"save"}
    await replica.ask()
    saves = house.grants.calls["save"]
    await replica.recovery.replay()
    assert house.grants.calls["save"] == saves
    house.grants.away_for = set()
    assert await replica.saver.drain(HOUR) == 0
    assert nothing_waits(house, replica)


async def test_an_answer_for_a_row_that_is_gone_waits_and_raises_the_alarm(house: House) -> None:
    fresh = await wait(house, house.answer(generation=3))
    await fresh.recovery.replay()
    assert fresh.recovery.alarms == 1
    assert fresh.custody.holds(ALICE)
    with pytest.raises(BrokerError):
        await fresh.ask()
    assert house.server.calls == []


async def test_an_answer_that_finds_the_database_gone_back_is_kept_although_it_never_waited(
    house: House, replica: Replica
) -> None:
    await house.import_(replica)
    backup = await house.row()
    await asyncio.sleep(3600)
    await replica.ask()
    await asyncio.sleep(3600)
    silence = house.server.fall_silent()
    asking = asyncio.create_task(replica.ask())
    await silence.arrived.wait()
    house.grants.put(backup)
    silence.release()
    with contextlib.suppress(BrokerError):
        await asking
    [entry] = replica.spool.kept.values()
    assert (entry.grant, entry.generation) == (ALICE, 2)
    assert (await house.row()) == backup


async def test_a_login_that_waited_does_not_undo_a_revocation_two_seconds_later(house: House, replica: Replica) -> None:
    await house.import_(replica)
    await asyncio.sleep(1)
    answer = await login(house)
    fresh = await wait(house, answer)
    await asyncio.sleep(2)
    await replica.broker.revoke(REVOCABLE, ALICE)
    before = await house.row()
    fresh = await started(house, fresh)
    await fresh.recovery.replay()
    request = await house.requests.find(TICKET)
    assert request is not None
    assert (await house.row(), before.state, request.completed_at) == (before, GrantState.REVOKED, None)
    assert house.server.good == set()
    assert nothing_waits(house, fresh)


async def test_a_login_that_waited_does_not_undo_a_newer_one_two_seconds_later(house: House) -> None:
    fresh = await wait(house, await login(house))
    await asyncio.sleep(2)
    newer = house.answer(generation=0, attempt_id="a newer login", ticket_digest=TICKET)
    await house.grants.connect(ALICE, newer.tokens, at=house.clock.now(), attempt_id=newer.attempt_id)
    before = await house.row()
    await fresh.recovery.replay()
    assert await house.row() == before
    assert nothing_waits(house, fresh)


async def test_a_login_that_ends_while_the_grant_is_revoked_still_wins(house: House, replica: Replica) -> None:
    """Its person was there last, as far as anybody can tell."""
    await house.import_(replica)
    request = AuthorizationRequest(TICKET, ALICE, "crm", None, house.clock.now() + HOUR)
    await house.requests.add(request)
    silence = house.server.fall_silent()
    redeeming = asyncio.create_task(replica.exchange.redeem(VERSATURE, request, house.server.code(), REDIRECT_URI))
    await silence.arrived.wait()
    house.server.speak()
    await asyncio.sleep(1)
    await replica.broker.revoke(VERSATURE, ALICE)
    silence.release()
    await redeeming
    assert (await house.row()).state is GrantState.CONNECTED
    assert (await house.stored())[1] in house.server.good


async def test_a_day_of_a_provider_that_will_not_be_told_costs_few_requests_and_then_it_is_told(
    house: House, replica: Replica
) -> None:
    dead, issued = await revoked_with_an_answer_waiting(house, replica)
    fresh = await started(house, dead)
    house.server.calls.clear()
    house.server.always(RefusedWithoutCode("400"))
    for _ in range(24 * 360):
        await fresh.recovery.replay()
        await asyncio.sleep(10)
    assert 20 <= house.server.count("revocation") <= 35
    house.server.forget_script()
    await asyncio.sleep(3600)
    await fresh.recovery.replay()
    assert house.server.revoked.count(issued) == 1
    assert nothing_waits(house, fresh)


async def test_an_answer_ahead_of_the_database_is_neither_written_anew_nor_tried_every_round(
    house: House, replica: Replica
) -> None:
    await house.import_(replica)
    fresh = await wait(house, house.answer(generation=5))
    puts, saves = (fresh.spool.puts, house.copy.puts), house.grants.calls["save"]
    for _ in range(30 * 60):
        await fresh.recovery.replay()
        await asyncio.sleep(2)
    assert (fresh.spool.puts, house.copy.puts) == puts
    assert 6 <= house.grants.calls["save"] - saves <= 10
    assert len(fresh.spool.kept) == len(house.copy.kept) == 1


class Picky(MemoryGrantStore):
    """Its driver chokes on what is to be saved for `poison`."""

    poison: GrantId | None = None

    async def save(
        self, grant: GrantId, *, generation: int, attempt_id: str, tokens: SealedTokens, at: datetime
    ) -> bool:
        if grant == self.poison:
            raise ValueError("no such column")
        return await super().save(grant, generation=generation, attempt_id=attempt_id, tokens=tokens, at=at)


async def test_one_answer_that_breaks_whoever_touches_it_hinders_no_other(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.grants = grants = Picky(house.clock)
    replica = house.replica()
    users = [GrantId("versature", f"user-{number}") for number in range(25)]
    answers = []
    for user in users:
        await house.import_(replica, user)
        answers.append(house.answer(user))
        await asyncio.sleep(0.01)
    grants.poison = users[0]
    fresh = await wait(house, *answers)
    await fresh.recovery.replay()
    assert [(await house.row(user)).generation for user in users] == [1] + [2] * 24
    assert list(fresh.spool.kept) == [(users[0], "an attempt")]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    grants.poison = None
    await asyncio.sleep(60)
    await fresh.recovery.replay()
    assert nothing_waits(house, fresh)
