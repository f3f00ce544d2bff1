"""A revoked grant is unusable here at once, and at the provider as soon as it can be told."""

import asyncio
from dataclasses import replace

import pytest

from service.core.errors import GrantNotFound, ReauthorizationRequired, StoreUnavailable
from service.core.model import GrantState, Reason, UpstreamRevocation
from service.core.records import CachedToken
from service.core.upstream import NotSent
from tests.support.replicas import ALICE, REVOCABLE, VERSATURE, House, Replica


async def test_a_revoked_grant_is_unusable_here_at_once_and_elsewhere_within_the_cache_time(house: House) -> None:
    here, elsewhere = house.replica(), house.replica()
    await house.import_(here)
    for replica in (here, elsewhere):
        await replica.ask()
    await here.broker.revoke(VERSATURE, ALICE)
    with pytest.raises(ReauthorizationRequired) as caught:
        await here.ask()
    assert (caught.value.reason, caught.value.by_us) == (Reason.REVOKED, True)
    await asyncio.sleep(5)
    with pytest.raises(ReauthorizationRequired):
        await elsewhere.ask()
    assert await house.shared.get(ALICE) == CachedToken(2, None)


async def test_the_provider_is_told_of_the_refresh_token_and_then_the_secrets_are_erased(
    house: House, replica: Replica
) -> None:
    refresh_token = await house.import_(replica)
    assert await replica.broker.revoke(REVOCABLE, ALICE) is UpstreamRevocation.REVOKED
    [call] = house.server.calls
    assert (call.token, call.hint, call.client_secret) == (refresh_token, "refresh_token", "secret of versature")
    row = await house.row()
    assert (row.state, row.access_sealed, row.refresh_sealed) == (GrantState.REVOKED, None, None)


async def test_without_a_refresh_token_the_provider_is_told_of_the_access_token(house: House, replica: Replica) -> None:
    refresh_token = await house.import_(replica)
    house.grants.put(replace(await house.row(), refresh_sealed=None))
    assert await replica.broker.revoke(REVOCABLE, ALICE) is UpstreamRevocation.REVOKED
    [call] = house.server.calls
    assert (call.token, call.hint) == (f"access-beside-{refresh_token}", "access_token")


async def test_without_a_revocation_url_the_secrets_are_erased_at_once(house: House, replica: Replica) -> None:
    await house.import_(replica)
    assert await replica.broker.revoke(VERSATURE, ALICE) is UpstreamRevocation.NOT_CONFIGURED
    row = await house.row()
    assert (row.access_sealed, row.refresh_sealed) == (None, None)
    assert house.server.calls == []


async def test_a_provider_that_cannot_be_told_stays_pending_and_repeating_tells_it(
    house: House, replica: Replica
) -> None:
    await house.import_(replica)
    house.server.script(NotSent("x"))
    assert await replica.broker.revoke(REVOCABLE, ALICE) is UpstreamRevocation.PENDING
    with pytest.raises(ReauthorizationRequired):
        await replica.ask()
    row = await house.row()
    assert (row.access_sealed, row.refresh_sealed is None) == (None, False)
    assert await replica.broker.revoke(REVOCABLE, ALICE) is UpstreamRevocation.REVOKED
    assert await replica.broker.revoke(REVOCABLE, ALICE) is UpstreamRevocation.REVOKED
    assert house.server.count("revocation") == 2
    assert (await house.row()).generation == 2


async def test_nothing_to_revoke_is_told(house: House, replica: Replica) -> None:
    with pytest.raises(GrantNotFound):
        await replica.broker.revoke(VERSATURE, ALICE)


async def test_a_revocation_the_database_did_not_take_is_no_revocation(house: House, replica: Replica) -> None:
    await house.import_(replica)
    house.grants.away_for = {"revoke"}
    with pytest.raises(StoreUnavailable):
        await replica.broker.revoke(REVOCABLE, ALICE)
    assert house.server.calls == []
    await replica.ask()


async def test_who_connects_again_after_a_revocation_is_connected(house: House, replica: Replica) -> None:
    await house.import_(replica)
    await replica.broker.revoke(VERSATURE, ALICE)
    await house.import_(replica)
    assert (await replica.ask()).token.generation == 3
