"""Versature answered 401 to a token that looks valid: N reports cost one request, and it never comes back."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from service.core.errors import (
    InvalidUpstreamAnswer,
    ReauthorizationRequired,
    RejectedTooOften,
    RenewalInProgress,
    StoreUnavailable,
    UpstreamUnavailable,
)
from service.core.handout import Source
from service.core.model import GrantState, Reason
from service.core.redeeming.upstream import NotSent
from tests.support.replicas import ALICE, COMPANYS, THE_COMPANY, VERSATURE, House, Replica


async def current(house: House, replica: Replica) -> str:
    await house.import_(replica)
    return (await replica.ask()).token.value


async def test_any_number_of_reports_on_any_replica_cost_one_request(house: House) -> None:
    replicas = [house.replica() for _ in range(3)]
    rejected = await current(house, replicas[0])
    reports = [replica.reject(rejected) for replica in replicas for _ in range(50)]
    tokens = {handout.token.value for handout in await asyncio.gather(*reports)}
    assert house.server.count("refresh") == 1
    assert len(tokens) == 1
    assert rejected not in tokens


async def test_stale_reports_cost_nothing_and_get_the_newer_token(house: House, replica: Replica) -> None:
    rejected = await current(house, replica)
    newer = (await replica.reject(rejected)).token
    for _ in range(10):
        handout = await replica.reject(rejected)
        assert (handout.token, handout.source) == (newer, Source.DATABASE)
        await asyncio.sleep(60)
    assert house.server.count("refresh") == 1


async def test_a_token_that_was_never_ours_gets_the_current_one(house: House, replica: Replica) -> None:
    mine = await current(house, replica)
    for report in ("", "never-seen", "ü", "\ud800"):
        assert (await replica.reject(report)).token.value == mine
    assert house.server.calls == []


async def test_the_second_forced_renewal_waits_thirty_seconds_and_the_third_sixty(
    house: House, replica: Replica
) -> None:
    token, waits = await current(house, replica), []
    for _ in range(3):
        token = (await replica.reject(token)).token.value
        with pytest.raises(RejectedTooOften) as caught:
            await house.replica().reject(token)
        assert caught.value.retry_after is not None
        waits.append(caught.value.retry_after.total_seconds())
        await asyncio.sleep(waits[-1])
    assert waits == [30, 60, 120]
    assert house.server.count("refresh") == 3


async def test_a_quiet_spell_forgives(house: House, replica: Replica) -> None:
    token = await current(house, replica)
    for _ in range(2):
        token = (await replica.reject(token)).token.value
        await asyncio.sleep(60)
    token = (await replica.reject(token)).token.value
    with pytest.raises(RejectedTooOften) as caught:
        await replica.reject(token)
    assert caught.value.retry_after == timedelta(seconds=30)


async def test_while_rejections_are_limited_the_others_are_served(house: House, replica: Replica) -> None:
    newer = (await replica.reject(await current(house, replica))).token
    with pytest.raises(RejectedTooOften):
        await replica.reject(newer.value)
    assert (await replica.ask()).token == newer


async def test_a_token_that_is_due_is_renewed_despite_the_limit(house: House, replica: Replica) -> None:
    house.server.life = timedelta(seconds=10)
    newer = (await replica.reject(await current(house, replica))).token
    await asyncio.sleep(9)
    assert (await replica.ask()).token.generation == newer.generation + 1


async def test_a_rejected_token_is_never_the_answer_though_it_is_valid_and_renewal_fails(
    house: House, replica: Replica
) -> None:
    rejected = await current(house, replica)
    house.server.script(NotSent("x"))
    for _ in range(2):
        with pytest.raises(UpstreamUnavailable):
            await replica.reject(rejected)


async def test_whoever_rejects_a_token_waits_for_the_new_one_as_long_as_it_may(house: House, replica: Replica) -> None:
    rejected = await current(house, replica)
    house.server.fall_silent()
    began = house.clock.monotonic()
    with pytest.raises(RenewalInProgress):
        await replica.reject(rejected)
    assert house.clock.monotonic() - began == 15


async def test_a_provider_that_repeats_the_rejected_token_is_told_as_its_fault(house: House, replica: Replica) -> None:
    house.server.repeats_access_token = True
    await house.import_(replica)
    await asyncio.sleep(3600)
    rejected = (await replica.ask()).token.value
    with pytest.raises(InvalidUpstreamAnswer):
        await replica.reject(rejected)


async def test_a_dead_grant_answers_a_rejection_without_any_request(house: House, replica: Replica) -> None:
    house.server.end(await house.import_(replica))
    await asyncio.sleep(3000)
    still_valid = (await replica.ask()).token.value
    for _ in range(3):
        with pytest.raises(ReauthorizationRequired):
            await replica.reject(still_valid)
    assert house.server.count("refresh") == 1


@pytest.mark.parametrize(
    ("refresh", "reason"), [(None, Reason.NO_REFRESH_TOKEN), (b"broken", Reason.UNDECRYPTABLE)], ids=["none", "broken"]
)
async def test_without_a_refresh_token_that_opens_a_rejected_token_never_comes_back(
    house: House, refresh: bytes | None, reason: Reason
) -> None:
    replicas = [house.replica(), house.replica()]
    rejected = await current(house, replicas[0])
    house.grants.put(replace(await house.row(), refresh_sealed=refresh))
    for report in (True, False):
        with pytest.raises(ReauthorizationRequired) as caught:
            await (replicas[1].reject(rejected) if report else replicas[1].ask())
        assert caught.value.reason is reason
    assert replicas[1].broker.standing(await house.row()) == (GrantState.REAUTHORIZATION_REQUIRED, reason)
    await asyncio.sleep(house.policy.local_cache.total_seconds())
    with pytest.raises(ReauthorizationRequired):
        await replicas[0].ask()


async def test_a_rejected_token_that_is_asked_for_while_it_is_discarded_does_not_stay(
    house: House, replica: Replica
) -> None:
    rejected = await current(house, replica)
    house.grants.put(replace(await house.row(), refresh_sealed=None))
    house.grants.held["discard_access"] = gate = asyncio.Event()
    report = asyncio.create_task(replica.reject(rejected))
    await asyncio.sleep(1)
    await replica.ask()
    gate.set()
    with pytest.raises(ReauthorizationRequired):
        await report
    with pytest.raises(ReauthorizationRequired):
        await replica.ask()


async def test_a_revoked_grant_gives_nothing_for_a_rejection(house: House, replica: Replica) -> None:
    rejected = await current(house, replica)
    await replica.broker.revoke(VERSATURE, ALICE)
    for token in (rejected, "another"):
        with pytest.raises(ReauthorizationRequired):
            await replica.reject(token)


async def test_an_expired_current_token_is_renewed_and_not_handed_back(house: House, replica: Replica) -> None:
    rejected = await current(house, replica)
    await asyncio.sleep(3600)
    assert (await replica.reject(rejected)).token.value != rejected


async def test_the_companys_token_can_be_rejected_too(house: House, replica: Replica) -> None:
    rejected = (await replica.ask(THE_COMPANY, COMPANYS)).token.value
    newer = await replica.reject(rejected, THE_COMPANY, COMPANYS)
    assert newer.token.value != rejected
    assert house.server.count("client_credentials") == 2


async def test_without_the_database_a_rejection_cannot_be_judged(house: House, replica: Replica) -> None:
    rejected = await current(house, replica)
    house.grants.away = True
    with pytest.raises(StoreUnavailable):
        await replica.reject(rejected)


@pytest.mark.parametrize("reports", [1, 2], ids=["died of the report", "was dead before"])
async def test_a_dead_grant_hands_out_no_token_that_was_rejected(house: House, reports: int) -> None:
    replicas = [house.replica(), house.replica()]
    rejected = await current(house, replicas[0])
    house.server.end((await house.stored())[1] or "")
    if reports == 2:
        await asyncio.sleep(3000)
        assert (await replicas[0].ask()).source is Source.RENEWAL_FAILING
    with pytest.raises(ReauthorizationRequired):
        await replicas[1].reject(rejected)
    await asyncio.sleep(house.policy.local_cache.total_seconds())
    for replica in replicas:
        with pytest.raises(ReauthorizationRequired):
            await replica.ask()
