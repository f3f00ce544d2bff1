"""What every `GrantStore` promises about listings."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.core.model import Grant, GrantId, GrantState, Reason, UpstreamRevocation
from service.core.names import matches
from service.core.records import GrantFilter
from tests.contract.conftest import Stores
from tests.contract.samples import COMPANY, HOUR, MICROSECOND, T0, claim, connected, revoke, tokens

EVERYTHING = GrantFilter()
USERS = (
    "@company",
    *("a", "A", "b", "ab", "aab", "abc", "Abc", "alice", "Alice", "alice2", "bob", "x.y", "z"),
    *("a*b", "a?c", "a[b]c", "[ab]", "a]b", "a%c", "a_c", "a\\c", "a\\*", "a^b", "^a", "a-c", "a b", "'", '"', ";"),
    *("é", "É", "ß", "\uff5e", "\U0001f600", "a\u2028b"),
)
PATTERNS = (
    *("*", "**", "a*", "A*", "*b", "*B", "a*c", "a*b*c", "*a*", "*li*", "alice", "Alice", "a", "", "nobody"),
    *("a?c", "?", "a?*", "*?*", "[ab]*", "[a-z]*", "*[*", "*]*", "a[b]*", "[^a]*", "a]*", "^*", "*^*", "*-*"),
    *("%", "a%c", "a%*", "*%*", "_", "a_c", "a_*", "*_*", "a\\*", "\\*", "*\\*", "a\\c", "*'*", '*"*', "*;*"),
    *("é*", "É*", "*ß", "*\uff5e", "\U0001f600*", "a*b", "@company", "@*", "*company", "*@*", "@compan?*", "@"),
)


async def page(
    stores: Stores, which: GrantFilter = EVERYTHING, *, after: GrantId | None = None, limit: int = 1000
) -> list[Grant]:
    return list(await stores.grants.page(which, after=after, limit=limit, now=stores.clock.now()))


async def ids(stores: Stores, which: GrantFilter = EVERYTHING, *, after: GrantId | None = None) -> list[GrantId]:
    return [grant.id for grant in await page(stores, which, after=after)]


async def users(stores: Stores, which: GrantFilter) -> list[str]:
    return [grant.user for grant in await ids(stores, which)]


async def connect_all(stores: Stores, *grants: GrantId) -> None:
    for grant in (*grants[::-2], *grants[-2::-2]):  # in no order that a listing could take for its own
        await connected(stores.grants, grant)


async def test_a_page_shows_whole_grants(stores: Stores) -> None:
    grant = await connected(stores.grants)
    assert await page(stores) == [grant]


async def test_an_empty_store_has_an_empty_page(stores: Stores) -> None:
    assert await page(stores) == []


async def test_pages_are_in_the_order_of_code_points_by_application_then_user(stores: Stores) -> None:
    everybody = [GrantId(application, user) for application in ("a", "B", "a-b") for user in USERS[::2]]
    await connect_all(stores, *everybody)
    assert await ids(stores) == sorted(everybody, key=lambda grant: (grant.application, grant.user))


async def test_a_row_that_was_only_made_to_be_claimed_is_not_shown(stores: Stores) -> None:
    await stores.grants.ensure(GrantId("versature", "bob"))
    await stores.grants.ensure(COMPANY)
    await connected(stores.grants)
    assert await users(stores, EVERYTHING) == ["alice"]


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
async def test_walking_by_cursor_shows_every_grant_once(stores: Stores, limit: int) -> None:
    everybody = [GrantId(application, user) for application in ("a", "b") for user in USERS[:6]]
    await connect_all(stores, *everybody)
    seen: list[GrantId] = []
    while some := await page(stores, after=seen[-1] if seen else None, limit=limit):
        assert len(some) <= limit
        seen += [grant.id for grant in some]
    assert seen == sorted(everybody, key=lambda grant: (grant.application, grant.user))


async def test_a_cursor_need_not_name_a_grant(stores: Stores) -> None:
    await connect_all(stores, GrantId("a", "x"), GrantId("b", "a"), GrantId("b", "x"))
    assert await ids(stores, after=GrantId("a", "zzz")) == [GrantId("b", "a"), GrantId("b", "x")]
    assert await ids(stores, after=GrantId("b", "m")) == [GrantId("b", "x")]
    assert await ids(stores, after=GrantId("c", "")) == []


async def test_a_page_of_one_application_shows_that_application_only(stores: Stores) -> None:
    await connect_all(stores, GrantId("a", "x"), GrantId("A", "x"), GrantId("ab", "x"), GrantId("a", "y"))
    assert await ids(stores, GrantFilter(application="a")) == [GrantId("a", "x"), GrantId("a", "y")]


async def test_patterns_cover_exactly_the_users_that_the_core_says(stores: Stores) -> None:
    await connect_all(stores, *(GrantId("versature", user) for user in USERS))
    shown = {pattern: await users(stores, GrantFilter(users=(pattern,))) for pattern in PATTERNS}
    assert shown == {pattern: sorted(user for user in USERS if matches(pattern, user)) for pattern in PATTERNS}


async def test_only_the_asterisk_is_special_and_never_covers_reserved_users(stores: Stores) -> None:
    await connect_all(stores, *(GrantId("versature", user) for user in USERS))
    assert "@company" not in await users(stores, GrantFilter(users=("*", "*company", "**")))
    assert await users(stores, GrantFilter(users=("@company",))) == ["@company"]
    assert await users(stores, GrantFilter(users=("a?*", "[a-z]*", "a_*", "a%*"))) == ["a%c", "a?c", "a_c"]
    assert await users(stores, GrantFilter(users=("A*",))) == ["A", "Abc", "Alice"]


async def test_any_of_several_patterns_will_do(stores: Stores) -> None:
    await connect_all(stores, *(GrantId("versature", user) for user in ("alice", "bob", "carol", "@company")))
    assert await users(stores, GrantFilter(users=("bob", "@company", "al*"))) == ["@company", "alice", "bob"]


async def test_who_may_see_nobody_sees_nobody(stores: Stores) -> None:
    await connected(stores.grants)
    assert await page(stores, GrantFilter(users=())) == []
    assert await page(stores, GrantFilter(applications=())) == []


async def test_patterns_of_applications_are_read_like_those_of_users(stores: Stores) -> None:
    names = ("acme", "Acme", "acme-eu", "acme_eu", "beta")
    await connect_all(stores, *(GrantId(name, "alice") for name in names))
    for pattern in ("*", "acme*", "acme", "*eu", "acme_*", "acme?eu", "[ab]*", "ACME*"):
        shown = [grant.application for grant in await ids(stores, GrantFilter(applications=(pattern,)))]
        assert shown == sorted(name for name in names if matches(pattern, name)), pattern


async def test_all_parts_of_a_filter_hold_together(stores: Stores) -> None:
    wanted = GrantId("acme", "alice")
    await connect_all(stores, wanted, GrantId("acme", "bob"), GrantId("beta", "alice"))
    await connected(stores.grants, GrantId("acme", "alina"))
    await revoke(stores.grants, GrantId("acme", "alina"), upstream=UpstreamRevocation.PENDING)
    narrow = GrantFilter(application="acme", state=GrantState.CONNECTED, users=("al*",), applications=("a*", "b*"))
    assert await ids(stores, narrow) == [wanted]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pattern=st.text(st.sampled_from("a*b?[]^-!%_\\@\n'é"), max_size=6))
async def test_no_pattern_is_read_otherwise_than_by_the_core(stores: Stores, pattern: str) -> None:
    if await stores.grants.get(COMPANY) is None:
        await connect_all(stores, *(GrantId("versature", user) for user in USERS))
    assert await users(stores, GrantFilter(users=(pattern,))) == sorted(
        user for user in USERS if matches(pattern, user)
    )


# States


async def standing(stores: Stores, state: GrantState) -> list[str]:
    return await users(stores, GrantFilter(state=state))


async def test_a_page_of_one_state_shows_that_state_only(stores: Stores) -> None:
    alice, bob, carol = (GrantId("versature", user) for user in ("alice", "bob", "carol"))
    await connect_all(stores, alice, bob, carol)
    await claim(stores.grants, "mine", bob)
    await stores.grants.declare_dead(bob, generation=1, attempt_id="mine", reason=Reason.REFUSED, code="x", at=T0)
    await revoke(stores.grants, carol, upstream=UpstreamRevocation.PENDING)
    assert await standing(stores, GrantState.CONNECTED) == ["alice"]
    assert await standing(stores, GrantState.REAUTHORIZATION_REQUIRED) == ["bob"]
    assert await standing(stores, GrantState.REVOKED) == ["carol"]


async def test_without_refresh_token_a_grant_stands_as_long_as_its_access_token(stores: Stores) -> None:
    await connected(stores.grants, refresh_token=None)
    await stores.pass_time(HOUR - MICROSECOND)
    assert await standing(stores, GrantState.CONNECTED) == ["alice"]
    await stores.pass_time(MICROSECOND)
    assert await standing(stores, GrantState.CONNECTED) == []
    assert await standing(stores, GrantState.REAUTHORIZATION_REQUIRED) == ["alice"]


async def test_with_neither_token_a_grant_needs_its_user(stores: Stores) -> None:
    nothing = replace(tokens("a"), access_sealed=None, access_expires_at=None, due_at=None)
    await stores.grants.connect(GrantId("versature", "alice"), nothing, at=T0, attempt_id="login")
    assert await standing(stores, GrantState.REAUTHORIZATION_REQUIRED) == ["alice"]


async def test_an_ended_access_token_beside_a_refresh_token_changes_no_state(stores: Stores) -> None:
    await connected(stores.grants)
    await stores.pass_time(2 * HOUR)
    assert await standing(stores, GrantState.CONNECTED) == ["alice"]


async def test_the_company_is_connected_even_after_its_access_token(stores: Stores) -> None:
    await connected(stores.grants, COMPANY, None)
    await stores.pass_time(2 * HOUR)
    assert await standing(stores, GrantState.CONNECTED) == ["@company"]
    assert await standing(stores, GrantState.REAUTHORIZATION_REQUIRED) == []


async def test_a_revoked_grant_without_tokens_stays_revoked(stores: Stores) -> None:
    await connected(stores.grants, refresh_token=None)
    await revoke(stores.grants, GrantId("versature", "alice"), upstream=UpstreamRevocation.NOT_CONFIGURED)
    await stores.pass_time(2 * HOUR)
    assert await standing(stores, GrantState.REVOKED) == ["alice"]
    assert await standing(stores, GrantState.REAUTHORIZATION_REQUIRED) == []
