"""What is counted, what is written down, and what becomes of it while the database is away."""

import asyncio
import gc
import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise

import pytest

from service.core.audit import AT_ONCE, MOST_HANDOUTS, MOST_WAITING, ROWS_AT_ONCE, STRANGER, Actor, Audit, acting
from service.core.audit_store import Action, AuditEntry
from service.core.errors import StoreUnavailable
from service.core.model import GrantId
from tests.support.memory_audit import MemoryAuditStore
from tests.support.replicas import ALICE, BOB, THE_COMPANY
from tests.support.virtual_time import VirtualClock

MINUTE = timedelta(minutes=1)


class ForgetfulLine(MemoryAuditStore):
    """Writes, loses the acknowledgement while `deaf`, fails once after `takes`; remembers how much it took at once."""

    def __init__(self) -> None:
        super().__init__()
        self.deaf = False
        self.takes: int | None = None
        self.sent: list[int] = []
        self.forgotten: list[int] = []

    async def put(self, entries: Sequence[AuditEntry]) -> None:
        if self.takes == len(self.sent):
            self.takes = None
            raise StoreUnavailable
        self.sent.append(len(entries))
        await super().put(entries)
        if self.deaf:
            raise StoreUnavailable

    async def forget(self, before: datetime, *, limit: int) -> int:
        self.forgotten.append(await super().forget(before, limit=limit))
        return self.forgotten[-1]


@pytest.fixture
def rows() -> ForgetfulLine:
    return ForgetfulLine()


@pytest.fixture
def audit(rows: ForgetfulLine, clock: VirtualClock) -> Audit:
    return Audit(rows, clock)


Told = tuple[int, str, str | None, str | None, str | None, int]


def told(rows: MemoryAuditStore, clock: VirtualClock) -> list[Told]:
    """Minute since the start, caller, application, user, code and how often."""
    start = clock.now() - timedelta(seconds=clock.monotonic())
    return sorted(
        ((one.at - start) // MINUTE, one.caller, one.application, one.user, one.code, one.times)
        for one in rows.rows.values()
    )


async def test_hand_outs_are_counted_by_caller_user_and_application(
    audit: Audit, rows: ForgetfulLine, clock: VirtualClock
) -> None:
    for caller, grant, times in (("crm", ALICE, 3), ("crm", BOB, 1), ("billing", ALICE, 2), ("crm", THE_COMPANY, 1)):
        for _ in range(times):
            audit.handed_out(caller, grant)
    audit.handed_out("crm", ALICE, Action.REJECTED)
    await audit.flush()
    assert told(rows, clock) == [
        (0, "billing", "versature", "alice", None, 2),
        (0, "crm", "company", "@company", None, 1),
        (0, "crm", "versature", "alice", None, 1),
        (0, "crm", "versature", "alice", None, 3),
        (0, "crm", "versature", "bob", None, 1),
    ]
    assert {one.action for one in rows.rows.values() if one.times == 1} == {Action.TOKEN, Action.REJECTED}


async def test_a_count_is_absolute_and_grows_in_its_own_row(
    audit: Audit, rows: ForgetfulLine, clock: VirtualClock
) -> None:
    for times in (1, 2, 3):
        audit.handed_out("crm", ALICE)
        await audit.flush()
        assert told(rows, clock) == [(0, "crm", "versature", "alice", None, times)]


async def test_a_flush_whose_acknowledgement_was_lost_counts_once(
    audit: Audit, rows: ForgetfulLine, clock: VirtualClock
) -> None:
    audit.handed_out("crm", ALICE)
    rows.deaf = True
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await audit.flush()
    await audit.note(Action.REVOKED, grant=ALICE)
    rows.deaf = False
    audit.handed_out("crm", ALICE)
    await audit.flush()
    assert sorted(one.times for one in rows.rows.values()) == [1, 2]
    assert audit.backlog == 0


async def test_nothing_new_is_written_twice(audit: Audit, rows: ForgetfulLine) -> None:
    audit.handed_out("crm", ALICE)
    await audit.flush()
    await audit.flush()
    assert rows.sent == [1]


async def test_every_minute_has_rows_of_its_own(audit: Audit, rows: ForgetfulLine, clock: VirtualClock) -> None:
    audit.handed_out("crm", ALICE)
    await audit.flush()
    clock.advance(59.9)
    audit.handed_out("crm", ALICE)
    clock.advance(0.1)
    audit.handed_out("crm", ALICE)
    audit.handed_out("crm", BOB)
    clock.advance(MINUTE * 3)
    audit.refused("crm", "not_allowed", "alice")
    await audit.flush()
    assert told(rows, clock) == [
        (0, "crm", "versature", "alice", None, 2),
        (1, "crm", "versature", "alice", None, 1),
        (1, "crm", "versature", "bob", None, 1),
        (4, "crm", None, "alice", "not_allowed", 1),
    ]


async def test_a_clock_that_goes_back_overwrites_nothing(
    audit: Audit, rows: ForgetfulLine, clock: VirtualClock
) -> None:
    for _ in range(5):
        audit.handed_out("crm", ALICE)
    clock.advance(MINUTE)
    audit.handed_out("crm", BOB)
    clock.advance(timedelta(seconds=-30))
    audit.handed_out("billing", BOB)
    await audit.flush()
    clock.advance(MINUTE)
    assert [row[1:] for row in told(rows, clock)] == [
        ("crm", "versature", "alice", None, 5),
        ("billing", "versature", "bob", None, 1),
        ("crm", "versature", "bob", None, 1),
    ]


async def test_two_processes_never_write_each_others_rows(rows: ForgetfulLine, clock: VirtualClock) -> None:
    one, other = Audit(rows, clock), Audit(rows, clock)
    for audit in (one, other, other):
        audit.handed_out("crm", ALICE)
        await audit.note(Action.IMPORTED, grant=ALICE)
    for audit in (one, other):
        await audit.flush()
    assert sorted(row.times for row in rows.rows.values() if row.action is Action.TOKEN) == [1, 2]
    assert sum(row.action is Action.IMPORTED for row in rows.rows.values()) == 3


async def test_a_hundred_different_refusals_a_minute_are_told_apart_and_the_others_counted_together(
    audit: Audit, rows: ForgetfulLine, clock: VirtualClock
) -> None:
    for number in range(100_000):
        audit.refused("crm", "not_allowed", f"user-{number}")
    for _ in range(7):
        audit.refused("crm", "not_allowed", "user-5")
    audit.refused("billing", "not_allowed", "alice")
    audit.refused(STRANGER, "invalid_api_key")
    await audit.flush()
    users = [one for one in rows.rows.values() if one.user is not None]
    assert len(users) == 100
    assert sorted((one.caller, one.code, one.times) for one in rows.rows.values() if one.user is None) == [
        (STRANGER, "invalid_api_key", 1),
        ("billing", "not_allowed", 1),
        ("crm", "not_allowed", 99_900),
    ]
    assert rows.rows[next(one.id for one in users if one.user == "user-5")].times == 8
    clock.advance(MINUTE)
    audit.refused("crm", "not_allowed", "user-99999")
    await audit.flush()
    assert len(rows.rows) == 104
    assert any(one.user == "user-99999" for one in rows.rows.values())


async def test_hand_outs_of_more_users_than_a_process_tells_apart_are_counted_together_by_caller(
    audit: Audit, rows: ForgetfulLine
) -> None:
    for number in range(MOST_HANDOUTS + 40):
        audit.handed_out("crm", GrantId("versature", f"user-{number}"))
    audit.handed_out("crm", GrantId("versature", "user-3"))
    await audit.flush()
    assert len(rows.rows) == MOST_HANDOUTS + 1
    assert [one.user for one in rows.rows.values() if one.times == 2] == ["user-3"]
    [rest] = [one for one in rows.rows.values() if one.user is None]
    assert (rest.caller, rest.application, rest.times) == ("crm", None, 40)


async def test_nothing_is_lost_while_the_database_is_away(
    audit: Audit, rows: ForgetfulLine, clock: VirtualClock
) -> None:
    rows.away = True
    for minute in range(10):
        audit.handed_out("crm", ALICE)
        audit.refused("crm", "not_allowed", "bob")
        await audit.note(Action.IMPORTED, grant=ALICE)
        with pytest.raises(StoreUnavailable):
            await audit.flush()
        assert audit.backlog == 3 * (minute + 1)
        clock.advance(MINUTE)
    rows.away = False
    await audit.flush()
    assert (audit.backlog, audit.given_up, len(rows.rows)) == (0, 0, 30)
    assert sum(one.times for one in rows.rows.values()) == 30


async def test_what_piled_up_is_written_in_pieces_that_any_database_takes_in_time(
    audit: Audit, rows: ForgetfulLine
) -> None:
    for number in range(10 * ROWS_AT_ONCE + 1):
        audit.handed_out("crm", GrantId("versature", f"user-{number}"))
    await audit.flush()
    assert rows.sent == [ROWS_AT_ONCE] * 10 + [1]
    assert audit.backlog == 0


async def test_a_database_that_fails_half_way_through_is_not_sent_again_what_it_took(
    audit: Audit, rows: ForgetfulLine
) -> None:
    """Else a backlog that it cannot take in one go would never become less."""
    rows.takes = 3
    for number in range(4 * ROWS_AT_ONCE):
        audit.handed_out("crm", GrantId("versature", f"user-{number}"))
    with pytest.raises(StoreUnavailable):
        await audit.flush()
    assert (audit.backlog, len(rows.rows)) == (ROWS_AT_ONCE, 3 * ROWS_AT_ONCE)
    await audit.flush()
    assert (audit.backlog, len(rows.rows)) == (0, 4 * ROWS_AT_ONCE)
    assert {one.times for one in rows.rows.values()} == {1}


async def test_what_is_counted_while_a_flush_is_under_way_is_in_the_next_one(clock: VirtualClock) -> None:
    class Slow(MemoryAuditStore):
        async def put(self, entries: Sequence[AuditEntry]) -> None:
            await super().put(entries)
            busy.handed_out("crm", ALICE)

    rows = Slow()
    busy = Audit(rows, clock)
    busy.handed_out("crm", ALICE)
    await busy.flush()
    assert (busy.backlog, [one.times for one in rows.rows.values()]) == (1, [1])
    await busy.flush()
    assert [one.times for one in rows.rows.values()] == [2]


async def test_the_oldest_are_given_up_and_counted_when_too_much_waits(audit: Audit, rows: ForgetfulLine) -> None:
    rows.away = True
    for number in range(MOST_WAITING + 3):
        await audit.note(Action.IMPORTED, subject=str(number))
    with pytest.raises(StoreUnavailable):
        await audit.flush()
    assert (audit.backlog, audit.given_up) == (MOST_WAITING, 3)
    rows.away = False
    await audit.flush()
    assert next(iter(rows.rows.values())).subject == "3"


async def test_draining_writes_what_is_left_and_says_how_much_it_could_not(audit: Audit, rows: ForgetfulLine) -> None:
    audit.handed_out("crm", ALICE)
    assert await audit.drain(timedelta(seconds=1)) == 0
    assert len(rows.rows) == 1
    rows.away = True
    audit.handed_out("crm", ALICE)
    audit.refused(STRANGER, "invalid_api_key")
    assert await audit.drain(timedelta(seconds=1)) == 2


async def test_draining_ends_in_time_although_the_database_hangs(clock: VirtualClock) -> None:
    class Hanging(MemoryAuditStore):
        async def put(self, entries: Sequence[AuditEntry]) -> None:
            await clock.sleep(timedelta(hours=1))

    audit = Audit(Hanging(), clock)
    audit.handed_out("crm", ALICE)
    assert await audit.drain(timedelta(seconds=2)) == 1
    assert clock.monotonic() == pytest.approx(2)


async def test_the_old_is_forgotten_in_bounded_pieces(audit: Audit, rows: ForgetfulLine, clock: VirtualClock) -> None:
    for _ in range(2 * ROWS_AT_ONCE + 2):
        await audit.note(Action.IMPORTED, grant=ALICE)
    clock.advance(timedelta(days=2))
    await audit.note(Action.IMPORTED, grant=BOB)
    await audit.forget(timedelta(days=1))
    assert rows.forgotten == [ROWS_AT_ONCE, ROWS_AT_ONCE, 2]
    assert [one.user for one in rows.rows.values()] == ["bob"]


async def test_an_event_is_written_before_its_request_is_answered_with_who_acted_and_the_requests_id(
    audit: Audit, rows: ForgetfulLine, clock: VirtualClock
) -> None:
    acting.set(Actor("ops", "request-1"))
    await audit.note(Action.KEY_ADDED, subject="crm 01ab")
    [event] = rows.rows.values()
    assert event == AuditEntry(
        event.id, clock.now(), "ops", Action.KEY_ADDED, subject="crm 01ab", request_id="request-1"
    )
    await audit.note(Action.CONNECTED, grant=ALICE, caller="crm", code="x")
    newest = list(rows.rows.values())[-1]
    assert (newest.caller, newest.application, newest.user, newest.code) == ("crm", "versature", "alice", "x")
    assert audit.backlog == 0


async def test_an_event_of_nobody_in_particular_is_a_strangers(audit: Audit, rows: ForgetfulLine) -> None:
    await audit.note(Action.REVOKED, grant=ALICE)
    [event] = rows.rows.values()
    assert (event.caller, event.request_id) == (STRANGER, None)


async def test_events_and_finished_minutes_are_told_to_the_log(
    audit: Audit, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    audit.name_user = lambda user: f"somebody of {len(user)} letters"
    caplog.set_level(logging.INFO, logger="service.core.audit")
    acting.set(Actor("ops", "request-1"))
    await audit.note(Action.REVOKED, grant=ALICE, code="pending")
    for _ in range(3):
        audit.handed_out("crm", ALICE)
        audit.refused(STRANGER, "invalid_api_key")
    await audit.flush()
    assert len(caplog.records) == 1
    clock.advance(MINUTE)
    await audit.flush()
    names = ("action", "caller", "application", "user", "subject", "code", "times")
    lines = [{name: vars(record)[name] for name in names if name in vars(record)} for record in caplog.records]
    assert {record.getMessage() for record in caplog.records} == {"audit"}
    alice = {"application": "versature", "user": "somebody of 5 letters"}
    assert lines == [
        {"action": "revoked", "caller": "ops", **alice, "code": "pending", "times": 1},
        {"action": "token", "caller": "crm", **alice, "times": 3},
        {"action": "refused", "caller": "-", "code": "invalid_api_key", "times": 3},
    ]


async def test_the_counts_of_a_minute_are_told_by_a_flush_and_not_in_the_name_of_whoever_asks_next(
    audit: Audit, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="service.core.audit")
    audit.handed_out("crm", ALICE)
    clock.advance(MINUTE)
    audit.handed_out("billing", BOB)
    assert caplog.records == []
    for _ in range(2):
        await audit.flush()
    assert [vars(record)["caller"] for record in caplog.records] == ["crm"]


async def test_the_last_minute_is_told_to_the_log_too(
    audit: Audit, rows: ForgetfulLine, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="service.core.audit")
    audit.handed_out("crm", ALICE)
    clock.advance(MINUTE)
    await audit.flush()
    audit.handed_out("crm", ALICE)
    await audit.flush()
    audit.handed_out("crm", ALICE)
    audit.handed_out("billing", BOB)
    rows.away = True
    assert await audit.drain(timedelta(seconds=1)) == 2
    lines = [(vars(record)["caller"], vars(record)["times"]) for record in caplog.records]
    assert lines == [("crm", 1), ("crm", 2), ("billing", 1)]
    first, *_, last = (datetime.fromisoformat(vars(record)["at"]) for record in caplog.records)
    assert last - first == MINUTE, "the line of a count tells its minute"


async def test_many_lines_of_the_log_let_requests_through_between_them(
    audit: Audit, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="service.core.audit")
    users = 20 * AT_ONCE + 1
    for number in range(users):
        audit.handed_out("crm", GrantId("versature", f"user-{number}"))
    clock.advance(MINUTE)
    telling, seen = asyncio.create_task(audit.flush()), [0]
    while not telling.done():
        await asyncio.sleep(0)
        seen.append(len(caplog.records))
    assert seen[-1] == users
    assert max(after - before for before, after in pairwise(seen)) <= AT_ONCE


async def test_lines_that_were_not_told_before_the_end_are_told_at_the_end(
    audit: Audit, rows: ForgetfulLine, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="service.core.audit")
    for number in range(3 * AT_ONCE):
        audit.handed_out("crm", GrantId("versature", f"user-{number}"))
    clock.advance(MINUTE)
    telling = asyncio.create_task(audit.flush())
    for _ in range(10):
        if not caplog.records:
            await asyncio.sleep(0)
    assert 0 < len(caplog.records) < 3 * AT_ONCE
    telling.cancel()
    assert await audit.drain(timedelta(seconds=1)) == 0
    assert len(caplog.records) == len(rows.rows) == 3 * AT_ONCE


def rows_made() -> int:
    return sum(type(one) is AuditEntry for one in gc.get_objects())


async def test_nobody_who_asks_as_a_minute_ends_has_to_wait_for_the_rows_of_all_others(
    audit: Audit, rows: ForgetfulLine, clock: VirtualClock
) -> None:
    gc.collect()
    before, users = rows_made(), 20 * AT_ONCE
    for number in range(users):
        audit.handed_out("crm", GrantId("versature", f"user-{number}"))
    clock.advance(MINUTE)
    audit.handed_out("billing", ALICE)
    assert rows_made() == before
    writing, seen = asyncio.create_task(audit.flush()), [before]
    while not rows.sent:
        await asyncio.sleep(0)
        seen.append(rows_made())
    assert max(after - before for before, after in pairwise(seen)) <= AT_ONCE
    await writing
    assert len(rows.rows) == users + 1


async def test_what_an_interrupted_flush_did_not_get_to_is_in_the_next_one(
    audit: Audit, rows: ForgetfulLine, clock: VirtualClock
) -> None:
    users = 3 * AT_ONCE
    for number in range(users):
        audit.handed_out("crm", GrantId("versature", f"user-{number}"))
    writing = asyncio.create_task(audit.flush())
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.wait([writing])
    assert (audit.backlog, len(rows.rows)) == (users, 0)
    await audit.flush()
    assert (audit.backlog, len(rows.rows)) == (0, users)
