"""What every `RenewalQueue` promises: whom the background renews, at which pace, and what it still has to tell."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from service.core.model import COMPANY as COMPANY_USER
from service.core.model import Claim, Grant, GrantId, GrantState, GrantType, Reason, UpstreamRevocation
from service.core.records import Due, Setback
from tests.contract.conftest import Stores
from tests.contract.samples import (
    ALICE,
    COMPANY,
    ELSEWHERE,
    FINGERPRINT,
    HOUR,
    LEASE,
    MICROSECOND,
    SECOND,
    T0,
    TAKEOVER,
    claim,
    connect,
    connected,
    revoke,
    stored,
    tokens,
)

BOB = GrantId("versature", "bob")
CAROL = GrantId("versature", "carol")
DUE_IN = HOUR * 0.75 + MICROSECOND
DAY = timedelta(days=1)
LONG_AGO = T0 - 365 * DAY
MINUTE = PAUSE = timedelta(minutes=1)


def due(
    *,
    active_since: datetime | None = T0,
    idle_since: datetime = LONG_AGO,
    fingerprint: bytes = FINGERPRINT,
    limit: int = 100,
    per_second: float = 100,
    application: str = "versature",
    grant_type: GrantType = GrantType.AUTHORIZATION_CODE,
) -> Due:
    return Due(application, grant_type, fingerprint, active_since, idle_since, limit, per_second)


async def claim_due(stores: Stores, which: Due | None = None, attempt_id: str = "background") -> Sequence[Grant]:
    return await stores.queue.claim_due(which or due(), attempt_id=attempt_id, lease=LEASE, takeover=TAKEOVER)


async def taken(stores: Stores, which: Due | None = None) -> list[str]:
    """The users whose grants were claimed, in the order in which they came."""
    return [grant.id.user for grant in await claim_due(stores, which)]


async def ask(stores: Stores, *grants: GrantId) -> None:
    await stores.queue.note_asked(grants or (ALICE,), at=stores.clock.now())


async def ready(stores: Stores, *grants: GrantId) -> None:
    """*grants* (alice's), asked for and just due."""
    for grant in grants or (ALICE,):
        await connected(stores.grants, grant)
    await ask(stores, *grants)
    await stores.pass_time(DUE_IN)


async def many_ready(stores: Stores, count: int) -> None:
    await ready(stores, *(GrantId("versature", f"user {i:02}") for i in range(count)))


async def set_back(stores: Stores, attempt_id: str, retry_in: timedelta, grant: GrantId = ALICE) -> None:
    now = stores.clock.now()
    setback = Setback("upstream_unavailable", at=now, retry_at=now + retry_in, finished=True)
    await stores.grants.note_setback(grant, attempt_id=attempt_id, setback=setback)


async def save(stores: Stores, name: str = "a2", grant: GrantId = ALICE, *, generation: int = 1) -> None:
    now = stores.clock.now()
    answer = tokens(name, f"r of {name}", at=now)
    assert await stores.grants.save(grant, generation=generation, attempt_id=name, tokens=answer, at=now)


# Whom the background claims


async def test_a_grant_that_was_asked_for_is_claimed_once_it_is_due(stores: Stores) -> None:
    before = await connected(stores.grants)
    await ask(stores)
    await stores.pass_time(DUE_IN - MICROSECOND)
    assert await taken(stores) == []
    await stores.pass_time(MICROSECOND)
    now = stores.clock.now()
    claimed = await claim_due(stores, attempt_id="mine")
    assert claimed == [replace(before, claim=Claim("mine", now, now + LEASE))]
    assert await stored(stores.grants) == claimed[0]


async def test_nobody_takes_what_another_has_claimed(stores: Stores) -> None:
    await ready(stores)
    assert await claim(stores.grants, "a caller's")
    assert await taken(stores) == []


async def test_what_the_background_claimed_nobody_else_takes(stores: Stores) -> None:
    await ready(stores)
    assert await taken(stores) == ["alice"]
    assert await claim(stores.grants, "a caller's") is None
    assert await taken(stores) == []


async def test_the_background_takes_over_only_after_the_lease_and_the_time_after_it(stores: Stores) -> None:
    await ready(stores)
    await claim(stores.grants, "lost")
    await stores.pass_time(LEASE + TAKEOVER)
    assert await taken(stores) == []
    await stores.pass_time(MICROSECOND)
    (grant,) = await claim_due(stores)
    assert grant.unfinished_generation == 1


async def test_the_companys_grant_is_taken_over_as_soon_as_the_lease_has_ended(stores: Stores) -> None:
    await ready(stores, COMPANY)
    await claim(stores.grants, "lost", COMPANY)
    await stores.pass_time(LEASE)
    assert await taken(stores) == []
    await stores.pass_time(MICROSECOND)
    assert await taken(stores, due(grant_type=GrantType.CLIENT_CREDENTIALS)) == [COMPANY_USER]


async def test_a_grant_left_alone_is_not_claimed_before_its_time(stores: Stores) -> None:
    await ready(stores)
    await claim(stores.grants, "first")
    await set_back(stores, "first", PAUSE)
    await stores.pass_time(PAUSE - MICROSECOND)
    assert await taken(stores) == []
    await stores.pass_time(MICROSECOND)
    assert await taken(stores) == ["alice"]


async def test_an_idle_grant_left_alone_is_not_claimed_before_its_time(stores: Stores) -> None:
    await connected(stores.grants)
    await claim(stores.grants, "first")
    await set_back(stores, "first", PAUSE)
    idle = due(active_since=None, idle_since=T0)
    await stores.pass_time(PAUSE - MICROSECOND)
    assert await taken(stores, idle) == []
    await stores.pass_time(MICROSECOND)
    assert await taken(stores, idle) == ["alice"]


async def test_a_grant_issued_elsewhere_is_not_claimed(stores: Stores) -> None:
    await ready(stores)
    assert await taken(stores, due(fingerprint=ELSEWHERE, idle_since=T0 + DAY)) == []


async def test_a_changed_application_claims_its_companys_grant_without_waiting(stores: Stores) -> None:
    await ready(stores, COMPANY)
    await claim(stores.grants, "first", COMPANY)
    await set_back(stores, "first", MICROSECOND, COMPANY)
    await stores.pass_time(MICROSECOND)
    await claim(stores.grants, "second", COMPANY)
    await stores.grants.release(COMPANY, attempt_id="second")
    (grant,) = await claim_due(stores, due(fingerprint=ELSEWHERE, grant_type=GrantType.CLIENT_CREDENTIALS))
    assert grant.fingerprint == ELSEWHERE


async def test_a_setback_of_the_company_is_void_for_a_changed_application(stores: Stores) -> None:
    await stores.grants.ensure(COMPANY)
    await claim(stores.grants, "first", COMPANY, generation=0)
    await set_back(stores, "first", HOUR, COMPANY)
    await ask(stores, COMPANY)
    assert await taken(stores) == []
    assert await taken(stores, due(fingerprint=ELSEWHERE, grant_type=GrantType.CLIENT_CREDENTIALS)) == [COMPANY_USER]


async def test_the_company_that_never_had_a_token_is_claimed_once_it_was_asked_for(stores: Stores) -> None:
    await stores.grants.ensure(COMPANY)
    assert await taken(stores) == []
    await ask(stores, COMPANY)
    assert await taken(stores, due(grant_type=GrantType.CLIENT_CREDENTIALS)) == [COMPANY_USER]


async def test_who_holds_no_refresh_token_is_never_claimed(stores: Stores) -> None:
    await connected(stores.grants, refresh_token=None)
    await ask(stores)
    await stores.pass_time(DUE_IN)
    assert await taken(stores, due(idle_since=T0 + DAY)) == []


async def test_dead_and_revoked_grants_are_not_claimed(stores: Stores) -> None:
    await ready(stores, ALICE, BOB)
    await claim(stores.grants, "mine")
    assert await stores.grants.declare_dead(
        ALICE, generation=1, attempt_id="mine", reason=Reason.REFUSED, code="invalid_grant", at=T0
    )
    await revoke(stores.grants, BOB)
    assert await taken(stores, due(idle_since=T0 + DAY)) == []


async def test_another_applications_grants_are_not_claimed(stores: Stores) -> None:
    await ready(stores, GrantId("other", "alice"))
    assert await taken(stores, due(idle_since=T0 + DAY)) == []


async def test_idle_grants_are_claimed_before_their_refresh_token_ends_whether_asked_for_or_not(
    stores: Stores,
) -> None:
    await connected(stores.grants)
    await stores.pass_time(DAY)
    assert await taken(stores, due(active_since=None, idle_since=T0 - MICROSECOND)) == []
    assert await taken(stores, due(active_since=None, idle_since=T0)) == ["alice"]


async def test_the_company_and_its_users_are_claimed_apart(stores: Stores) -> None:
    await ready(stores, ALICE, COMPANY)
    await stores.pass_time(DUE_IN)
    assert await taken(stores) == ["alice"]
    assert await taken(stores, due(grant_type=GrantType.CLIENT_CREDENTIALS)) == [COMPANY_USER]


async def test_claims_that_nobody_knows_of_are_all_given_back(stores: Stores) -> None:
    await ready(stores, ALICE, BOB)
    await claim_due(stores, attempt_id="unheard")
    await connected(stores.grants, CAROL)
    await claim(stores.grants, "another", CAROL)
    await stores.queue.release_all("other", attempt_id="unheard")
    assert (await stored(stores.grants)).claim is not None
    await stores.queue.release_all("versature", attempt_id="unheard")
    assert [(await stored(stores.grants, grant)).claim for grant in (ALICE, BOB)] == [None, None]
    assert (await stored(stores.grants, CAROL)).claim is not None
    assert sorted(await taken(stores)) == ["alice", "bob"]


async def test_the_companys_grant_is_never_idle(stores: Stores) -> None:
    await connected(stores.grants, COMPANY)
    await stores.pass_time(DAY)
    assert await taken(stores, due(active_since=None, idle_since=T0 + DAY)) == []


async def test_where_no_active_ones_are_wanted_none_is_claimed_and_none_forgotten(stores: Stores) -> None:
    await ready(stores)
    assert await taken(stores, due(active_since=None)) == []
    assert await taken(stores) == ["alice"]


async def test_a_grant_due_in_both_ways_is_claimed_once(stores: Stores) -> None:
    await ready(stores)
    assert await taken(stores, due(idle_since=T0 + DAY)) == ["alice"]


async def test_those_due_longest_come_first(stores: Stores) -> None:
    for minutes, grant in enumerate((CAROL, ALICE, BOB)):
        at = T0 + timedelta(minutes=minutes)
        await connect(stores.grants, tokens("a1", "r1", at=at), "login", grant, at=at)
    await ask(stores, ALICE, BOB, CAROL)
    await stores.pass_time(HOUR)
    assert await taken(stores, due(limit=2)) == ["carol", "alice"]
    assert await taken(stores) == ["bob"]


@pytest.mark.parametrize("asked_again", [False, True])
async def test_a_grant_that_failed_is_due_anew_from_when_it_may_be_tried_again(
    stores: Stores, asked_again: bool
) -> None:
    await ready(stores)
    now = stores.clock.now()
    await connect(stores.grants, tokens("a1", "r1", at=T0 + SECOND), "login", BOB, at=now)
    await ask(stores, BOB)
    await claim_due(stores, attempt_id="mine")
    await set_back(stores, "mine", PAUSE)
    await stores.pass_time(PAUSE)
    if asked_again:
        await ask(stores)
    assert await taken(stores) == ["bob", "alice"]


async def test_idle_and_active_grants_are_in_one_order(stores: Stores) -> None:
    await connected(stores.grants)
    await stores.pass_time(30 * DAY)
    now = stores.clock.now()
    await connect(stores.grants, tokens("a1", "r1", at=now), "login", BOB, at=now)
    await ask(stores, BOB)
    await stores.pass_time(DUE_IN + SECOND)
    idle_for_a_minute = due(active_since=now, idle_since=T0 + timedelta(minutes=1), limit=1)
    assert await taken(stores, replace(idle_for_a_minute, idle_since=T0)) == ["bob"]
    assert await taken(stores, idle_for_a_minute) == ["alice"]


@pytest.mark.parametrize("bare", [False, True])
async def test_an_imported_grant_is_due_when_its_access_token_is_or_as_soon_as_it_is_asked_for(
    stores: Stores, bare: bool
) -> None:
    answer = tokens("a1", "r1")
    if bare:
        answer = replace(answer, access_sealed=None, access_expires_at=None, due_at=None)
    await stores.grants.import_(ALICE, answer, at=T0)
    assert await taken(stores) == []
    await ask(stores)
    assert await taken(stores) == (["alice"] if bare else [])
    if not bare:
        await stores.pass_time(DUE_IN)
        assert await taken(stores) == ["alice"]


async def test_a_renewed_grant_is_due_again_when_its_new_token_is(stores: Stores) -> None:
    await ready(stores)
    await claim_due(stores)
    await save(stores)
    await ask(stores)
    await stores.pass_time(DUE_IN - MICROSECOND)
    assert await taken(stores) == []
    await stores.pass_time(MICROSECOND)
    assert await taken(stores) == ["alice"]


# Who asks


async def test_what_nobody_asked_for_is_not_claimed_until_it_is_asked_for_again(stores: Stores) -> None:
    await connected(stores.grants)
    await stores.pass_time(DUE_IN)
    assert await taken(stores) == []
    await ask(stores)
    assert await taken(stores) == ["alice"]


async def test_asking_counts_from_the_instant_that_was_named(stores: Stores) -> None:
    await ready(stores)
    assert await taken(stores, due(active_since=T0)) == ["alice"]


async def test_what_was_asked_for_too_long_ago_is_forgotten_until_it_is_asked_for_again(stores: Stores) -> None:
    await ready(stores)
    too_late = due(active_since=T0 + MICROSECOND)
    assert await taken(stores, too_late) == []
    # It is off the list by now: an older asking does not bring it back.
    assert await taken(stores, due(active_since=T0)) == []
    await ask(stores)
    assert await taken(stores, too_late) == ["alice"]


async def test_only_what_is_due_is_forgotten(stores: Stores) -> None:
    await connected(stores.grants)
    await ask(stores)
    assert await taken(stores, due(active_since=T0 + MICROSECOND)) == []
    await stores.pass_time(DUE_IN)
    assert await taken(stores, due(active_since=T0)) == ["alice"]


async def test_only_the_named_applications_grants_are_forgotten(stores: Stores) -> None:
    await ready(stores)
    assert await taken(stores, due(active_since=T0 + DAY, application="other")) == []
    assert await taken(stores) == ["alice"]


async def test_a_forgotten_grant_can_still_be_claimed_as_idle(stores: Stores) -> None:
    await connected(stores.grants)
    await stores.pass_time(DUE_IN)
    assert await taken(stores, due(idle_since=T0)) == ["alice"]


async def test_an_older_asking_never_counts_over_a_newer(stores: Stores) -> None:
    await ready(stores)
    await claim_due(stores, attempt_id="mine")
    await ask(stores)
    await stores.grants.release(ALICE, attempt_id="mine")
    await stores.queue.note_asked([ALICE], at=T0)
    assert await taken(stores, due(active_since=stores.clock.now())) == ["alice"]


async def test_asking_more_than_a_second_after_the_last_counts(stores: Stores) -> None:
    await connected(stores.grants)
    await ask(stores)
    await stores.queue.note_asked([ALICE], at=T0 + SECOND + MICROSECOND)
    await stores.pass_time(DUE_IN)
    assert await taken(stores, due(active_since=T0 + SECOND + MICROSECOND)) == ["alice"]


@pytest.mark.parametrize("idle", [False, True], ids=["awaited", "idle"])
async def test_a_grant_at_rest_is_left_alone_for_an_hour_whoever_asks(stores: Stores, idle: bool) -> None:
    await ready(stores)
    which = due(idle_since=T0) if idle else due()
    await claim_due(stores, attempt_id="mine")
    await stores.grants.release(ALICE, attempt_id="mine", at_rest=True)
    await ask(stores)
    await stores.pass_time(HOUR - MINUTE)
    assert await taken(stores, which) == []
    await stores.pass_time(MINUTE)
    assert await taken(stores, which) == ["alice"]


async def test_a_grant_given_back_stays_on_the_list(stores: Stores) -> None:
    await ready(stores)
    await claim_due(stores, attempt_id="mine")
    await stores.grants.release(ALICE, attempt_id="mine")
    assert await taken(stores) == ["alice"]


async def test_nobody_puts_the_grant_of_another_at_rest(stores: Stores) -> None:
    await ready(stores)
    await stores.grants.release(ALICE, attempt_id="other", at_rest=True)
    assert await taken(stores) == ["alice"]


async def test_asking_for_what_is_not_there_makes_and_breaks_nothing(stores: Stores) -> None:
    await connected(stores.grants)
    await stores.queue.note_asked([], at=T0)
    await stores.queue.note_asked([BOB, ALICE, ALICE], at=T0)
    assert await stores.grants.get(BOB) is None
    await stores.pass_time(DUE_IN)
    assert await taken(stores) == ["alice"]


async def test_asking_for_a_dead_grant_does_not_count(stores: Stores) -> None:
    await connected(stores.grants)
    await claim(stores.grants, "mine")
    await stores.grants.declare_dead(
        ALICE, generation=1, attempt_id="mine", reason=Reason.REFUSED, code="invalid_grant", at=T0
    )
    await ask(stores)
    await stores.grants.revive(ALICE)
    await stores.pass_time(DUE_IN)
    assert await taken(stores) == []


async def test_a_revived_grant_that_was_asked_for_is_claimed(stores: Stores) -> None:
    await ready(stores)
    await claim(stores.grants, "mine")
    await stores.grants.declare_dead(
        ALICE, generation=1, attempt_id="mine", reason=Reason.REFUSED, code="invalid_grant", at=T0
    )
    await stores.grants.revive(ALICE)
    assert await taken(stores) == ["alice"]


async def test_asking_changes_nothing_that_the_core_can_see(stores: Stores) -> None:
    before = await connected(stores.grants)
    await ask(stores)
    assert await stored(stores.grants) == before


async def test_more_than_a_thousand_are_noted_at_once(stores: Stores) -> None:
    everybody = [GrantId("versature", f"user {i}") for i in range(1100)]
    for grant in everybody:
        await stores.grants.ensure(grant)
    first, last = min(everybody, key=lambda grant: grant.user), max(everybody, key=lambda grant: grant.user)
    await connected(stores.grants, first)
    await connected(stores.grants, last)
    await stores.queue.note_asked(everybody, at=T0)
    await stores.pass_time(DUE_IN)
    assert sorted(await taken(stores)) == [first.user, last.user]
    for _ in range(2):
        assert await taken(stores, due(active_since=T0 + DAY)) == []


# Pace


async def test_no_more_are_claimed_than_the_limit(stores: Stores) -> None:
    await many_ready(stores, 5)
    assert len(await taken(stores, due(limit=3))) == 3


@pytest.mark.parametrize(("per_second", "burst"), [(10.0, 10), (3.0, 3), (7.0, 7), (2.5, 2), (1.0, 1), (0.3, 1)])
async def test_a_rested_fleet_may_claim_a_seconds_worth_at_once_and_at_least_one(
    stores: Stores, per_second: float, burst: int
) -> None:
    await many_ready(stores, 12)
    assert len(await taken(stores, due(per_second=per_second))) == burst
    assert await taken(stores, due(per_second=per_second)) == []


async def test_the_pace_is_kept_over_time(stores: Stores) -> None:
    await many_ready(stores, 30)
    steady = due(per_second=10)
    assert len(await taken(stores, steady)) == 10
    await stores.pass_time(SECOND / 10 - MICROSECOND)
    assert await taken(stores, steady) == []
    await stores.pass_time(MICROSECOND)
    assert len(await taken(stores, steady)) == 1
    await stores.pass_time(SECOND / 2)
    assert len(await taken(stores, steady)) == 5
    await stores.pass_time(HOUR / 60)
    assert len(await taken(stores, steady)) == 10


async def test_a_slow_pace_lets_one_through_at_its_time(stores: Stores) -> None:
    await many_ready(stores, 4)
    slow = due(per_second=0.5)
    assert len(await taken(stores, slow)) == 1
    await stores.pass_time(2 * SECOND - MICROSECOND)
    assert await taken(stores, slow) == []
    await stores.pass_time(MICROSECOND)
    assert len(await taken(stores, slow)) == 1


async def test_only_what_was_claimed_uses_up_the_pace(stores: Stores) -> None:
    await many_ready(stores, 12)
    assert len(await taken(stores, due(per_second=10, limit=4))) == 4
    assert len(await taken(stores, due(per_second=10))) == 6


async def test_each_application_has_its_own_pace(stores: Stores) -> None:
    await ready(stores, ALICE, GrantId("other", "alice"), GrantId("other", "bob"))
    assert len(await taken(stores, due(per_second=1, application="other"))) == 1
    await stores.pass_time(SECOND)
    assert await taken(stores, due(per_second=1)) == ["alice"]
    assert len(await taken(stores, due(per_second=1, application="other"))) == 1


async def test_a_clock_set_back_stops_nobody_for_longer_than_the_pace(stores: Stores) -> None:
    await many_ready(stores, 3)
    await stores.pass_time(DAY)
    assert len(await taken(stores, due(per_second=1))) == 1
    await stores.pass_time(-HOUR)
    assert await taken(stores, due(per_second=1)) == []
    await stores.pass_time(SECOND)
    assert len(await taken(stores, due(per_second=1))) == 1


async def test_claims_at_once_take_no_grant_twice_and_keep_the_pace(stores: Stores) -> None:
    await many_ready(stores, 30)
    all_claims = await asyncio.gather(*(taken(stores, due(per_second=20, limit=8)) for _ in range(6)))
    users = [user for claims in all_claims for user in claims]
    assert len(users) == len(set(users)) == 20


# Refusals without a code


async def refuse(stores: Stores, attempt_id: str, at: datetime, *, uncoded: bool = True) -> None:
    await claim(stores.grants, attempt_id)
    setback = Setback("upstream_refused", at=at, retry_at=T0, finished=True, uncoded=uncoded)
    await stores.grants.note_setback(ALICE, attempt_id=attempt_id, setback=setback)


async def refused(stores: Stores) -> tuple[int, datetime | None]:
    grant = await stored(stores.grants)
    return grant.refusals, grant.refused_since


async def test_refusals_without_a_code_are_counted_from_the_first(stores: Stores) -> None:
    await connected(stores.grants)
    await refuse(stores, "first", T0 + SECOND)
    await refuse(stores, "second", T0 + HOUR)
    assert await refused(stores) == (2, T0 + SECOND)


async def test_other_setbacks_neither_count_as_refusals_nor_end_them(stores: Stores) -> None:
    await connected(stores.grants)
    await refuse(stores, "other", T0, uncoded=False)
    assert await refused(stores) == (0, None)
    await refuse(stores, "first", T0 + SECOND)
    await refuse(stores, "other", T0 + HOUR, uncoded=False)
    assert await refused(stores) == (1, T0 + SECOND)


async def test_a_dead_grant_still_tells_of_its_refusals_and_a_revived_one_begins_anew(stores: Stores) -> None:
    await connected(stores.grants)
    await refuse(stores, "first", T0 + SECOND)
    await claim(stores.grants, "second")
    await stores.grants.declare_dead(
        ALICE, generation=1, attempt_id="second", reason=Reason.REFUSED, code="refused", at=T0
    )
    assert await refused(stores) == (1, T0 + SECOND)
    await stores.grants.revive(ALICE)
    assert await refused(stores) == (0, None)


@pytest.mark.parametrize("how", ["save", "connect", "import"])
async def test_a_success_ends_the_count_of_refusals(stores: Stores, how: str) -> None:
    await connected(stores.grants)
    await refuse(stores, "first", T0 + SECOND)
    if how == "save":
        await save(stores)
    elif how == "connect":
        await connect(stores.grants, tokens("a2", "r2"), "again")
    else:
        await stores.grants.import_(ALICE, tokens("a2", "r2"), at=T0)
    assert await refused(stores) == (0, None)


async def test_another_users_renewal_counts_as_a_success_of_others_only_after_the_instant(stores: Stores) -> None:
    await connected(stores.grants)
    await connected(stores.grants, BOB)
    await stores.pass_time(HOUR)
    await save(stores, grant=BOB)
    assert await stores.queue.others_succeeded(ALICE, since=T0 + HOUR - MICROSECOND)
    assert not await stores.queue.others_succeeded(ALICE, since=T0 + HOUR)


async def test_ones_own_renewal_is_no_success_of_others(stores: Stores) -> None:
    await connected(stores.grants)
    await save(stores)
    assert not await stores.queue.others_succeeded(ALICE, since=T0 - SECOND)


@pytest.mark.parametrize("other", [COMPANY, GrantId("other", "bob")])
async def test_neither_the_company_nor_another_application_counts_as_others(stores: Stores, other: GrantId) -> None:
    await connected(stores.grants)
    await connected(stores.grants, other)
    await save(stores, grant=other)
    assert not await stores.queue.others_succeeded(ALICE, since=T0 - SECOND)


async def test_a_revoked_grant_is_no_success_of_others(stores: Stores) -> None:
    await connected(stores.grants)
    await connected(stores.grants, BOB)
    await revoke(stores.grants, BOB)
    assert not await stores.queue.others_succeeded(ALICE, since=T0 - SECOND)


async def test_an_import_is_no_success_for_it_asked_the_provider_nothing(stores: Stores) -> None:
    await stores.grants.import_(BOB, tokens("a1", "r1"), at=T0)
    assert not await stores.queue.others_succeeded(ALICE, since=T0 - SECOND)
    await save(stores, grant=BOB)
    assert await stores.queue.others_succeeded(ALICE, since=T0 - SECOND)


# Revocations to be told


async def retold(stores: Stores, *, limit: int = 10, pause: timedelta = PAUSE) -> list[str]:
    return [grant.id.user for grant in await stores.queue.claim_revocations(limit=limit, pause=pause)]


async def test_a_revocation_is_handed_out_once_it_may_be_told_again(stores: Stores) -> None:
    await connected(stores.grants)
    await revoke(stores.grants, retry_at=T0 + PAUSE)
    await stores.pass_time(PAUSE - MICROSECOND)
    assert await retold(stores) == []
    await stores.pass_time(MICROSECOND)
    (grant,) = await stores.queue.claim_revocations(limit=10, pause=PAUSE)
    assert grant == await stored(stores.grants)
    assert (grant.state, grant.refresh_sealed) == (GrantState.REVOKED, b"sealed r1")


async def test_a_revocation_is_told_again_after_ever_longer_pauses_up_to_an_hour(stores: Stores) -> None:
    await connected(stores.grants)
    await revoke(stores.grants, retry_at=T0)
    pauses = [PAUSE * 2**doublings for doublings in range(1, 6)] + [HOUR, HOUR]
    for pause in pauses:
        assert await retold(stores) == ["alice"]
        await stores.pass_time(pause - MICROSECOND)
        assert await retold(stores) == []
        await stores.pass_time(MICROSECOND)


async def test_a_revocation_told_countless_times_is_still_told_every_hour(stores: Stores) -> None:
    await connected(stores.grants)
    await revoke(stores.grants, retry_at=T0)
    for _ in range(80):
        assert await retold(stores, pause=HOUR) == ["alice"]
        await stores.pass_time(HOUR)


async def test_no_more_revocations_are_handed_out_than_the_limit_those_waiting_longest_first(stores: Stores) -> None:
    for minutes, grant in enumerate((CAROL, ALICE, BOB)):
        await connected(stores.grants, grant)
        await revoke(stores.grants, grant, retry_at=T0 + timedelta(minutes=minutes))
    await stores.pass_time(HOUR)
    assert sorted(await retold(stores, limit=2)) == ["alice", "carol"]
    assert await retold(stores) == ["bob"]


async def test_what_the_provider_knows_or_need_not_know_is_not_handed_out(stores: Stores) -> None:
    for grant in (ALICE, BOB, CAROL):
        await connected(stores.grants, grant)
    await revoke(stores.grants, retry_at=T0)
    await stores.grants.finish_revocation(ALICE, generation=2, upstream=UpstreamRevocation.REVOKED)
    await revoke(stores.grants, BOB, upstream=UpstreamRevocation.NOT_CONFIGURED, retry_at=T0)
    await stores.pass_time(DAY)
    assert await retold(stores) == []


async def test_a_grant_connected_again_has_no_revocation_to_be_told(stores: Stores) -> None:
    await connected(stores.grants)
    await revoke(stores.grants, retry_at=T0)
    grant = await connect(stores.grants, tokens("a2", "r2"), "again")
    assert (grant.retry_at, grant.failures) == (None, 0)
    assert await retold(stores) == []


async def test_revocations_claimed_at_once_are_handed_out_once_each(stores: Stores) -> None:
    users = [f"user {i:02}" for i in range(12)]
    for user in users:
        await connected(stores.grants, GrantId("versature", user))
        await revoke(stores.grants, GrantId("versature", user), retry_at=T0)
    handed_out = await asyncio.gather(*(retold(stores, limit=4) for _ in range(8)))
    found = [user for some in handed_out for user in some]
    assert len(found) == len(set(found))
    assert sorted([*found, *await retold(stores, limit=12)]) == users
