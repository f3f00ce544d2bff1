"""What every `AuthorizationStore` promises."""

import asyncio
from dataclasses import replace
from datetime import timedelta

from service.core.model import GrantId
from service.core.records import AuthorizationRequest
from tests.contract.conftest import Stores
from tests.contract.samples import ALICE, MICROSECOND, SECOND, T0, connected, request, stored


async def started(stores: Stores, state: bytes = b"state", ticket: bytes = b"ticket") -> AuthorizationRequest:
    """A stored request whose browser has left for the provider with *state*."""
    await stores.authorizations.add(request(ticket))
    assert await start(stores, state, ticket)
    return await found(stores, ticket)


async def start(
    stores: Stores, state: bytes, ticket: bytes = b"ticket", *, cookie: bytes = b"cookie", verifier: bytes | None = None
) -> bool:
    return await stores.authorizations.start(
        ticket, state_digest=state, cookie_digest=cookie, sealed_verifier=verifier, at=T0 + SECOND
    )


async def found(stores: Stores, ticket: bytes = b"ticket") -> AuthorizationRequest:
    kept = await stores.authorizations.find(ticket)
    assert kept is not None
    return kept


async def test_a_request_is_found_by_its_ticket_as_it_was_added(stores: Stores) -> None:
    odd = AuthorizationRequest(b"\x00ticket\xff", GrantId("versature", "é\u2028"), "crm", None, T0 + MICROSECOND)
    await stores.authorizations.add(odd)
    await stores.authorizations.add(request())
    assert await found(stores, b"\x00ticket\xff") == odd
    assert await found(stores) == request()


async def test_what_was_not_added_is_not_found(stores: Stores) -> None:
    await stores.authorizations.add(request())
    assert await stores.authorizations.find(b"other") is None
    assert await stores.authorizations.find(b"") is None


async def test_asking_for_a_request_makes_no_grant(stores: Stores) -> None:
    await started(stores)
    assert await stores.grants.get(ALICE) is None


async def test_starting_notes_cookie_verifier_and_time(stores: Stores) -> None:
    await stores.authorizations.add(request())
    assert await start(stores, b"state", verifier=b"sealed verifier")
    assert await found(stores) == replace(
        request(), started_at=T0 + SECOND, cookie_digest=b"cookie", sealed_verifier=b"sealed verifier"
    )


async def test_starting_again_puts_everything_in_anew(stores: Stores) -> None:
    await stores.authorizations.add(request())
    await start(stores, b"first", cookie=b"first cookie", verifier=b"sealed verifier")
    assert await start(stores, b"second", cookie=b"second cookie")
    again = await found(stores)
    assert (again.cookie_digest, again.sealed_verifier) == (b"second cookie", None)


async def test_what_is_not_there_cannot_be_started(stores: Stores) -> None:
    assert not await start(stores, b"state")
    assert await stores.authorizations.take(b"state") is None


async def test_a_completed_request_cannot_be_started_again(stores: Stores) -> None:
    await started(stores)
    await stores.authorizations.complete(b"ticket", at=T0 + SECOND)
    completed = await found(stores)
    assert not await start(stores, b"again")
    assert await found(stores) == completed
    assert await stores.authorizations.take(b"again") is None


async def test_a_state_brings_its_request_back(stores: Stores) -> None:
    other = await started(stores, b"other state", b"other ticket")
    mine = await started(stores, b"my state", b"my ticket")
    assert await stores.authorizations.take(b"my state") == mine
    assert await stores.authorizations.take(b"other state") == other


async def test_a_state_works_once(stores: Stores) -> None:
    await started(stores)
    assert await stores.authorizations.take(b"state")
    assert await stores.authorizations.take(b"state") is None


async def test_a_state_works_once_however_many_take_it(stores: Stores) -> None:
    mine = await started(stores)
    taken = await asyncio.gather(*(stores.authorizations.take(b"state") for _ in range(20)))
    assert [one for one in taken if one is not None] == [mine]


async def test_an_unknown_state_takes_nothing(stores: Stores) -> None:
    await stores.authorizations.add(request())
    await started(stores, b"state", b"other")
    for state in (b"", b"unknown", b"ticket", b"State"):
        assert await stores.authorizations.take(state) is None
    assert await stores.authorizations.take(b"state")


async def test_a_new_state_voids_the_last(stores: Stores) -> None:
    await started(stores, b"first")
    await start(stores, b"second")
    assert await stores.authorizations.take(b"first") is None
    assert await stores.authorizations.take(b"second") is not None


async def test_a_request_whose_state_was_taken_can_be_started_again(stores: Stores) -> None:
    await started(stores)
    await stores.authorizations.take(b"state")
    assert await start(stores, b"again")
    assert await stores.authorizations.take(b"again")
    assert await stores.authorizations.take(b"state") is None


async def test_taking_a_request_makes_its_grant_a_row_to_claim(stores: Stores) -> None:
    await started(stores)
    await stores.authorizations.take(b"state")
    grant = await stored(stores.grants)
    assert (grant.id, grant.generation, grant.exists) == (ALICE, 0, False)


async def test_taking_a_request_changes_no_grant_that_is_there(stores: Stores) -> None:
    grant = await connected(stores.grants)
    await started(stores)
    await stores.authorizations.take(b"state")
    assert await stored(stores.grants) == grant


async def test_taking_nothing_makes_no_grant(stores: Stores) -> None:
    await stores.authorizations.add(request())
    await stores.authorizations.take(b"unknown")
    assert await stores.grants.get(ALICE) is None


async def test_taking_completes_nothing(stores: Stores) -> None:
    before = await started(stores)
    await stores.authorizations.take(b"state")
    assert await found(stores) == before


async def test_a_completed_request_says_when_and_forgets_its_verifier(stores: Stores) -> None:
    await stores.authorizations.add(request())
    await start(stores, b"state", verifier=b"sealed verifier")
    await stores.authorizations.complete(b"ticket", at=T0 + 2 * SECOND)
    completed = await found(stores)
    assert (completed.completed_at, completed.sealed_verifier) == (T0 + 2 * SECOND, None)


async def test_completing_voids_the_state(stores: Stores) -> None:
    await started(stores)
    await stores.authorizations.complete(b"ticket", at=T0 + SECOND)
    assert await stores.authorizations.take(b"state") is None
    assert await stores.grants.get(ALICE) is None


async def test_completing_touches_no_other_request(stores: Stores) -> None:
    other = await started(stores, b"other state", b"other ticket")
    await started(stores)
    await stores.authorizations.complete(b"ticket", at=T0 + SECOND)
    assert await stores.authorizations.take(b"other state") == other


async def test_completing_what_is_not_there_is_harmless(stores: Stores) -> None:
    await stores.authorizations.complete(b"ticket", at=T0)
    assert await stores.authorizations.find(b"ticket") is None


async def test_requests_that_are_long_over_are_forgotten_and_no_others(stores: Stores) -> None:
    day = timedelta(days=1)
    await stores.authorizations.add(request(b"long over", expires_at=T0 - MICROSECOND))
    await stores.authorizations.add(request(b"just over", expires_at=T0))
    await stores.authorizations.add(request(b"new", expires_at=T0 + day))
    assert await stores.authorizations.find(b"long over") is None
    assert await stores.authorizations.find(b"just over") is not None
    assert await stores.authorizations.find(b"new") is not None
