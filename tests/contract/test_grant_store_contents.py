"""What every `GrantStore` promises about connecting, taking over, revoking and reviving."""

import asyncio
from dataclasses import replace

import pytest

from service.core.model import GrantState, Reason, UpstreamRevocation
from service.core.records import Force, Setback
from tests.contract.conftest import Stores
from tests.contract.samples import (
    ALICE,
    COMPANY,
    ELSEWHERE,
    HOUR,
    LEASE,
    MICROSECOND,
    SECOND,
    T0,
    TAKEOVER,
    claim,
    connect,
    connected,
    digest,
    revoke,
    stored,
    tokens,
)

LATER = T0 + HOUR


async def rotate(stores: Stores, *refresh_tokens: str) -> None:
    """Renew alice's grant once with each of *refresh_tokens*."""
    for refresh_token in refresh_tokens:
        generation = (await stored(stores.grants)).generation
        assert await stores.grants.save(
            ALICE, generation=generation, attempt_id=refresh_token, tokens=tokens("a", refresh_token), at=T0
        )


async def troubled(stores: Stores) -> None:
    """Alice's grant with everything that can be wrong: a lost attempt, a claim, a forced limit, a setback."""
    await connected(stores.grants)
    await claim(stores.grants, "first", force=Force(until=T0 + 9 * HOUR, interval=HOUR))
    await stores.pass_time(LEASE + TAKEOVER + MICROSECOND)
    await claim(stores.grants, "second")
    setback = Setback(code="upstream_unavailable", at=T0, retry_at=T0 + 9 * HOUR, finished=False)
    await stores.grants.note_setback(ALICE, attempt_id="second", setback=setback)


async def dead(stores: Stores) -> None:
    await connected(stores.grants)
    await claim(stores.grants, "mine")
    assert await stores.grants.declare_dead(
        ALICE, generation=1, attempt_id="mine", reason=Reason.REVOKED, code="invalid_grant", at=T0
    )


# Connect


async def test_a_connect_makes_the_grant(stores: Stores) -> None:
    grant = await connect(stores.grants, tokens("a1", "r1"), "login", at=LATER)
    assert (grant.generation, grant.state, grant.obtained_at, grant.renewed_at) == (
        1,
        GrantState.CONNECTED,
        LATER,
        LATER,
    )
    assert await stored(stores.grants) == grant


async def test_a_connect_fills_a_row_that_was_made_to_be_claimed(stores: Stores) -> None:
    await stores.grants.ensure(ALICE)
    assert (await connected(stores.grants)).generation == 1


async def test_a_connect_replaces_everything(stores: Stores) -> None:
    await connected(stores.grants)
    fresh = await connect(stores.grants, tokens("a1", "r1"), "untroubled", at=T0)
    await troubled_again(stores)
    answer = tokens("new", "r9", at=LATER, scope=None, fingerprint=ELSEWHERE)
    grant = await connect(stores.grants, answer, "again", at=LATER)
    assert grant == replace(
        fresh,
        generation=3,
        access_sealed=b"sealed new",
        refresh_sealed=b"sealed r9",
        scope=None,
        fingerprint=ELSEWHERE,
        obtained_at=LATER,
        renewed_at=LATER,
        issued_at=answer.issued_at,
        access_expires_at=answer.access_expires_at,
        due_at=answer.due_at,
        refresh_expires_at=answer.refresh_expires_at,
        saved_attempt_id="again",
    )
    assert await stored(stores.grants) == grant


async def troubled_again(stores: Stores) -> None:
    await claim(stores.grants, "first", generation=2, force=Force(until=T0 + 9 * HOUR, interval=HOUR))
    await stores.pass_time(LEASE + TAKEOVER + MICROSECOND)
    await claim(stores.grants, "second", generation=2)
    setback = Setback(code="upstream_unavailable", at=T0, retry_at=T0 + 9 * HOUR, finished=False)
    await stores.grants.note_setback(ALICE, attempt_id="second", setback=setback)
    grant = await stored(stores.grants)
    assert None not in {grant.claim, grant.unfinished_generation, grant.forced_until, grant.last_error, grant.retry_at}


async def test_a_connect_without_refresh_token_leaves_none(stores: Stores) -> None:
    await connected(stores.grants)
    grant = await connect(stores.grants, tokens("new"), "again", at=LATER)
    assert (grant.refresh_sealed, grant.refresh_expires_at) == (None, None)


async def test_a_connect_wins_over_a_renewal_under_way(stores: Stores) -> None:
    await connected(stores.grants)
    await claim(stores.grants, "renewal")
    grant = await connect(stores.grants, tokens("new", "r9"), "again", at=LATER)
    assert not await stores.grants.save(
        ALICE, generation=1, attempt_id="renewal", tokens=tokens("late", "r2"), at=LATER
    )
    await stores.grants.release(ALICE, attempt_id="renewal")
    assert not await stores.grants.declare_dead(
        ALICE, generation=1, attempt_id="renewal", reason=Reason.REFUSED, code="invalid_grant", at=LATER
    )
    assert await stored(stores.grants) == grant


async def test_a_connect_brings_a_dead_grant_back(stores: Stores) -> None:
    await dead(stores)
    grant = await connect(stores.grants, tokens("new", "r1"), "again", at=LATER)
    assert (grant.state, grant.reason, grant.last_error, grant.generation) == (GrantState.CONNECTED, None, None, 2)


async def test_a_connect_brings_a_revoked_grant_back(stores: Stores) -> None:
    await connected(stores.grants)
    await revoke(stores.grants)
    grant = await connect(stores.grants, tokens("new", "r9"), "again", at=LATER)
    assert (grant.state, grant.reason, grant.upstream_revocation, grant.generation) == (
        GrantState.CONNECTED,
        None,
        None,
        3,
    )


async def test_a_repeated_connect_changes_nothing(stores: Stores) -> None:
    grant = await connected(stores.grants)
    repeated = await connect(stores.grants, tokens("a1", "r1"), "login", at=LATER)
    assert repeated == grant == await stored(stores.grants)


async def test_a_repeated_connect_never_undoes_a_later_renewal(stores: Stores) -> None:
    await connected(stores.grants)
    await rotate(stores, "r2")
    renewed = await stored(stores.grants)
    assert await connect(stores.grants, tokens("a1", "r1"), "login", at=LATER) == renewed
    assert await stored(stores.grants) == renewed


async def test_a_repeated_connect_never_undoes_a_later_revocation(stores: Stores) -> None:
    await connected(stores.grants)
    await revoke(stores.grants)
    assert (await connect(stores.grants, tokens("a1", "r1"), "login", at=LATER)).state is (GrantState.REVOKED)
    assert (await stored(stores.grants)).generation == 2


async def test_connects_at_once_are_all_put_in_one_after_another(stores: Stores) -> None:
    answers = [tokens(f"a{i}", f"r{i}") for i in range(10)]
    done = await asyncio.gather(
        *(connect(stores.grants, answer, f"login {i}", at=T0) for i, answer in enumerate(answers))
    )
    assert sorted(grant.generation for grant in done) == list(range(1, 11))
    assert await stored(stores.grants) == max(done, key=lambda grant: grant.generation)


async def test_a_connect_issued_before_a_later_one_was_sent_changes_nothing(stores: Stores) -> None:
    newer = await connect(stores.grants, tokens("new", "r9", at=LATER), "newer", at=LATER)
    late = tokens("old", "r1", at=LATER - MICROSECOND)
    assert await stores.grants.connect(ALICE, late, at=LATER + HOUR, attempt_id="late", late=True) is None
    assert await stored(stores.grants) == newer
    assert (await connect(stores.grants, tokens("as new", "r2", at=LATER), "as new", at=LATER)).generation > 1


async def test_a_connect_counts_from_when_its_tokens_were_issued_and_not_from_when_they_came(stores: Stores) -> None:
    await connect(stores.grants, tokens("new", "r9"), "first", at=LATER)
    grant = await connect(stores.grants, tokens("newer", "r2", at=T0 + SECOND), "second", at=LATER)
    assert grant.access_sealed == b"sealed newer"


@pytest.mark.parametrize("how", ["import", "revoke"])
async def test_a_connect_issued_before_an_import_or_a_revocation_changes_nothing(stores: Stores, how: str) -> None:
    await connected(stores.grants)
    if how == "import":
        await stores.grants.import_(ALICE, tokens("imported", "r9"), at=LATER)
    else:
        await revoke(stores.grants, at=LATER)
    before = await stored(stores.grants)
    late = tokens("old", "r2", at=LATER - MICROSECOND)
    assert await stores.grants.connect(ALICE, late, at=LATER, attempt_id="late", late=True) is None
    assert await stored(stores.grants) == before
    assert (await connect(stores.grants, tokens("new", "r3", at=LATER), "new", at=LATER)).generation > 1


async def test_a_repeated_revocation_keeps_no_connect_of_before_it_away_any_longer(stores: Stores) -> None:
    await connected(stores.grants)
    await revoke(stores.grants, at=T0)
    await revoke(stores.grants, at=LATER)
    assert (await connect(stores.grants, tokens("new", "r2", at=T0 + SECOND), "new", at=LATER)).generation > 1


async def test_a_connect_that_is_saved_at_once_wins_whatever_was_entered_since_it_was_sent(stores: Stores) -> None:
    await stores.grants.import_(ALICE, tokens("a1", "r1"), at=LATER)
    earlier = tokens("new", "r2", at=LATER - MICROSECOND)
    grant = await stores.grants.connect(ALICE, earlier, at=LATER, attempt_id="login", late=False)
    assert grant is not None
    assert (grant.generation, grant.access_sealed) == (2, b"sealed new")


async def test_a_repeated_connect_is_known_even_after_a_later_import(stores: Stores) -> None:
    await connected(stores.grants)
    imported, _ = await stores.grants.import_(ALICE, tokens("imported", "r9"), at=LATER)
    assert await connect(stores.grants, tokens("a1", "r1"), "login", at=LATER) == imported


async def test_a_renewal_keeps_no_connect_away(stores: Stores) -> None:
    await connected(stores.grants)
    renewed = tokens("renewed", "r2", at=LATER)
    assert await stores.grants.save(ALICE, generation=1, attempt_id="renewal", tokens=renewed, at=LATER)
    grant = await connect(stores.grants, tokens("new", "r3", at=LATER - SECOND), "new", at=LATER)
    assert grant.access_sealed == b"sealed new"


# Import


async def test_an_import_makes_the_grant(stores: Stores) -> None:
    grant, created = await stores.grants.import_(ALICE, tokens("a1", "r1"), at=LATER)
    assert created
    assert (grant.generation, grant.state, grant.refresh_sealed) == (1, GrantState.CONNECTED, b"sealed r1")
    assert (grant.obtained_at, grant.saved_attempt_id) == (LATER, None)
    assert await stored(stores.grants) == grant


async def test_an_import_creates_even_where_a_row_was_made_to_be_claimed(stores: Stores) -> None:
    await stores.grants.ensure(ALICE)
    _, created = await stores.grants.import_(ALICE, tokens("a1", "r1"), at=LATER)
    assert created


async def test_an_import_of_an_unknown_refresh_token_always_wins(stores: Stores) -> None:
    await troubled(stores)
    grant, created = await stores.grants.import_(ALICE, tokens("new", "r9"), at=LATER)
    assert not created
    assert (grant.generation, grant.refresh_sealed, grant.access_sealed) == (2, b"sealed r9", b"sealed new")
    assert (grant.claim, grant.unfinished_generation, grant.forced_until, grant.failures, grant.retry_at) == (
        None,
        None,
        None,
        0,
        None,
    )
    assert not await stores.grants.save(ALICE, generation=1, attempt_id="second", tokens=tokens("late", "r2"), at=LATER)


async def test_an_import_without_access_token_leaves_none(stores: Stores) -> None:
    await connected(stores.grants)
    bare = replace(tokens("new", "r9"), access_sealed=None, access_expires_at=None, due_at=None)
    grant, _ = await stores.grants.import_(ALICE, bare, at=LATER)
    assert (grant.access_sealed, grant.access_expires_at, grant.due_at) == (None, None, None)


@pytest.mark.parametrize("refresh_token", ["r1", "r2", "r3"])
async def test_a_refresh_token_that_is_stored_or_was_spent_here_changes_nothing(
    stores: Stores, refresh_token: str
) -> None:
    await connected(stores.grants)
    await rotate(stores, "r2", "r3")
    before = await stored(stores.grants)
    assert await stores.grants.import_(ALICE, tokens("x", refresh_token), at=LATER) == (before, False)
    assert await stored(stores.grants) == before


@pytest.mark.parametrize("refresh_token", ["r1", "r2", "r3"])
@pytest.mark.parametrize("erased", [False, True])
async def test_after_a_revocation_no_refresh_token_of_before_comes_back(
    stores: Stores, refresh_token: str, erased: bool
) -> None:
    await stores.grants.import_(ALICE, tokens("a1", "r1"), at=T0)
    await rotate(stores, "r2", "r3")
    await revoke(stores.grants)
    if erased:
        await stores.grants.finish_revocation(ALICE, generation=4, upstream=UpstreamRevocation.REVOKED)
    before = await stored(stores.grants)
    assert await stores.grants.import_(ALICE, tokens("x", refresh_token), at=LATER) == (before, False)
    assert await stored(stores.grants) == before


async def test_an_import_of_an_unknown_refresh_token_ends_a_revocation(stores: Stores) -> None:
    await connected(stores.grants)
    await revoke(stores.grants)
    grant, created = await stores.grants.import_(ALICE, tokens("new", "r9"), at=LATER)
    assert not created
    assert (grant.state, grant.reason, grant.upstream_revocation) == (GrantState.CONNECTED, None, None)


async def test_a_refresh_token_replaced_by_a_connect_or_import_is_not_taken_over_again(stores: Stores) -> None:
    await connected(stores.grants)
    await stores.grants.import_(ALICE, tokens("a2", "r2"), at=T0)
    await connect(stores.grants, tokens("a3", "r3"), "again", at=T0)
    before = await stored(stores.grants)
    for refresh_token in ("r1", "r2"):
        assert await stores.grants.import_(ALICE, tokens("x", refresh_token), at=LATER) == (before, False)


async def test_an_import_repeated_after_many_rotations_still_restores_nothing(stores: Stores) -> None:
    await stores.grants.import_(ALICE, tokens("a1", "imported"), at=T0)
    await rotate(stores, *(f"r{i}" for i in range(80)))
    before = await stored(stores.grants)
    assert await stores.grants.import_(ALICE, tokens("x", "imported"), at=LATER) == (before, False)
    assert await stored(stores.grants) == before


async def test_the_last_64_spent_refresh_tokens_are_known(stores: Stores) -> None:
    await connected(stores.grants, refresh_token="r0")
    await rotate(stores, *(f"r{i}" for i in range(1, 65)))
    before = await stored(stores.grants)
    assert await stores.grants.import_(ALICE, tokens("x", "r0"), at=LATER) == (before, False)


async def test_the_last_16_imports_are_known_whatever_was_spent_since(stores: Stores) -> None:
    for i in range(16):
        await stores.grants.import_(ALICE, tokens("a", f"imported {i}"), at=T0)
    await rotate(stores, *(f"r{i}" for i in range(80)))
    before = await stored(stores.grants)
    assert await stores.grants.import_(ALICE, tokens("x", "imported 0"), at=LATER) == (before, False)


async def test_a_digest_that_lies_across_two_others_is_not_known(stores: Stores) -> None:
    await connected(stores.grants)
    await rotate(stores, "r2", "r3")
    across = digest("r3")[16:] + digest("r2")[:16]
    _, created = await stores.grants.import_(ALICE, replace(tokens("x", "r9"), refresh_digest=across), at=LATER)
    assert not created
    assert (await stored(stores.grants)).refresh_sealed == b"sealed r9"


async def test_one_import_many_times_at_once_is_put_in_once(stores: Stores) -> None:
    done = await asyncio.gather(*(stores.grants.import_(ALICE, tokens("a1", "r1"), at=T0) for _ in range(10)))
    assert sum(created for _, created in done) == 1
    assert {grant.generation for grant, _ in done} == {1}


# Revoke


async def test_what_was_never_connected_cannot_be_revoked(stores: Stores) -> None:
    assert await revoke(stores.grants) is None
    await stores.grants.ensure(ALICE)
    assert await revoke(stores.grants) is None


async def test_a_revocation_keeps_only_what_the_provider_must_be_told(stores: Stores) -> None:
    await troubled(stores)
    grant = await revoke(stores.grants)
    assert grant is not None
    assert (grant.state, grant.reason, grant.generation) == (GrantState.REVOKED, Reason.REVOKED, 2)
    assert (grant.access_sealed, grant.refresh_sealed) == (None, b"sealed r1")
    assert grant.upstream_revocation is UpstreamRevocation.PENDING
    assert (grant.claim, grant.forced_until, grant.unfinished_generation) == (None, None, None)
    assert await stored(stores.grants) == grant


async def test_a_revocation_without_refresh_token_keeps_the_access_token_to_be_revoked(stores: Stores) -> None:
    await connected(stores.grants, refresh_token=None)
    grant = await revoke(stores.grants)
    assert grant is not None
    assert grant.access_sealed == b"sealed a1"


async def test_a_revocation_that_the_provider_need_not_know_erases_at_once(stores: Stores) -> None:
    await connected(stores.grants)
    grant = await revoke(stores.grants, upstream=UpstreamRevocation.NOT_CONFIGURED, at=T0)
    assert grant is not None
    assert (grant.access_sealed, grant.refresh_sealed) == (None, None)


async def test_a_dead_grant_can_be_revoked(stores: Stores) -> None:
    await dead(stores)
    grant = await revoke(stores.grants)
    assert grant is not None
    assert (grant.state, grant.reason, grant.last_error) == (GrantState.REVOKED, Reason.REVOKED, None)


@pytest.mark.parametrize("finished", [False, True])
async def test_a_repeated_revocation_changes_nothing(stores: Stores, finished: bool) -> None:
    await connected(stores.grants)
    await revoke(stores.grants)
    if finished:
        await stores.grants.finish_revocation(ALICE, generation=2, upstream=UpstreamRevocation.REVOKED)
    before = await stored(stores.grants)
    assert await revoke(stores.grants, upstream=UpstreamRevocation.NOT_CONFIGURED, at=LATER) == before
    assert await stored(stores.grants) == before


async def test_an_answer_that_comes_over_a_revocation_is_refused(stores: Stores) -> None:
    await connected(stores.grants)
    await claim(stores.grants, "renewal")
    await revoke(stores.grants)
    before = await stored(stores.grants)
    assert not await stores.grants.save(
        ALICE, generation=1, attempt_id="renewal", tokens=tokens("late", "r2"), at=LATER
    )
    await stores.grants.release(ALICE, attempt_id="renewal")
    assert await stored(stores.grants) == before


async def test_once_the_provider_knows_the_secrets_are_erased(stores: Stores) -> None:
    await connected(stores.grants)
    await revoke(stores.grants)
    before = await stored(stores.grants)
    await stores.grants.finish_revocation(ALICE, generation=2, upstream=UpstreamRevocation.REVOKED)
    assert await stored(stores.grants) == replace(
        before, refresh_sealed=None, upstream_revocation=UpstreamRevocation.REVOKED, retry_at=None, failures=0
    )


async def test_a_revocation_says_when_the_provider_may_be_told_again_and_counts_as_the_first_time(
    stores: Stores,
) -> None:
    await troubled(stores)
    grant = await revoke(stores.grants, retry_at=LATER)
    assert grant is not None
    assert (grant.retry_at, grant.failures, grant.last_error) == (LATER, 1, None)


async def test_a_revocation_that_the_provider_need_not_know_is_never_told(stores: Stores) -> None:
    await troubled(stores)
    grant = await revoke(stores.grants, upstream=UpstreamRevocation.NOT_CONFIGURED, retry_at=LATER)
    assert grant is not None
    assert (grant.retry_at, grant.failures) == (None, 0)


async def test_a_revocation_that_can_no_longer_be_told_erases_the_secrets_and_says_so(stores: Stores) -> None:
    await connected(stores.grants)
    await revoke(stores.grants)
    await stores.grants.finish_revocation(ALICE, generation=2, upstream=UpstreamRevocation.NOT_CONFIGURED)
    grant = await stored(stores.grants)
    assert (grant.access_sealed, grant.refresh_sealed, grant.retry_at, grant.failures) == (None, None, None, 0)
    assert grant.upstream_revocation is UpstreamRevocation.NOT_CONFIGURED


async def test_what_the_provider_was_told_stays_told(stores: Stores) -> None:
    await connected(stores.grants)
    await revoke(stores.grants)
    await stores.grants.finish_revocation(ALICE, generation=2, upstream=UpstreamRevocation.REVOKED)
    told = await stored(stores.grants)
    await stores.grants.finish_revocation(ALICE, generation=2, upstream=UpstreamRevocation.NOT_CONFIGURED)
    assert await stored(stores.grants) == told


async def test_a_late_end_of_a_revocation_never_touches_a_newer_connect(stores: Stores) -> None:
    await connected(stores.grants)
    await revoke(stores.grants)
    newer = await connect(stores.grants, tokens("new", "r9"), "again", at=LATER)
    for generation in (2, 3):
        await stores.grants.finish_revocation(ALICE, generation=generation, upstream=UpstreamRevocation.REVOKED)
    assert await stored(stores.grants) == newer


async def test_a_late_end_of_a_revocation_never_finishes_a_newer_one(stores: Stores) -> None:
    await connected(stores.grants)
    await revoke(stores.grants)
    await connect(stores.grants, tokens("new", "r9"), "again", at=LATER)
    await revoke(stores.grants)
    pending = await stored(stores.grants)
    await stores.grants.finish_revocation(ALICE, generation=2, upstream=UpstreamRevocation.REVOKED)
    assert await stored(stores.grants) == pending


# Revive


async def test_there_is_nothing_to_revive_where_there_is_no_grant(stores: Stores) -> None:
    assert await stores.grants.revive(ALICE) is None


async def test_a_revived_grant_can_be_tried_again_with_what_it_holds(stores: Stores) -> None:
    await dead(stores)
    grant = await stores.grants.revive(ALICE)
    assert grant == await stored(stores.grants)
    assert grant is not None
    assert (grant.state, grant.reason, grant.failures, grant.last_error, grant.retry_at) == (
        GrantState.CONNECTED,
        None,
        0,
        None,
        None,
    )
    assert (grant.generation, grant.refresh_sealed) == (1, b"sealed r1")
    assert await claim(stores.grants, "again")


async def test_a_grant_without_refresh_token_cannot_be_revived(stores: Stores) -> None:
    await connected(stores.grants, refresh_token=None)
    await claim(stores.grants, "mine")
    await stores.grants.declare_dead(
        ALICE, generation=1, attempt_id="mine", reason=Reason.NO_REFRESH_TOKEN, code="x", at=T0
    )
    before = await stored(stores.grants)
    assert await stores.grants.revive(ALICE) == before == await stored(stores.grants)


async def test_the_company_needs_no_refresh_token_to_be_revived(stores: Stores) -> None:
    await stores.grants.ensure(COMPANY)
    await claim(stores.grants, "mine", COMPANY, generation=0)
    await stores.grants.declare_dead(COMPANY, generation=0, attempt_id="mine", reason=Reason.REFUSED, code="x", at=T0)
    grant = await stores.grants.revive(COMPANY)
    assert grant is not None
    assert grant.state is GrantState.CONNECTED


async def test_a_revocation_is_not_revived(stores: Stores) -> None:
    await connected(stores.grants)
    await revoke(stores.grants)
    before = await stored(stores.grants)
    assert await stores.grants.revive(ALICE) == before == await stored(stores.grants)


async def test_a_healthy_grant_is_revived_into_itself(stores: Stores) -> None:
    await troubled(stores)
    before = await stored(stores.grants)
    assert await stores.grants.revive(ALICE) == before == await stored(stores.grants)


async def test_a_revived_grant_still_knows_of_its_lost_attempt(stores: Stores) -> None:
    await troubled(stores)
    assert await stores.grants.declare_dead(
        ALICE, generation=1, attempt_id="second", reason=Reason.LOST_IN_TRANSIT, code="invalid_grant", at=T0 + SECOND
    )
    grant = await stores.grants.revive(ALICE)
    assert grant is not None
    assert grant.unfinished_generation == 1
