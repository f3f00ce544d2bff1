"""What every `GrantStore` promises about claims and how they end."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from service.core.model import Claim, Failure, Grant, GrantId, GrantState, Reason, SealedTokens
from service.core.ports import GrantStore
from service.core.records import Force, Setback
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

RETRY_IN = timedelta(minutes=2)


async def save(
    grants: GrantStore,
    attempt_id: str,
    answer: SealedTokens,
    grant: GrantId = ALICE,
    *,
    generation: int = 1,
) -> bool:
    at = answer.issued_at + SECOND
    return await grants.save(grant, generation=generation, attempt_id=attempt_id, tokens=answer, at=at)


async def set_back(grants: GrantStore, attempt_id: str, *, finished: bool = True, spent: bool = False) -> None:
    setback = Setback("upstream_unavailable", at=T0 + SECOND, retry_at=T0 + RETRY_IN, finished=finished, spent=spent)
    await grants.note_setback(ALICE, attempt_id=attempt_id, setback=setback)


async def declare_dead(grants: GrantStore, attempt_id: str, *, generation: int = 1) -> bool:
    return await grants.declare_dead(
        ALICE, generation=generation, attempt_id=attempt_id, reason=Reason.REFUSED, code="invalid_grant", at=T0 + SECOND
    )


async def left_unfinished(stores: Stores) -> Grant:
    """Alice's grant, claimed by `second` over `first`, which never ended."""
    await connected(stores.grants)
    assert await claim(stores.grants, "first")
    await stores.pass_time(LEASE + TAKEOVER + MICROSECOND)
    taken_over = await claim(stores.grants, "second")
    assert taken_over is not None
    return taken_over


# Rows


async def test_a_grant_that_was_never_made_is_not_there(stores: Stores) -> None:
    assert await stores.grants.get(ALICE) is None


async def test_a_row_made_to_be_claimed_holds_nothing(stores: Stores) -> None:
    await stores.grants.ensure(ALICE)
    grant = await stored(stores.grants)
    assert (grant.generation, grant.state, grant.exists) == (0, GrantState.CONNECTED, False)
    assert (grant.access_sealed, grant.refresh_sealed, grant.claim, grant.obtained_at) == (None, None, None, None)


async def test_ensuring_a_row_changes_none_that_is_there(stores: Stores) -> None:
    grant = await connected(stores.grants)
    await stores.grants.ensure(ALICE)
    assert await stored(stores.grants) == grant


@pytest.mark.parametrize(
    "other",
    [GrantId("versature", "Alice"), GrantId("versature", "alice "), GrantId("Versature", "alice"), GrantId("x", "é")],
)
async def test_users_and_applications_are_exact(stores: Stores, other: GrantId) -> None:
    await connected(stores.grants)
    assert await stores.grants.get(other) is None
    await connected(stores.grants, other, "another")
    assert await claim(stores.grants, "a")
    assert (await stored(stores.grants, other)).claim is None


async def test_every_value_comes_back_to_the_microsecond(stores: Stores) -> None:
    answer = tokens("a1", "r1", at=T0 + timedelta(microseconds=123_457))
    grant = await connect(stores.grants, answer, "login", at=T0 + 3 * MICROSECOND)
    assert grant == await stored(stores.grants)
    assert grant == Grant(
        id=ALICE,
        state=GrantState.CONNECTED,
        reason=None,
        generation=1,
        fingerprint=FINGERPRINT,
        access_sealed=b"sealed a1",
        refresh_sealed=b"sealed r1",
        scope="Office Manager",
        obtained_at=T0 + 3 * MICROSECOND,
        renewed_at=T0 + 3 * MICROSECOND,
        issued_at=answer.issued_at,
        access_expires_at=answer.access_expires_at,
        due_at=answer.due_at,
        refresh_expires_at=answer.refresh_expires_at,
        claim=None,
        unfinished_generation=None,
        saved_attempt_id="login",
        failures=0,
        refusals=0,
        refused_since=None,
        last_error=None,
        retry_at=None,
        forced_until=None,
        forced_interval=None,
        upstream_revocation=None,
    )


# Claim


async def test_a_claim_is_written_with_its_attempt_and_the_end_of_its_lease(stores: Stores) -> None:
    grant = await connected(stores.grants)
    claimed = await claim(stores.grants, "mine")
    assert claimed == replace(grant, claim=Claim("mine", T0, T0 + LEASE))
    assert await stored(stores.grants) == claimed


async def test_a_claim_excludes_every_other(stores: Stores) -> None:
    await connected(stores.grants)
    first = await claim(stores.grants, "first")
    assert await claim(stores.grants, "second") is None
    assert await claim(stores.grants, "first") is None
    assert await stored(stores.grants) == first


async def test_a_claim_excludes_no_other_grant(stores: Stores) -> None:
    bob, elsewhere = GrantId("versature", "bob"), GrantId("other", "alice")
    for grant in (ALICE, bob, elsewhere):
        await connected(stores.grants, grant)
    assert await claim(stores.grants, "first")
    assert await claim(stores.grants, "second", bob)
    assert await claim(stores.grants, "third", elsewhere)


async def test_what_is_not_there_cannot_be_claimed(stores: Stores) -> None:
    assert await claim(stores.grants, "a", generation=0) is None
    assert await stores.grants.get(ALICE) is None


@pytest.mark.parametrize("generation", [0, 1, 3])
async def test_only_the_present_generation_can_be_claimed(stores: Stores, generation: int) -> None:
    await connected(stores.grants)
    await save(stores.grants, "a", tokens("a2", "r2"))
    assert await claim(stores.grants, "b", generation=generation) is None
    assert await claim(stores.grants, "b", generation=2)


async def test_nobody_takes_over_before_the_lease_and_the_time_after_it_have_passed(stores: Stores) -> None:
    await connected(stores.grants)
    first = await claim(stores.grants, "first")
    await stores.pass_time(LEASE + TAKEOVER)
    assert await claim(stores.grants, "second") is None
    assert await stored(stores.grants) == first
    await stores.pass_time(MICROSECOND)
    assert await claim(stores.grants, "second")


async def test_the_predecessors_lease_counts_and_not_ones_own(stores: Stores) -> None:
    await connected(stores.grants)
    await claim(stores.grants, "first", lease=HOUR)
    await stores.pass_time(LEASE + TAKEOVER + SECOND)
    assert await claim(stores.grants, "second", lease=SECOND) is None


async def test_an_unfinished_predecessor_is_copied_aside(stores: Stores) -> None:
    taken_over = await left_unfinished(stores)
    assert taken_over.unfinished_generation == 1
    now = stores.clock.now()
    assert taken_over.claim == Claim("second", now, now + LEASE)
    assert (await stored(stores.grants)).unfinished_generation == 1


async def test_a_claim_over_nobody_leaves_no_predecessor(stores: Stores) -> None:
    await connected(stores.grants)
    await claim(stores.grants, "first")
    await stores.grants.release(ALICE, attempt_id="first")
    claimed = await claim(stores.grants, "second")
    assert claimed is not None
    assert claimed.unfinished_generation is None


async def test_an_unfinished_attempt_stays_known_when_its_successor_gives_the_claim_back(stores: Stores) -> None:
    await left_unfinished(stores)
    await stores.grants.release(ALICE, attempt_id="second")
    claimed = await claim(stores.grants, "third")
    assert claimed is not None
    assert claimed.unfinished_generation == 1


async def test_a_grant_left_alone_is_not_claimed_before_its_time(stores: Stores) -> None:
    await connected(stores.grants)
    await claim(stores.grants, "first")
    await set_back(stores.grants, "first")
    await stores.pass_time(RETRY_IN - MICROSECOND)
    assert await claim(stores.grants, "second") is None
    await stores.pass_time(MICROSECOND)
    assert await claim(stores.grants, "second")


async def test_a_changed_application_need_not_wait(stores: Stores) -> None:
    await connected(stores.grants)
    await claim(stores.grants, "first")
    await set_back(stores.grants, "first")
    assert await claim(stores.grants, "second", fingerprint=ELSEWHERE)


async def test_a_changed_application_does_not_break_a_claim(stores: Stores) -> None:
    await connected(stores.grants)
    await claim(stores.grants, "first")
    assert await claim(stores.grants, "second", fingerprint=ELSEWHERE) is None


async def test_a_claim_moves_the_fingerprint_of_the_company_only(stores: Stores) -> None:
    await connected(stores.grants)
    await stores.grants.ensure(COMPANY)
    alice = await claim(stores.grants, "a", fingerprint=ELSEWHERE)
    company = await claim(stores.grants, "b", COMPANY, generation=0, fingerprint=ELSEWHERE)
    assert alice is not None
    assert company is not None
    assert (alice.fingerprint, company.fingerprint) == (FINGERPRINT, ELSEWHERE)


async def test_a_dead_grant_is_not_claimed(stores: Stores) -> None:
    await connected(stores.grants)
    await claim(stores.grants, "first")
    assert await declare_dead(stores.grants, "first")
    assert await claim(stores.grants, "second") is None


async def test_a_revoked_grant_is_not_claimed(stores: Stores) -> None:
    await connected(stores.grants)
    await revoke(stores.grants)
    assert await claim(stores.grants, "a", generation=2) is None


async def test_a_forced_claim_keeps_the_next_forced_one_at_its_distance(stores: Stores) -> None:
    await connected(stores.grants)
    force = Force(until=T0 + HOUR, interval=timedelta(seconds=90))
    claimed = await claim(stores.grants, "first", force=force)
    assert claimed is not None
    assert (claimed.forced_until, claimed.forced_interval) == (T0 + HOUR, timedelta(seconds=90))
    assert await save(stores.grants, "first", tokens("a2", "r2"))
    next_force = Force(until=T0 + 3 * HOUR, interval=timedelta(seconds=180))
    await stores.pass_time(HOUR - MICROSECOND)
    assert await claim(stores.grants, "second", generation=2, force=next_force) is None
    assert (await stored(stores.grants)).forced_until == T0 + HOUR
    await stores.pass_time(MICROSECOND)
    claimed = await claim(stores.grants, "second", generation=2, force=next_force)
    assert claimed is not None
    assert (claimed.forced_until, claimed.forced_interval) == (T0 + 3 * HOUR, timedelta(seconds=180))


async def test_an_ordinary_claim_knows_no_forced_limit(stores: Stores) -> None:
    await connected(stores.grants)
    await claim(stores.grants, "first", force=Force(until=T0 + HOUR, interval=HOUR))
    await save(stores.grants, "first", tokens("a2", "r2"))
    claimed = await claim(stores.grants, "second", generation=2)
    assert claimed is not None
    assert claimed.forced_until == T0 + HOUR


async def test_fifty_claims_at_once_are_one(stores: Stores) -> None:
    await connected(stores.grants)
    claims = await asyncio.gather(*(claim(stores.grants, f"attempt {i}") for i in range(50)))
    won = [grant for grant in claims if grant is not None]
    assert len(won) == 1
    assert await stored(stores.grants) == won[0]


# Save


async def test_a_saved_answer_is_the_next_generation_and_ends_the_claim(stores: Stores) -> None:
    await connected(stores.grants)
    await claim(stores.grants, "mine")
    answer = tokens("a2", "r2", at=T0 + HOUR, scope="Clerk", fingerprint=ELSEWHERE)
    assert await save(stores.grants, "mine", answer)
    grant = await stored(stores.grants)
    assert (grant.generation, grant.saved_attempt_id, grant.claim) == (2, "mine", None)
    assert (grant.access_sealed, grant.refresh_sealed) == (b"sealed a2", b"sealed r2")
    assert (grant.scope, grant.fingerprint) == ("Clerk", ELSEWHERE)
    assert (grant.issued_at, grant.access_expires_at) == (answer.issued_at, answer.access_expires_at)
    assert (grant.due_at, grant.refresh_expires_at) == (answer.due_at, answer.refresh_expires_at)
    assert (grant.obtained_at, grant.renewed_at) == (T0, T0 + HOUR + SECOND)


@pytest.mark.parametrize("generation", [0, 2])
async def test_an_answer_to_another_generation_is_refused(stores: Stores, generation: int) -> None:
    grant = await connected(stores.grants)
    assert not await save(stores.grants, "mine", tokens("a2", "r2"), generation=generation)
    assert await stored(stores.grants) == grant


async def test_an_answer_for_no_grant_is_refused(stores: Stores) -> None:
    assert not await save(stores.grants, "mine", tokens("a2", "r2"), generation=0)
    assert await stores.grants.get(ALICE) is None


async def test_a_second_answer_to_one_generation_is_refused_even_to_its_own_attempt(stores: Stores) -> None:
    await connected(stores.grants)
    await claim(stores.grants, "mine")
    assert await save(stores.grants, "mine", tokens("a2", "r2"))
    first = await stored(stores.grants)
    assert not await save(stores.grants, "mine", tokens("a2 again", "r2"))
    assert await stored(stores.grants) == first


async def test_a_late_answer_is_saved_whoever_holds_the_claim(stores: Stores) -> None:
    await left_unfinished(stores)
    assert await save(stores.grants, "first", tokens("a2", "r2"))
    grant = await stored(stores.grants)
    assert (grant.generation, grant.saved_attempt_id, grant.claim) == (2, "first", None)
    assert not await save(stores.grants, "second", tokens("a3", "r3"))


async def test_a_late_answer_revives_a_grant_that_was_declared_dead_meanwhile(stores: Stores) -> None:
    await left_unfinished(stores)
    assert await declare_dead(stores.grants, "second")
    assert await save(stores.grants, "first", tokens("a2", "r2"))
    grant = await stored(stores.grants)
    assert (grant.state, grant.reason, grant.last_error) == (GrantState.CONNECTED, None, None)
    assert grant.refresh_sealed == b"sealed r2"


async def test_a_saved_answer_ends_all_trouble(stores: Stores) -> None:
    await connected(stores.grants)
    for attempt in ("first", "second"):
        await claim(stores.grants, attempt)
        await set_back(stores.grants, attempt)
        await stores.pass_time(RETRY_IN)
    await claim(stores.grants, "third")
    assert await save(stores.grants, "third", tokens("a2", "r2"))
    grant = await stored(stores.grants)
    assert (grant.failures, grant.last_error, grant.retry_at) == (0, None, None)


async def test_an_answer_without_refresh_token_keeps_the_old_one(stores: Stores) -> None:
    before = await connected(stores.grants)
    assert await save(stores.grants, "mine", tokens("a2", at=T0 + HOUR))
    grant = await stored(stores.grants)
    assert (grant.access_sealed, grant.refresh_sealed) == (b"sealed a2", b"sealed r1")
    assert grant.refresh_expires_at == before.refresh_expires_at
    assert (await stores.grants.import_(ALICE, tokens("x", "r1"), at=T0))[0] == grant


async def test_an_answer_with_the_same_refresh_token_does_not_prolong_its_life(stores: Stores) -> None:
    before = await connected(stores.grants)
    sealed_anew = replace(tokens("a2", "r1", at=T0 + HOUR), refresh_sealed=b"sealed r1 anew")
    assert await save(stores.grants, "mine", sealed_anew)
    grant = await stored(stores.grants)
    assert grant.refresh_sealed == b"sealed r1 anew"
    assert grant.refresh_expires_at == before.refresh_expires_at


async def test_a_rotated_refresh_token_begins_a_life_of_its_own(stores: Stores) -> None:
    await connected(stores.grants)
    answer = tokens("a2", "r2", at=T0 + HOUR)
    assert await save(stores.grants, "mine", answer)
    assert (await stored(stores.grants)).refresh_expires_at == answer.refresh_expires_at


async def test_the_companys_first_answer_makes_its_grant(stores: Stores) -> None:
    await stores.grants.ensure(COMPANY)
    assert await claim(stores.grants, "mine", COMPANY, generation=0)
    assert await save(stores.grants, "mine", tokens("a1"), COMPANY, generation=0)
    grant = await stored(stores.grants, COMPANY)
    assert (grant.generation, grant.access_sealed, grant.refresh_sealed) == (1, b"sealed a1", None)
    assert (grant.obtained_at, grant.renewed_at) == (T0 + SECOND, T0 + SECOND)


async def test_a_lost_attempt_stays_suspected_until_a_later_refresh_token_has_worked(stores: Stores) -> None:
    await left_unfinished(stores)
    assert await save(stores.grants, "second", tokens("a2", "r2"))
    assert (await stored(stores.grants)).unfinished_generation == 1
    await claim(stores.grants, "third", generation=2)
    assert await save(stores.grants, "third", tokens("a3", "r3"), generation=2)
    assert (await stored(stores.grants)).unfinished_generation is None


@pytest.mark.parametrize("refresh_token", ["r1", None])
async def test_a_lost_attempt_is_forgiven_when_the_provider_does_not_rotate(
    stores: Stores, refresh_token: str | None
) -> None:
    await left_unfinished(stores)
    assert await save(stores.grants, "second", tokens("a2", refresh_token))
    assert (await stored(stores.grants)).unfinished_generation is None


# Release, setback, death: only by the claim's owner


async def test_a_released_claim_leaves_no_other_trace(stores: Stores) -> None:
    grant = await connected(stores.grants)
    await claim(stores.grants, "mine")
    await stores.grants.release(ALICE, attempt_id="mine")
    assert await stored(stores.grants) == grant
    assert await claim(stores.grants, "other")


async def test_nobody_releases_the_claim_of_another(stores: Stores) -> None:
    await connected(stores.grants)
    claimed = await claim(stores.grants, "mine")
    await stores.grants.release(ALICE, attempt_id="other")
    assert await stored(stores.grants) == claimed


async def test_who_was_taken_over_releases_nothing(stores: Stores) -> None:
    taken_over = await left_unfinished(stores)
    await stores.grants.release(ALICE, attempt_id="first")
    assert await stored(stores.grants) == taken_over


async def test_a_finished_setback_is_counted_and_ends_the_claim(stores: Stores) -> None:
    grant = await connected(stores.grants)
    await claim(stores.grants, "mine")
    await set_back(stores.grants, "mine")
    failed = replace(grant, failures=1, last_error=Failure("upstream_unavailable", T0 + SECOND), retry_at=T0 + RETRY_IN)
    assert await stored(stores.grants) == failed
    await stores.pass_time(RETRY_IN)
    await claim(stores.grants, "again")
    await set_back(stores.grants, "again")
    assert await stored(stores.grants) == replace(failed, failures=2)


async def test_an_unfinished_setback_is_counted_and_leaves_the_claim(stores: Stores) -> None:
    await connected(stores.grants)
    claimed = await claim(stores.grants, "mine")
    assert claimed is not None
    await set_back(stores.grants, "mine", finished=False)
    assert await stored(stores.grants) == replace(
        claimed, failures=1, last_error=Failure("upstream_unavailable", T0 + SECOND), retry_at=T0 + RETRY_IN
    )


async def test_a_spent_refresh_token_is_noted_with_the_claims_end_and_stays_known(stores: Stores) -> None:
    await connected(stores.grants)
    await claim(stores.grants, "mine")
    await set_back(stores.grants, "mine", spent=True)
    grant = await stored(stores.grants)
    assert (grant.claim, grant.failures, grant.unfinished_generation) == (None, 1, 1)
    await stores.pass_time(RETRY_IN)
    claimed = await claim(stores.grants, "again")
    assert claimed is not None
    assert claimed.unfinished_generation == 1


async def test_a_setback_of_who_was_taken_over_is_not_noted(stores: Stores) -> None:
    taken_over = await left_unfinished(stores)
    await set_back(stores.grants, "first")
    assert await stored(stores.grants) == taken_over


async def test_a_setback_does_not_outlive_a_saved_answer(stores: Stores) -> None:
    await connected(stores.grants)
    await claim(stores.grants, "mine")
    await save(stores.grants, "other", tokens("a2", "r2"))
    saved = await stored(stores.grants)
    await set_back(stores.grants, "mine")
    assert await stored(stores.grants) == saved


async def test_a_dead_grant_says_why_and_keeps_what_it_holds(stores: Stores) -> None:
    grant = await connected(stores.grants)
    await claim(stores.grants, "mine")
    assert await declare_dead(stores.grants, "mine")
    assert await stored(stores.grants) == replace(
        grant,
        state=GrantState.REAUTHORIZATION_REQUIRED,
        reason=Reason.REFUSED,
        last_error=Failure("invalid_grant", T0 + SECOND),
    )


@pytest.mark.parametrize(("attempt_id", "generation"), [("other", 1), ("mine", 0), ("mine", 2)])
async def test_only_the_claims_owner_declares_dead_and_only_its_generation(
    stores: Stores, attempt_id: str, generation: int
) -> None:
    await connected(stores.grants)
    claimed = await claim(stores.grants, "mine")
    assert not await declare_dead(stores.grants, attempt_id, generation=generation)
    assert await stored(stores.grants) == claimed


async def test_a_stale_invalid_grant_never_kills_the_winner(stores: Stores) -> None:
    await left_unfinished(stores)
    assert await save(stores.grants, "first", tokens("a2", "r2"))
    winner = await stored(stores.grants)
    assert not await declare_dead(stores.grants, "second")
    assert not await declare_dead(stores.grants, "second", generation=2)
    assert await stored(stores.grants) == winner


async def test_who_was_taken_over_declares_nobody_dead(stores: Stores) -> None:
    taken_over = await left_unfinished(stores)
    assert not await declare_dead(stores.grants, "first")
    assert await stored(stores.grants) == taken_over


async def test_a_grant_dies_with_its_lost_attempt_still_known(stores: Stores) -> None:
    await left_unfinished(stores)
    assert await declare_dead(stores.grants, "second")
    assert (await stored(stores.grants)).unfinished_generation == 1


@pytest.mark.parametrize("refresh_token", ["r1", None])
@pytest.mark.parametrize("dead", [False, True])
async def test_a_grant_of_that_generation_loses_its_rejected_access_token(
    stores: Stores, refresh_token: str | None, dead: bool
) -> None:
    await connected(stores.grants, refresh_token=refresh_token)
    if dead:
        await claim(stores.grants, "mine")
        assert await declare_dead(stores.grants, "mine")
    before = await stored(stores.grants)
    await stores.grants.discard_access(ALICE, generation=2)
    assert await stored(stores.grants) == before
    assert (await stores.grants.standings([ALICE]))[ALICE].has_token
    await stores.grants.discard_access(ALICE, generation=1)
    assert await stored(stores.grants) == replace(before, access_sealed=None, access_expires_at=None)
    assert not (await stores.grants.standings([ALICE]))[ALICE].has_token


async def test_a_revoked_grant_keeps_the_access_token_that_the_provider_must_be_told(stores: Stores) -> None:
    await connected(stores.grants, refresh_token=None)
    revoked = await revoke(stores.grants)
    assert revoked is not None
    assert revoked.access_sealed is not None
    await stores.grants.discard_access(ALICE, generation=revoked.generation)
    assert await stored(stores.grants) == revoked
