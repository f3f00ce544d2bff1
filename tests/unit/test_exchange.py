"""A code is redeemed once, and what it brings is never lost."""

import asyncio
from datetime import timedelta

import pytest

from service.core.errors import KeyUnavailable, StoreUnavailable
from service.core.model import GrantState, GrantType
from service.core.records import AuthorizationRequest
from tests.support.replicas import ALICE, HOUR, REDIRECT_URI, VERSATURE, House, Replica, application

LONG = timedelta(hours=1)


async def request_for(house: House, *, sealed_verifier: bytes | None = None) -> AuthorizationRequest:
    request = AuthorizationRequest(
        b"ticket", ALICE, "crm", None, house.clock.now() + LONG, sealed_verifier=sealed_verifier
    )
    await house.requests.add(request)
    return request


async def test_a_code_answer_replaces_everything(house: House, replica: Replica) -> None:
    old = await house.import_(replica)
    house.server.end(old)
    await asyncio.sleep(3600)
    with pytest.raises(Exception, match="revoked"):
        await replica.broker.get(VERSATURE, ALICE)
    house.server.scope = None
    await house.connect(replica)
    row, (_, refresh) = await house.row(), await house.stored()
    assert (row.state, row.reason, row.last_error, row.scope) == (GrantState.CONNECTED, None, None, None)
    assert refresh in house.server.good


async def test_a_code_answer_without_a_refresh_token_leaves_none_of_the_old_one(house: House, replica: Replica) -> None:
    await house.import_(replica)
    house.server.names_refresh = False
    await house.connect(replica)
    assert (await house.stored())[1] is None


async def test_a_new_login_is_served_at_once_not_the_old_token_from_memory(house: House, replica: Replica) -> None:
    await house.import_(replica)
    old = await replica.broker.get(VERSATURE, ALICE)
    await house.connect(replica)
    new = await replica.broker.get(VERSATURE, ALICE)
    assert new.token.value != old.token.value
    assert new.token.generation == old.token.generation + 1


async def test_a_browser_that_goes_away_does_not_stop_the_exchange(house: House, replica: Replica) -> None:
    silence = house.server.fall_silent()
    browser = asyncio.create_task(house.connect(replica))
    await silence.arrived.wait()
    browser.cancel()
    silence.release()
    assert await replica.exchange.drain(LONG) == 0
    assert (await house.row()).generation == 1


async def test_an_answer_waits_for_the_database_as_long_as_it_takes(house: House, replica: Replica) -> None:
    """The person has done enough once it is safe in escrow."""
    silence = house.server.fall_silent()
    browser = asyncio.create_task(house.connect(replica))
    await silence.arrived.wait()
    house.grants.away = True
    silence.release()
    await browser
    assert [entry.grant for entry in replica.spool.kept.values()] == [ALICE]
    await asyncio.sleep(600)
    house.grants.away = False
    assert await replica.saver.drain(LONG) == 0
    assert replica.spool.kept == {}
    assert (await house.stored())[1] in house.server.good
    assert house.server.count("code") == 1


async def test_a_login_over_a_revoked_grant_has_done_enough_too_while_the_database_can_only_be_read(
    house: House, replica: Replica
) -> None:
    await house.import_(replica)
    await replica.broker.revoke(VERSATURE, ALICE)
    house.grants.away_for = {"connect"}
    await house.connect(replica)
    house.grants.away_for = set()
    assert await replica.saver.drain(LONG) == 0
    assert (await house.row()).state is GrantState.CONNECTED


async def test_an_answer_that_no_escrow_takes_keeps_the_browser_waiting(house: House, replica: Replica) -> None:
    replica.spool.away = house.copy.away = house.grants.away = True
    with pytest.raises(StoreUnavailable):
        await house.connect(replica)
    house.grants.away = False
    assert await replica.exchange.drain(LONG) == 0
    assert (await house.row()).generation == 1


async def test_an_answer_in_escrow_outlives_its_process(house: House, replica: Replica) -> None:
    house.grants.away = True
    await house.connect(replica)
    replica.die()
    heir = house.replica(spool=replica.spool)
    house.grants.away = False
    await heir.recovery.replay()
    assert (await house.stored())[1] in house.server.good
    assert (replica.spool.kept, house.copy.kept) == ({}, {})


async def test_a_commit_whose_answer_was_lost_counts_once(house: House, replica: Replica) -> None:
    house.grants.mute.add("connect")
    await house.connect(replica)
    assert await replica.saver.drain(LONG) == 0
    assert house.grants.calls["connect"] == 2
    assert (await house.row()).generation == 1


async def test_a_link_that_cannot_be_closed_yet_never_puts_a_spent_refresh_token_back(
    house: House, replica: Replica
) -> None:
    """The grant is connected and already renewed by somebody else, while the request still waits to be completed."""
    house.requests.away_for = {"complete"}
    house.server.life = timedelta(seconds=1)
    browser = asyncio.create_task(house.connect(replica))
    await asyncio.sleep(2)
    assert (await house.row()).generation == 1
    renewed = await house.replica().broker.get(VERSATURE, ALICE)
    house.requests.away_for = set()
    await browser
    access, refresh = await house.stored()
    assert access is not None
    assert access.value == renewed.token.value
    assert refresh in house.server.good


async def test_a_verifier_that_cannot_be_opened_sends_nothing(house: House, replica: Replica) -> None:
    request = await request_for(house, sealed_verifier=b"broken")
    with pytest.raises(KeyUnavailable):
        await replica.exchange.redeem(VERSATURE, request, house.server.code(), REDIRECT_URI)
    assert house.server.calls == []


async def test_shutdown_counts_an_exchange_that_does_not_end(house: House, replica: Replica) -> None:
    silence = house.server.fall_silent()
    browser = asyncio.create_task(house.connect(replica))
    await silence.arrived.wait()
    assert await replica.exchange.drain(timedelta(seconds=10)) == 1
    silence.release()
    await browser


async def test_a_scope_that_the_code_answer_does_not_name_is_not_made_up(house: House, replica: Replica) -> None:
    asked_for = application("versature", GrantType.AUTHORIZATION_CODE, oauth_scope="Office Manager")
    house.server.scope = None
    request = AuthorizationRequest(b"ticket", ALICE, "crm", None, house.clock.now() + HOUR)
    await house.requests.add(request)
    await replica.exchange.redeem(asked_for, request, house.server.code(), REDIRECT_URI)
    assert (await house.row()).scope is None
