"""Rule 4: what the database cannot take waits where it survives this process, and is found again."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from service.core.condition.health import Readiness
from service.core.errors import StoreUnavailable
from service.core.escrow.custody import Custody
from service.core.model import WaitingAnswer
from service.core.records import EscrowEntry
from service.core.redeeming.steps import Step
from service.core.sealing.vault import Vault
from tests.support.memory_ports import MemoryEscrow
from tests.support.memory_stores import blank_grant
from tests.support.replicas import ALICE, BOB, House

ROW = blank_grant(ALICE)


@dataclass
class Places:
    """A spool, a copy, and the custody of two processes over them; `steps` is what the first one went through."""

    house: House
    spool: MemoryEscrow = field(default_factory=MemoryEscrow)
    copy: MemoryEscrow = field(default_factory=MemoryEscrow)
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        vault = Vault(self.house.keyring, self.house.policy, lambda: 0.0)
        self.custody = Custody(self.spool, self.copy, vault, self.steps.append)
        self.elsewhere = Custody(MemoryEscrow(), self.copy, vault)
        self.next_life = Custody(self.spool, None, vault)


@pytest.fixture
def places(house: House) -> Places:
    return Places(house)


async def test_an_answer_is_spooled_first_and_then_copied(places: Places) -> None:
    answer = places.house.answer()
    assert await places.custody.keep(answer)
    assert places.steps == [Step.SPOOLED, Step.COPIED]
    assert await places.next_life.look(ROW) == [answer]
    assert await places.elsewhere.look(ROW) == [answer]


@pytest.mark.parametrize(("away", "kept"), [("spool", Step.COPIED), ("copy", Step.SPOOLED)])
async def test_one_of_both_places_is_enough(places: Places, away: str, kept: Step) -> None:
    getattr(places, away).away = True
    assert await places.custody.keep(places.house.answer())
    assert places.steps == [kept]
    assert places.custody.holds(ALICE)


async def test_without_a_copy_the_spool_alone_will_do(places: Places) -> None:
    assert await places.next_life.keep(places.house.answer())
    assert len(places.spool.kept) == 1


async def test_what_is_nowhere_but_in_memory_is_told_and_stays_known(places: Places) -> None:
    places.spool.away = places.copy.away = True
    answer = places.house.answer()
    assert not await places.custody.keep(answer)
    assert places.steps == []
    assert places.custody.holds(ALICE)
    places.spool.away = places.copy.away = False
    await places.custody.entries()
    assert places.custody.holds(ALICE)
    await places.custody.clear(answer)
    assert (places.custody.holds(ALICE), places.custody.count) == (False, 0)


async def test_a_place_that_takes_nothing_is_told_once_for_each_answer_however_long_it_lasts(
    places: Places, caplog: pytest.LogCaptureFixture
) -> None:
    places.copy.away = True
    await places.custody.keep(places.house.answer())
    for _ in range(10):
        await places.custody.entries()
    told = [record for record in caplog.records if record.message == "an answer could not be kept in escrow"]
    assert [vars(record)["place"] for record in told] == [Step.COPIED]


@pytest.mark.parametrize("away", ["spool", "copy"])
async def test_looking_raises_when_any_place_cannot_be_asked_although_the_other_has_an_answer(
    places: Places, away: str
) -> None:
    await places.custody.keep(places.house.answer())
    getattr(places, away).away = True
    with pytest.raises(StoreUnavailable):
        await places.custody.look(ROW)


async def test_looking_finds_every_answer_of_that_grant_once_and_no_other(places: Places) -> None:
    first, second = places.house.answer(attempt_id="1"), places.house.answer(attempt_id="2")
    for answer in (first, second, places.house.answer(BOB)):
        await places.custody.keep(answer)
    found = await places.custody.look(ROW)
    assert sorted(found, key=lambda answer: answer.attempt_id) == [first, second]


async def test_what_was_found_elsewhere_is_known_from_then_on(places: Places) -> None:
    await places.custody.keep(places.house.answer())
    assert not places.elsewhere.holds(ALICE)
    await places.elsewhere.look(ROW)
    assert places.elsewhere.holds(ALICE)


async def test_all_that_waits_is_listed_the_oldest_first(places: Places) -> None:
    kept = []
    for user in (BOB, ALICE):
        kept.append(places.house.answer(user))
        await asyncio.sleep(1)
    for answer in reversed(kept):
        await places.custody.keep(answer)
    assert [entry.grant for entry in await places.elsewhere.entries()] == [BOB, ALICE]
    assert places.elsewhere.oldest_at == kept[0].received_at
    assert places.elsewhere.count == 2


@pytest.mark.parametrize("away", ["spool", "copy"])
async def test_a_place_that_cannot_be_asked_makes_nothing_forgotten(places: Places, away: str) -> None:
    await places.custody.keep(places.house.answer())
    for entry in list(places.spool.kept.values()):
        await getattr(places, "copy" if away == "spool" else "spool").remove(entry)
    getattr(places, away).away = True
    assert [entry.grant for entry in await places.custody.entries()] == [ALICE]
    assert places.custody.holds(ALICE)


async def test_what_another_process_has_brought_in_is_forgotten_once_every_place_says_so(places: Places) -> None:
    answer = places.house.answer()
    await places.custody.keep(answer)
    places.spool.kept.clear()
    places.copy.kept.clear()
    assert await places.custody.entries() == []
    assert not places.custody.holds(ALICE)
    assert places.custody.oldest_at is None


async def test_what_has_arrived_is_taken_out_of_both_places(places: Places) -> None:
    answers = [places.house.answer(attempt_id=attempt) for attempt in ("1", "2")]
    for answer in answers:
        await places.custody.keep(answer)
    await places.custody.clear(answers[0])
    assert [set(place.kept) for place in (places.spool, places.copy)] == [{(ALICE, "2")}, {(ALICE, "2")}]
    assert (places.custody.count, places.custody.holds(ALICE)) == (1, True)
    await places.custody.clear(answers[1])
    assert (places.custody.count, places.custody.holds(ALICE)) == (0, False)
    assert places.steps[-1] is Step.CLEARED


async def test_a_place_that_is_away_when_an_answer_arrives_does_not_stop_the_others_and_is_cleared_later(
    places: Places,
) -> None:
    answer = places.house.answer()
    await places.custody.keep(answer)
    places.spool.away = True
    await places.custody.clear(answer)
    assert places.copy.kept == {}
    places.spool.away = False
    assert len(await places.custody.entries()) == 1
    await places.custody.clear(answer)
    assert places.spool.kept == {}


async def test_clearing_what_never_waited_is_nothing(places: Places) -> None:
    await places.custody.clear(places.house.answer())
    assert places.steps == []


@pytest.mark.parametrize(
    "move",
    [
        lambda entry: replace(entry, grant=BOB),
        lambda entry: replace(entry, generation=2),
        lambda entry: replace(entry, attempt_id="another attempt"),
    ],
    ids=["to another grant", "to another generation", "to another attempt"],
)
async def test_an_entry_that_was_moved_does_not_open(
    places: Places, move: Callable[[EscrowEntry], EscrowEntry]
) -> None:
    await places.custody.keep(places.house.answer())
    [entry] = places.spool.kept.values()
    assert places.custody.open(entry) is not None
    forged = move(entry)
    assert places.custody.open(forged) is None
    await places.copy.put(forged)
    with pytest.raises(StoreUnavailable):
        await places.custody.look(blank_grant(forged.grant))


async def test_an_entry_under_another_sealing_key_waits_until_the_key_is_known(places: Places) -> None:
    answer = places.house.answer()
    await places.custody.keep(answer)
    [entry] = places.spool.kept.values()
    places.house.keyring.known = {"another"}
    assert places.custody.open(entry) is None
    assert len(await places.custody.entries()) == 1
    places.house.keyring.known = {"k1"}
    assert places.custody.open(entry) == answer


async def test_everything_about_an_answer_comes_back(places: Places) -> None:
    login = places.house.answer(generation=0, ticket_digest=b"\x00\xff")
    bare = places.house.answer(BOB)
    tokens = replace(bare.tokens, access_sealed=None, access_expires_at=None, due_at=None, scope=None)
    bare = replace(bare, tokens=tokens, received_at=tokens.issued_at + timedelta(seconds=9))
    for answer in (login, bare):
        await places.custody.keep(answer)
        assert await places.next_life.look(blank_grant(answer.grant)) == [answer]


async def test_no_secret_shows_when_answers_are_printed(places: Places) -> None:
    answer = places.house.answer(ticket_digest=b"the ticket")
    await places.custody.keep(answer)
    [entry] = await places.custody.entries()
    printed = f"{answer!r} {entry!r} {answer!s} {entry!s}"
    assert "refresh-" not in printed
    assert "access-beside" not in printed
    assert "the ticket" not in printed
    assert (answer.tokens.refresh_digest or "?") not in printed


def shown(answer: WaitingAnswer) -> str:
    return f"1 answers wait since {answer.received_at:%Y-%m-%dT%H:%M:%SZ}"


async def test_answers_that_wait_and_a_spool_that_is_away_are_two_parts_of_health(places: Places) -> None:
    assert (await places.custody.waiting_health()).readiness is Readiness.READY
    answer = places.house.answer()
    await places.custody.keep(answer)
    waiting = await places.custody.waiting_health()
    assert (waiting.readiness, waiting.detail) == (Readiness.DEGRADED, shown(answer))
    assert (await places.custody.health()).readiness is Readiness.READY
    places.spool.away = True
    assert (await places.custody.health()).detail == "this escrow takes no answers: away"
    assert (await places.custody.waiting_health()).detail == shown(answer)
    places.spool.away = False
    await places.custody.clear(answer)
    assert (await places.custody.waiting_health()).readiness is Readiness.READY


async def test_a_lost_copy_is_a_part_of_its_own_for_the_spool_still_keeps_answers(places: Places) -> None:
    assert (await places.custody.copy_health()).readiness is Readiness.READY
    places.copy.away = True
    assert (await places.custody.health()).readiness is Readiness.READY
    assert (await places.custody.copy_health()).detail == "this escrow takes no answers: away"


async def test_a_spool_that_takes_nothing_shows_in_health_though_the_copy_does(places: Places) -> None:
    places.spool.away = True
    answer = places.house.answer()
    await places.custody.keep(answer)
    await places.custody.clear(answer)
    assert (await places.custody.health()).readiness is Readiness.DEGRADED
    places.spool.away = False
    await asyncio.sleep(timedelta(seconds=1).total_seconds())
    await places.custody.entries()
    await places.custody.clear(answer)
    assert (await places.custody.health()).readiness is Readiness.READY


@pytest.mark.parametrize("refusal", ["away", "full"])
@pytest.mark.parametrize("refusing", [["spool"], ["copy"], ["spool", "copy"]], ids=" and ".join)
async def test_what_a_place_refused_for_a_moment_is_kept_there_by_the_next_round_and_health_says_so_meanwhile(
    places: Places, refusing: list[str], refusal: str
) -> None:
    for place in refusing:
        setattr(getattr(places, place), refusal, True)
    answer = places.house.answer()
    assert await places.custody.keep(answer) is (len(refusing) < 2)
    await places.custody.entries()
    told = {"spool": (await places.custody.health()).detail, "copy": (await places.custody.copy_health()).detail}
    assert [told[place] for place in refusing] == [f"this escrow takes no answers: {refusal}"] * len(refusing)
    for place in refusing:
        setattr(getattr(places, place), refusal, False)
    await places.custody.entries()
    assert list(places.spool.kept.values()) == list(places.copy.kept.values()) != []
    assert await places.custody.keep(answer)
    puts = places.spool.puts, places.copy.puts
    await places.custody.entries()
    assert (places.spool.puts, places.copy.puts) == puts
    assert (await places.custody.waiting_health()).detail == shown(answer)
    await places.custody.clear(answer)
    assert (places.spool.kept, places.copy.kept, places.custody.count) == ({}, {}, 0)


async def test_a_round_while_an_answer_is_just_being_kept_forgets_nothing(places: Places) -> None:
    answer = places.house.answer()
    places.spool.held["put"] = gate = asyncio.Event()
    keeping = asyncio.create_task(places.custody.keep(answer))
    await asyncio.sleep(0)
    listing = asyncio.create_task(places.custody.entries())
    await asyncio.sleep(0.1)
    gate.set()
    assert await keeping
    assert [entry.grant for entry in await listing] == [ALICE]
    assert (places.custody.holds(ALICE), places.custody.count) == (True, 1)
    await places.custody.clear(answer)
    assert (places.spool.kept, places.copy.kept, places.custody.count) == ({}, {}, 0)


class LateListing(MemoryEscrow):
    """Its listing is as of the moment it was asked for, and arrives only once `arrives` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.arrives, self.asked = asyncio.Event(), asyncio.Event()

    async def entries(self) -> Sequence[EscrowEntry]:
        found = await super().entries()
        self.asked.set()
        await self.arrives.wait()
        return found


async def test_what_is_kept_while_a_round_lists_is_not_forgotten_by_it(house: House) -> None:
    spool, copy = LateListing(), LateListing()
    custody = Custody(spool, copy, Vault(house.keyring, house.policy, lambda: 0.0))
    listing = asyncio.create_task(custody.entries())
    await spool.asked.wait()
    keeping = asyncio.create_task(custody.keep(house.answer()))
    await asyncio.sleep(0)
    copy.held["put"] = gate = asyncio.Event()
    spool.arrives.set()
    await copy.asked.wait()
    gate.set()
    assert await keeping
    copy.arrives.set()
    await listing
    assert custody.holds(ALICE)


async def test_what_is_kept_while_a_round_keeps_another_and_lists_is_not_forgotten_by_it(house: House) -> None:
    spool, copy = LateListing(), LateListing()
    custody = Custody(spool, copy, Vault(house.keyring, house.policy, lambda: 0.0))
    spool.away = True
    await custody.keep(house.answer(BOB))
    spool.away = False
    spool.held["put"] = bobs = asyncio.Event()
    listing = asyncio.create_task(custody.entries())
    await asyncio.sleep(0)
    spool.held["put"] = alices = asyncio.Event()
    keeping = asyncio.create_task(custody.keep(house.answer()))
    await asyncio.sleep(0)
    bobs.set()
    await spool.asked.wait()
    copy.held["put"] = copied = asyncio.Event()
    alices.set()
    spool.arrives.set()
    await copy.asked.wait()
    copied.set()
    assert await keeping
    copy.arrives.set()
    await listing
    assert custody.holds(ALICE)


@pytest.mark.parametrize("place", ["spool", "copy"])
async def test_what_arrives_while_it_is_just_being_kept_leaves_nothing_behind(places: Places, place: str) -> None:
    answer = places.house.answer()
    getattr(places, place).held["put"] = gate = asyncio.Event()
    keeping = asyncio.create_task(places.custody.keep(answer))
    await asyncio.sleep(0.1)
    await places.custody.clear(answer)
    gate.set()
    await keeping
    assert (places.spool.kept, places.copy.kept) == ({}, {})
    assert (places.custody.count, places.custody.holds(ALICE)) == (0, False)


async def test_what_is_kept_in_one_place_while_it_is_taken_out_of_the_other_leaves_nothing_behind(
    places: Places,
) -> None:
    answer = places.house.answer()
    places.spool.held["put"] = put = asyncio.Event()
    places.copy.held["remove"] = remove = asyncio.Event()
    keeping = asyncio.create_task(places.custody.keep(answer))
    await asyncio.sleep(0.1)
    clearing = asyncio.create_task(places.custody.clear(answer))
    await asyncio.sleep(0.1)
    put.set()
    await asyncio.sleep(0.1)
    remove.set()
    await asyncio.gather(keeping, clearing)
    assert (places.spool.kept, places.copy.kept) == ({}, {})
    assert (places.custody.count, places.custody.holds(ALICE)) == (0, False)
