"""A revoked grant is unusable here at once, and at the provider as soon as it can be told."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from service.core.errors import GrantNotFound, ReauthorizationRequired, StoreUnavailable
from service.core.model import Application, GrantId, GrantState, Reason, UpstreamRevocation
from service.core.records import CachedToken
from service.core.redeeming.upstream import NotSent
from tests.support.replicas import ALICE, BOB, REVOCABLE, VERSATURE, House, Replica


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


@pytest.mark.parametrize(
    "moved",
    [{"token_url": "https://elsewhere.example/t"}, {"client_id": "another"}],
    ids=lambda moved: next(iter(moved)),
)
async def test_another_registration_is_sent_no_refresh_token_to_revoke(
    house: House, replica: Replica, moved: dict[str, Any]
) -> None:
    await house.import_(replica)
    assert await replica.broker.revoke(replace(REVOCABLE, **moved), ALICE) is UpstreamRevocation.PENDING
    assert house.server.calls == []
    assert await replica.broker.revoke(REVOCABLE, ALICE) is UpstreamRevocation.REVOKED
    assert house.server.count("revocation") == 1


async def test_a_late_answer_of_another_registration_is_sent_to_nobody(house: House, replica: Replica) -> None:
    answer = house.answer()
    elsewhere = replace(REVOCABLE, token_url="https://elsewhere.example/t")
    assert await replica.revoker.revoke_answer(elsewhere, answer)
    assert house.server.calls == []
    assert await replica.revoker.revoke_answer(REVOCABLE, answer)
    assert house.server.count("revocation") == 1


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


async def untold(house: House, settings: Application = REVOCABLE, *users: GrantId) -> Replica:
    """A process that revoked grants while the provider could not be told."""
    replica = house.replica(settings=settings)
    await replica.directory.check()
    house.server.always(NotSent("x"))
    for grant in users or (ALICE,):
        await house.import_(replica, grant)
        assert await replica.broker.revoke(REVOCABLE, grant) is UpstreamRevocation.PENDING
    house.server.calls.clear()
    return replica


async def tell_for(replica: Replica, seconds: int) -> None:
    for _ in range(seconds):
        await replica.revoker.tell_again()
        await asyncio.sleep(1)


async def test_a_provider_that_could_not_be_told_is_told_later_and_then_the_secrets_are_erased(house: House) -> None:
    replica = await untold(house)
    [refresh_token] = house.server.good
    house.server.forget_script()
    await tell_for(replica, 30)
    assert house.server.calls == []
    await tell_for(replica, 60)
    [call] = house.server.calls
    assert (call.kind, call.token, call.hint) == ("revocation", refresh_token, "refresh_token")
    row = await house.row()
    assert (row.upstream_revocation, row.refresh_sealed, row.access_sealed) == (UpstreamRevocation.REVOKED, None, None)
    assert (row.state, row.retry_at, row.failures, row.generation) == (GrantState.REVOKED, None, 0, 2)


async def test_the_provider_is_told_again_with_doubling_pauses_up_to_an_hour(house: House) -> None:
    replica = await untold(house)
    began = house.clock.now()
    await tell_for(replica, 5 * 3600)
    told_at = [(call.at - began).total_seconds() for call in house.server.calls]
    assert told_at == [30, 90, 210, 450, 930, 1890, 3810, 7410, 11010, 14610]
    assert house.grants.peek(ALICE) is not None
    assert (await house.row()).refresh_sealed is not None


async def test_replicas_leave_each_revocation_to_one_of_them(house: House) -> None:
    replicas = [await untold(house)]
    for _ in range(3):
        replicas.append(house.replica(settings=REVOCABLE))
        await replicas[-1].directory.check()
    await asyncio.sleep(30)
    await asyncio.gather(*(replica.revoker.tell_again() for replica in replicas))
    assert house.server.count("revocation") == 1


async def test_one_revocation_that_cannot_be_told_does_not_hinder_the_others(house: House) -> None:
    replica = await untold(house, REVOCABLE, ALICE, BOB)
    await asyncio.sleep(30)
    house.server.forget_script()
    house.server.script(NotSent("x"))
    await replica.revoker.tell_again()
    told = [(await house.row(grant)).upstream_revocation for grant in (ALICE, BOB)]
    assert sorted(told, key=str) == [UpstreamRevocation.PENDING, UpstreamRevocation.REVOKED]


async def test_when_the_revocation_url_is_gone_the_secrets_are_erased_untold(house: House) -> None:
    replica = await untold(house, VERSATURE)
    await asyncio.sleep(30)
    await replica.revoker.tell_again()
    row = await house.row()
    assert (row.upstream_revocation, row.refresh_sealed) == (UpstreamRevocation.NOT_CONFIGURED, None)
    assert house.server.calls == []


async def test_revocations_of_an_application_that_is_not_known_wait_until_it_comes_back(house: House) -> None:
    replica = await untold(house, replace(REVOCABLE, name="another"))
    before = await house.row()
    await asyncio.sleep(30)
    await replica.revoker.tell_again()
    row = await house.row()
    assert (row.upstream_revocation, row.refresh_sealed) == (UpstreamRevocation.PENDING, before.refresh_sealed)
    assert house.server.calls == []
    back = house.replica(settings=REVOCABLE)
    await back.directory.check()
    house.server.forget_script()
    await tell_for(back, 61)
    assert (await house.row()).upstream_revocation is UpstreamRevocation.REVOKED


async def test_a_connect_after_the_revocation_leaves_nothing_to_tell(house: House) -> None:
    replica = await untold(house)
    await house.import_(replica)
    house.server.forget_script()
    await tell_for(replica, 120)
    assert house.server.calls == []
    assert (await replica.ask()).token.generation == 3
