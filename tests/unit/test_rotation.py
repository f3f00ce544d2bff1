import asyncio
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from service.core.audit import Audit
from service.core.audit_store import Action
from service.core.errors import KeyUnavailable, StoreUnavailable
from service.core.model import GrantId
from service.core.policy import Policy
from service.core.sealing.inventory import Holding, Inventory, Stock
from service.core.sealing.resealing import Kind
from service.core.sealing.rotation import MOST_PASSES, RETRIES, SCAN, AnotherKey, Pace, Rotation
from service.core.sealing.vault import Vault, grant_place, verifier_place
from tests.contract.samples import request
from tests.support.memory_sealed import MemorySealedRows
from tests.support.replicas import ALICE, VERSATURE, House, Replica

BOB = GrantId("versature", "bob")
FAST = Pace(per_second=1_000_000)
TICKET = b"ticket"


@dataclass(slots=True)
class Roll:
    """A house with secrets of every kind under `k1`, and a rotation that has `k2` first."""

    house: House
    replica: Replica
    rows: MemorySealedRows
    stock: Stock
    rotation: Rotation

    async def inventory(self) -> Inventory:
        return await self.rotation.status()

    async def ids(self) -> dict[str, set[str | None]]:
        found: dict[str, set[str | None]] = {}
        for holding in (await self.inventory()).holdings:
            found.setdefault(holding.what, set()).add(holding.key_id)
        return found

    def break_refresh_of(self, grant: GrantId) -> None:
        row = self.house.grants.peek(grant)
        assert row is not None
        self.house.grants.put(replace(row, refresh_sealed=self.seal("x", elsewhere=True)))

    def seal(self, secret: str, key: str = "k1", *, elsewhere: bool = False) -> bytes:
        before, self.house.keyring.sealing = self.house.keyring.sealing, key
        sealed = self.house.keyring.seal(secret, grant_place(ALICE, "elsewhere" if elsewhere else "refresh_token"))
        self.house.keyring.sealing = before
        return sealed


@pytest.fixture
async def roll(house: House, replica: Replica) -> Roll:
    for grant in (ALICE, BOB):
        await house.import_(replica, grant)
    await house.rows.add_application(VERSATURE)
    await house.requests.add(request(TICKET, ALICE))
    await house.requests.start(
        TICKET,
        state_digest=b"s",
        cookie_digest=b"c",
        sealed_verifier=house.keyring.seal("verifier", verifier_place(ALICE)),
        at=house.clock.now(),
    )
    house.keyring.sealing, house.keyring.known = "k2", {"k1", "k2"}
    rows = MemorySealedRows(house.grants, house.requests, house.rows)
    vault = Vault(house.keyring, Policy(), lambda: 0.0)
    stock = Stock(rows, {"the spool folder": replica.spool, "Redis": house.copy}, house.keyring, vault)
    audit = Audit(house.audit, house.clock)
    rotation = Rotation(rows, house.keyring, stock, audit, house.clock, replica.recovery.replay)
    return Roll(house, replica, rows, stock, rotation)


def ids_of_everything(key_id: str) -> dict[str, set[str]]:
    return {kind: {key_id} for kind in Kind}


# Sealing anew


async def test_everything_is_sealed_anew_under_the_first_key_and_still_opens(roll: Roll) -> None:
    assert await roll.ids() == ids_of_everything("k1")
    before = await roll.house.stored()
    outcome = await roll.rotation.run(FAST)
    assert outcome.resealed == {Kind.REFRESH_TOKEN: 2, Kind.ACCESS_TOKEN: 2, Kind.CLIENT_SECRET: 1, Kind.VERIFIER: 1}
    assert (outcome.stuck, outcome.came_back) == ({}, False)
    roll.house.keyring.known = {"k2"}
    assert await roll.ids() == ids_of_everything("k2")
    assert await roll.house.stored() == before
    (application,) = (await roll.house.rows.load()).applications
    vault = Vault(roll.house.keyring, Policy(), lambda: 0.0)
    assert vault.open_client_secret(application) == "secret of versature"
    taken = await roll.house.requests.take(b"s")
    assert taken is not None
    assert taken.sealed_verifier is not None
    assert roll.house.keyring.open(taken.sealed_verifier, verifier_place(ALICE)) == "verifier"


async def test_a_second_run_finds_nothing_to_do(roll: Roll) -> None:
    await roll.rotation.run(FAST)
    again = await roll.rotation.run(FAST)
    assert (again.resealed.total(), again.stuck, again.came_back) == (0, {}, False)
    assert roll.rows.calls["replace"] == len(Kind)


async def test_nothing_of_a_grant_moves_but_its_seals(roll: Roll) -> None:
    before = await roll.house.row()
    await roll.rotation.run(FAST)
    after = await roll.house.row()
    assert after.access_sealed != before.access_sealed
    assert after.refresh_sealed != before.refresh_sealed
    assert replace(after, access_sealed=before.access_sealed, refresh_sealed=before.refresh_sealed) == before


async def test_a_renewal_between_reading_and_writing_is_not_written_over(roll: Roll) -> None:
    renewed = roll.seal("the newer token")

    def renew() -> None:
        roll.rows.before_replacing = lambda: None
        row = roll.house.grants.peek(ALICE)
        assert row is not None
        roll.house.grants.put(replace(row, refresh_sealed=renewed, generation=row.generation + 1))

    roll.rows.before_replacing = renew
    outcome = await roll.rotation.run(FAST)
    row = await roll.house.row()
    assert row.refresh_sealed is not None
    assert row.refresh_sealed != renewed, "the next pass seals what the renewal brought under the old key"
    assert roll.house.keyring.open(row.refresh_sealed, grant_place(ALICE, "refresh_token")) == "the newer token"
    assert not outcome.came_back


async def test_what_does_not_open_is_counted_and_left_while_all_else_is_done(roll: Roll) -> None:
    roll.break_refresh_of(BOB)
    alice = await roll.house.row()
    roll.house.grants.put(replace(alice, access_sealed=roll.seal("x", key="gone")))
    before = await roll.house.row(BOB)
    outcome = await roll.rotation.run(FAST)
    assert outcome.stuck == {(Kind.REFRESH_TOKEN, "k1"): 1, (Kind.ACCESS_TOKEN, "gone"): 1}
    assert outcome.resealed == {Kind.REFRESH_TOKEN: 1, Kind.ACCESS_TOKEN: 1, Kind.CLIENT_SECRET: 1, Kind.VERIFIER: 1}
    assert (await roll.house.row(BOB)).refresh_sealed == before.refresh_sealed
    assert not outcome.came_back


async def test_a_broker_that_still_seals_with_the_old_key_is_noticed_and_nothing_runs_for_ever(roll: Roll) -> None:
    def seal_with_the_old_key() -> None:
        row = roll.house.grants.peek(ALICE)
        assert row is not None
        roll.house.grants.put(replace(row, refresh_sealed=roll.seal(f"token {roll.rows.calls['replace']}")))

    roll.rows.before_replacing = seal_with_the_old_key
    outcome = await roll.rotation.run(FAST)
    assert outcome.came_back
    assert roll.rows.calls["replace"] < MOST_PASSES * len(Kind) * 2


async def test_the_pace_is_kept(roll: Roll) -> None:
    began_at = roll.house.clock.monotonic()
    await roll.rotation.run(Pace(batch=1, per_second=2))
    assert roll.house.clock.monotonic() - began_at >= 6 / 2
    assert roll.rows.calls["replace"] == 6


async def test_a_database_that_is_away_for_a_moment_is_waited_for(roll: Roll) -> None:
    roll.rows.away = True

    async def come_back() -> None:
        await roll.house.clock.sleep(timedelta(seconds=2))
        roll.rows.away = False

    outcome, _ = await asyncio.gather(roll.rotation.run(FAST), come_back())
    assert outcome.resealed.total() == 6


async def test_a_database_that_stays_away_ends_the_run_and_the_next_one_finishes(roll: Roll) -> None:
    def go_away() -> None:
        roll.rows.away_for = {"replace"} if roll.rows.calls["replace"] == 3 else set()

    roll.rows.before_replacing = go_away
    with pytest.raises(StoreUnavailable):
        await roll.rotation.run(Pace(batch=1))
    assert roll.rows.calls["replace"] == 3 + len(RETRIES) + 1
    roll.rows.away_for = set()
    assert (await roll.rotation.run(FAST)).resealed.total() == 6 - 3
    assert await roll.ids() == ids_of_everything("k2")


async def test_a_run_that_is_killed_half_way_has_left_its_entry_in_the_audit(roll: Roll) -> None:
    def go_away() -> None:
        roll.rows.away_for = {"replace"} if roll.rows.calls["replace"] == 3 else set()

    roll.rows.before_replacing = go_away
    with pytest.raises(StoreUnavailable):
        await roll.rotation.run(Pace(batch=1))
    assert [(entry.action, entry.subject) for entry in roll.house.audit.rows.values()][-1] == (
        Action.KEYS_ROTATED,
        "k2",
    )


async def test_two_runs_at_once_share_the_work(roll: Roll) -> None:
    first, second = await asyncio.gather(roll.rotation.run(Pace(batch=1)), roll.rotation.run(Pace(batch=1)))
    assert first.resealed.total() + second.resealed.total() == 6
    assert not first.came_back
    assert not second.came_back
    assert await roll.ids() == ids_of_everything("k2")


async def test_another_key_of_the_first_keys_name_seals_nothing(roll: Roll) -> None:
    row = await roll.house.row()
    roll.house.grants.put(replace(row, refresh_sealed=roll.seal("x", key="k2", elsewhere=True)))
    with pytest.raises(AnotherKey):
        await roll.rotation.run(FAST)
    assert roll.rows.calls["replace"] == 0


async def test_another_key_of_the_first_keys_name_is_found_however_late_its_only_secret_stands(roll: Roll) -> None:
    roll.house.keyring.sealing = "k1"
    for number in range(SCAN):
        await roll.house.import_(roll.replica, GrantId("versature", f"carol-{number}"))
    await roll.house.import_(roll.replica, last := GrantId("versature", "dave"))
    roll.house.keyring.sealing = "k2"
    row = await roll.house.row(last)
    roll.house.grants.put(replace(row, refresh_sealed=roll.seal("x", key="k2", elsewhere=True)))
    with pytest.raises(AnotherKey):
        await roll.rotation.run(FAST)
    assert roll.rows.calls["replace"] == 0


async def test_one_broken_seal_under_the_first_key_does_not_hold_the_rest_up(roll: Roll) -> None:
    for grant, elsewhere in ((ALICE, True), (BOB, False)):
        row = await roll.house.row(grant)
        sealed = roll.seal("x", key="k2", elsewhere=elsewhere)
        if not elsewhere:
            roll.house.keyring.sealing = "k2"
            sealed = roll.house.keyring.seal("x", grant_place(grant, "refresh_token"))
        roll.house.grants.put(replace(row, refresh_sealed=sealed))
    assert (await roll.rotation.run(FAST)).resealed.total() == 4


# Answers that wait in escrow


async def keep_answer(roll: Roll, *, sealed_with: str = "k1", **which: Any) -> None:
    roll.house.keyring.sealing = sealed_with
    await roll.replica.custody.keep(roll.house.answer(**which))
    roll.house.keyring.sealing = "k2"


async def test_an_answer_that_waits_is_brought_in_first_and_sealed_anew_with_the_rest(roll: Roll) -> None:
    await keep_answer(roll)
    outcome = await roll.rotation.run(FAST)
    assert not outcome.came_back
    assert (await roll.house.row()).saved_attempt_id == "an attempt"
    assert await roll.ids() == ids_of_everything("k2")
    assert (await roll.inventory()).obstacle("k1") is None


async def test_an_answer_that_cannot_arrive_keeps_its_key(roll: Roll) -> None:
    await keep_answer(roll, generation=7)
    outcome = await roll.rotation.run(FAST)
    assert not outcome.came_back
    found = await roll.inventory()
    assert found.obstacle("k1") == "answer in the spool folder: 1, answer in Redis: 1"


async def test_an_answer_whose_envelope_alone_was_sealed_anew_still_needs_the_old_key(roll: Roll) -> None:
    roll.house.keyring.sealing = "k1"
    answer = roll.house.answer(generation=7)
    roll.house.keyring.sealing = "k2"
    await roll.replica.custody.keep(answer)
    kept = [holding for holding in (await roll.inventory()).holdings if holding.what.startswith("answer")]
    at = roll.house.clock.now()
    assert kept == [
        Holding("answer in the spool folder", "k1", 1, at),
        Holding("answer in the spool folder", "k2", 1, at),
        Holding("answer in Redis", "k1", 1, at),
        Holding("answer in Redis", "k2", 1, at),
    ]


@pytest.mark.parametrize("trouble", ["away", "unreadable"])
async def test_nothing_is_claimed_of_an_escrow_that_could_not_be_asked(roll: Roll, trouble: str) -> None:
    await roll.rotation.run(FAST)
    assert (await roll.inventory()).obstacle("k1") is None
    setattr(roll.house.copy, trouble, 1)
    found = await roll.inventory()
    assert len(found.not_asked) == 1
    assert found.not_asked[0].startswith("Redis")
    assert "could not be asked" in (found.obstacle("k1") or "")


# What may go


async def test_a_key_may_go_once_nothing_names_it(roll: Roll) -> None:
    assert (await roll.inventory()).obstacle("k1") == (
        "refresh token: 2, access token: 2, client secret: 1, PKCE verifier: 1"
    )
    await roll.rotation.run(FAST)
    found = await roll.inventory()
    assert (found.key_ids, found.count("k1"), found.obstacle("k1")) == (("k2", "k1"), 0, None)
    assert (found.count("k2"), found.obstacle("k2")) == (6, "it seals")


async def test_the_oldest_is_told_where_an_instant_is_known(roll: Roll) -> None:
    at = roll.house.clock.now()
    await roll.house.clock.sleep(timedelta(hours=1))
    await roll.house.import_(roll.replica, GrantId("versature", "carol"))
    holdings = {(held.what, held.key_id): held for held in (await roll.inventory()).holdings}
    assert holdings[Kind.REFRESH_TOKEN, "k1"].oldest_at == at
    assert holdings[Kind.REFRESH_TOKEN, "k2"].oldest_at == at + timedelta(hours=1)
    assert holdings[Kind.CLIENT_SECRET, "k1"].oldest_at is None
    assert holdings[Kind.VERIFIER, "k1"].oldest_at == at


async def test_keys_that_are_not_ours_and_damaged_headers_are_strangers(roll: Roll) -> None:
    row = await roll.house.row()
    roll.house.grants.put(replace(row, access_sealed=roll.seal("x", key="gone"), refresh_sealed=b"\x00 no header"))
    strangers = (await roll.inventory()).strangers
    assert [(held.what, held.key_id, held.count) for held in strangers] == [
        (Kind.REFRESH_TOKEN, None, 1),
        (Kind.ACCESS_TOKEN, "gone", 1),
    ]


async def test_counting_needs_none_of_the_keys(roll: Roll) -> None:
    roll.house.keyring.known = set()
    await roll.inventory()
    assert roll.house.keyring.missing == set()


# What is cached under a key that is gone


async def test_a_shared_entry_under_a_key_that_is_gone_is_a_miss_and_no_trouble(roll: Roll) -> None:
    roll.house.keyring.sealing = "k1"
    handout = await roll.replica.ask()
    vault = Vault(roll.house.keyring, Policy(), lambda: 0.0)
    sealed = vault.seal_cached(ALICE, handout.token)
    await roll.house.shared.forget(ALICE, up_to=0)
    await roll.house.shared.put(ALICE, handout.token.generation, sealed, timedelta(hours=1))
    roll.house.keyring.sealing = "k2"
    await roll.rotation.run(FAST)
    roll.house.keyring.known = {"k2"}
    fresh = roll.house.replica()
    assert await roll.house.shared_token() is None
    assert (await fresh.ask(ALICE)).token.value == handout.token.value
    assert roll.house.keyring.missing == set()


async def test_a_row_under_a_key_that_is_gone_is_trouble(roll: Roll) -> None:
    roll.house.keyring.known = {"k2"}
    vault = Vault(roll.house.keyring, Policy(), lambda: 0.0)
    with pytest.raises(KeyUnavailable):
        vault.open_refresh(await roll.house.row())
    assert roll.house.keyring.missing == {"k1"}


# What is not missed any more


async def test_a_missing_key_is_forgotten_once_nothing_that_is_stored_names_it(roll: Roll) -> None:
    row = await roll.house.row()
    roll.house.grants.put(replace(row, access_sealed=roll.seal("x", key="gone")))
    with pytest.raises(KeyUnavailable):
        await roll.replica.broker.get(VERSATURE, ALICE)
    await roll.stock.recheck()
    assert roll.house.keyring.missing == {"gone"}
    await roll.house.import_(roll.replica)
    await roll.stock.recheck()
    assert roll.house.keyring.missing == set()


async def test_a_key_that_is_missed_while_the_stock_is_taken_stays_missing(roll: Roll) -> None:
    roll.house.keyring.missing = {"gone"}
    roll.rows.held["heads"] = gate = asyncio.Event()
    checking = asyncio.create_task(roll.stock.recheck())
    await asyncio.sleep(0.1)
    roll.house.keyring.missing.add("new")
    gate.set()
    await checking
    assert roll.house.keyring.missing == {"new"}


async def test_nobody_counts_while_no_key_is_missing(roll: Roll) -> None:
    await roll.stock.recheck()
    assert roll.rows.calls["heads"] == 0
