"""Rules 5 to 7, 10 and 12: what comes of one attempt, and what it costs to fail."""

import asyncio
import itertools
from dataclasses import replace
from datetime import timedelta

import pytest

from service.core.errors import (
    BrokerError,
    ClientRejected,
    InvalidUpstreamAnswer,
    KeyUnavailable,
    ReauthorizationRequired,
    UpstreamUnavailable,
)
from service.core.model import Failure, GrantId, GrantState, Reason
from service.core.redeeming.breaker import FAILING_GRANTS
from service.core.redeeming.upstream import (
    Ambiguous,
    ClientRefused,
    InvalidGrant,
    NotSent,
    OtherRefusal,
    Outcome,
    RateLimited,
    RefusedWithoutCode,
)
from tests.support.fake_server import Rotation
from tests.support.replicas import ALICE, BOB, COMPANYS, THE_COMPANY, VERSATURE, House, Replica

READABLE, UNREADABLE = Ambiguous("timeout"), Ambiguous("html", unreadable=True)
ALL_OUTCOMES = [
    NotSent("x"),
    READABLE,
    UNREADABLE,
    InvalidGrant("x"),
    ClientRefused("x"),
    RateLimited("x"),
    RefusedWithoutCode("x"),
    OtherRefusal("x"),
]


def label(value: object) -> str | None:
    if isinstance(value, Ambiguous):
        return "unreadable" if value.unreadable else "ambiguous"
    return getattr(value, "label", None) or getattr(value, "__name__", None)


async def expire(house: House, replica: Replica, grant: GrantId = ALICE) -> str:
    refresh_token = await house.import_(replica, grant)
    await asyncio.sleep(3600)
    return refresh_token


async def failure_of(replica: Replica, grant: GrantId = ALICE) -> BrokerError:
    with pytest.raises(BrokerError) as caught:
        await replica.ask(grant, COMPANYS if grant.is_company else VERSATURE)
    return caught.value


@pytest.mark.parametrize(
    ("outcome", "problem"),
    [
        (NotSent("x"), UpstreamUnavailable),
        (RefusedWithoutCode("x"), InvalidUpstreamAnswer),
        (OtherRefusal("x"), InvalidUpstreamAnswer),
    ],
    ids=label,
)
async def test_what_spent_nothing_ends_the_claim_and_is_tried_again_after_a_pause(
    house: House, replica: Replica, outcome: Outcome, problem: type[BrokerError]
) -> None:
    await expire(house, replica)
    house.server.script(outcome)
    failed_at = house.clock.now()
    failure = await failure_of(replica)
    assert (type(failure), failure.retry_after) == (problem, timedelta(seconds=1))
    row = await house.row()
    assert (row.claim, row.failures, row.state) == (None, 1, GrantState.CONNECTED)
    assert row.last_error == Failure(problem.code, failed_at)
    assert type(await failure_of(house.replica())) is problem
    assert house.server.count("refresh") == 1
    await asyncio.sleep(1)
    await replica.ask()
    row = await house.row()
    assert (row.failures, row.last_error, row.retry_at) == (0, None, None)


@pytest.mark.parametrize(
    ("outcome", "problem"), [(READABLE, UpstreamUnavailable), (UNREADABLE, InvalidUpstreamAnswer)], ids=label
)
async def test_what_may_have_spent_the_token_leaves_the_claim_unfinished(
    house: House, replica: Replica, outcome: Outcome, problem: type[BrokerError]
) -> None:
    await expire(house, replica)
    house.server.script(outcome)
    failure = await failure_of(replica)
    row = await house.row()
    assert row.claim is not None
    assert row.retry_at == row.claim.lease_until + timedelta(seconds=30)
    assert (type(failure), failure.retry_after) == (problem, timedelta(seconds=60))
    assert type(await failure_of(house.replica())) is UpstreamUnavailable
    assert house.server.count("refresh") == 1


@pytest.mark.parametrize(
    "outcome",
    [
        Ambiguous("503", retry_after=timedelta(minutes=10)),
        Ambiguous("html", unreadable=True, retry_after=timedelta(minutes=10)),
        RefusedWithoutCode("x", retry_after=timedelta(minutes=10)),
        OtherRefusal("x", retry_after=timedelta(minutes=10)),
    ],
    ids=label,
)
@pytest.mark.parametrize("grant", [ALICE, THE_COMPANY], ids=["user", "company"])
async def test_a_provider_that_asks_for_time_gets_it_whatever_else_it_says(
    house: House, replica: Replica, outcome: Outcome, grant: GrantId
) -> None:
    if not grant.is_company:
        await expire(house, replica, grant)
    house.server.script(outcome)
    assert (await failure_of(replica, grant)).retry_after == timedelta(minutes=10)
    asked = len(house.server.calls)
    await asyncio.sleep(599)
    assert isinstance(await failure_of(house.replica(), grant), UpstreamUnavailable | InvalidUpstreamAnswer)
    assert len(house.server.calls) == asked
    await asyncio.sleep(1)
    await replica.ask(grant, COMPANYS if grant.is_company else VERSATURE)


async def test_an_application_whose_grants_are_asked_for_time_is_left_alone_as_long(
    house: House, replica: Replica
) -> None:
    grants = [GrantId("versature", f"user-{number}") for number in range(FAILING_GRANTS + 1)]
    for grant in grants:
        await house.import_(replica, grant)
    await asyncio.sleep(3600)
    house.server.script(*(Ambiguous("503", retry_after=timedelta(minutes=10)) for _ in range(FAILING_GRANTS)))
    for grant in grants[:FAILING_GRANTS]:
        await failure_of(replica, grant)
    assert (await failure_of(replica, grants[-1])).retry_after == timedelta(minutes=10)
    assert house.server.count("refresh") == FAILING_GRANTS


@pytest.mark.parametrize(
    ("outcome", "problem"),
    [(ClientRefused("x"), ClientRejected), (RateLimited("x", retry_after=timedelta(seconds=90)), UpstreamUnavailable)],
    ids=label,
)
async def test_the_applications_trouble_is_never_written_to_a_grant(
    house: House, replica: Replica, outcome: Outcome, problem: type[BrokerError]
) -> None:
    await expire(house, replica)
    before = await house.row()
    house.server.script(outcome)
    failure = await failure_of(replica)
    assert type(failure) is problem
    assert failure.retry_after == (outcome.retry_after or timedelta(seconds=1))
    assert await house.row() == before


async def test_the_applications_trouble_spares_its_other_grants_a_request(house: House, replica: Replica) -> None:
    await house.import_(replica, BOB)
    await expire(house, replica)
    house.server.script(RateLimited("x", retry_after=timedelta(seconds=90)))
    for grant in (ALICE, BOB, ALICE, BOB):
        assert type(await failure_of(replica, grant)) is UpstreamUnavailable
    assert house.server.count("refresh") == 1
    await asyncio.sleep(90)
    assert (await replica.ask(BOB)).token.generation == 2
    assert (await replica.ask(ALICE)).token.generation == 2


async def test_invalid_grant_for_the_stored_refresh_token_is_death(house: House, replica: Replica) -> None:
    house.server.end(await expire(house, replica))
    failure = await failure_of(replica)
    assert isinstance(failure, ReauthorizationRequired)
    assert (failure.reason, failure.by_us, failure.retry_after) == (Reason.REVOKED, False, None)
    row = await house.row()
    assert (row.state, row.reason) == (GrantState.REAUTHORIZATION_REQUIRED, Reason.REVOKED)
    assert row.last_error is not None
    assert (row.claim, row.last_error.code) == (None, "invalid_grant")


async def test_a_refresh_token_at_the_end_of_its_life_is_told_as_expired(house: House, replica: Replica) -> None:
    refresh_token = await house.import_(replica)
    house.server.end(refresh_token)
    await asyncio.sleep(90 * 86400)
    failure = await failure_of(replica)
    assert isinstance(failure, ReauthorizationRequired)
    assert failure.reason is Reason.REFRESH_TOKEN_EXPIRED


async def test_an_old_refresh_token_that_still_works_is_not_declared_dead(house: House, replica: Replica) -> None:
    await house.import_(replica)
    await asyncio.sleep(400 * 86400)
    assert (await replica.ask()).token.generation == 2


async def test_a_dead_grant_answers_without_any_request(house: House, replica: Replica) -> None:
    house.server.end(await expire(house, replica))
    for other in (replica, house.replica(), house.replica()):
        for _ in range(20):
            assert isinstance(await failure_of(other), ReauthorizationRequired)
        await asyncio.sleep(86400)
    assert house.server.count("refresh") == 1


async def test_a_stale_invalid_grant_never_kills_the_winner(house: House) -> None:
    """Paused for longer than its lease; meanwhile the user connected again, or another replica renewed."""
    house.server.rotation = Rotation.OFF
    for overtake in ("renewal", "import"):
        grant = GrantId("versature", overtake)
        slow, quick = house.replica(), house.replica()
        await expire(house, slow, grant)
        silence = house.server.fall_silent()
        house.server.script(InvalidGrant("x"))
        late = asyncio.create_task(slow.ask(grant))
        await silence.arrived.wait()
        house.server.speak()
        house.clock.advance(61)
        if overtake == "import":
            await house.import_(quick, grant)
        assert (await quick.ask(grant)).token.generation == 2
        before = await house.row(grant)
        silence.release()
        with pytest.raises(BrokerError) as caught:
            await late
        assert not isinstance(caught.value, ReauthorizationRequired)
        assert await house.row(grant) == before


@pytest.mark.parametrize("outcome", ALL_OUTCOMES, ids=label)
async def test_the_company_spends_nothing_so_every_failure_ends_its_claim(house: House, outcome: Outcome) -> None:
    replica = house.replica()
    house.server.script(outcome)
    failure = await failure_of(replica, THE_COMPANY)
    row = await house.row(THE_COMPANY)
    assert (row.claim, row.state) == (None, GrantState.CONNECTED)
    assert failure.retry_after == timedelta(seconds=1)
    await asyncio.sleep(1)
    assert (await replica.ask(THE_COMPANY, COMPANYS)).token.generation == 1


@pytest.mark.parametrize("outcome", [one for one in ALL_OUTCOMES if not isinstance(one, InvalidGrant)], ids=label)
async def test_every_fault_that_passes_leaves_the_grant_usable(
    house: House, replica: Replica, outcome: Outcome
) -> None:
    await expire(house, replica)
    house.server.script(outcome)
    await failure_of(replica)
    await asyncio.sleep(60)
    assert (await replica.ask()).token.generation == 2
    assert (await house.stored())[1] in house.server.good


async def test_pauses_double_and_are_kept_by_every_replica(house: House, replica: Replica) -> None:
    await expire(house, replica)
    house.server.always(NotSent("x"))
    replicas = [replica, house.replica(), house.replica()]
    for _ in range(200):
        for asking in replicas:
            await failure_of(asking)
        await asyncio.sleep(0.5)
    times = [call.at for call in house.server.calls]
    pauses = [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(times)]
    assert pauses == [1, 2, 4, 8, 16, 32]


async def test_while_a_grant_is_left_alone_its_valid_token_is_served_at_once(house: House, replica: Replica) -> None:
    await house.import_(replica)
    await asyncio.sleep(3000)
    house.server.script(READABLE)
    for _ in range(5):
        before = house.clock.now()
        assert (await replica.ask()).token.generation == 1
        assert house.clock.now() == before
    assert house.server.count("refresh") == 1


async def test_swapped_columns_are_undecryptable_until_swapped_back_and_nothing_is_marked(
    house: House, replica: Replica
) -> None:
    await house.import_(replica, BOB)
    await expire(house, replica)
    hers, his = await house.row(ALICE), await house.row(BOB)
    house.grants.put(replace(hers, access_sealed=his.access_sealed, refresh_sealed=his.refresh_sealed))
    swapped = await house.row()
    failure = await failure_of(replica)
    assert isinstance(failure, ReauthorizationRequired)
    assert failure.reason is Reason.UNDECRYPTABLE
    assert await house.row() == swapped
    assert replica.broker.standing(swapped) == (GrantState.REAUTHORIZATION_REQUIRED, Reason.UNDECRYPTABLE)
    assert house.server.calls == []
    house.grants.put(hers)
    assert (await replica.ask()).token.generation == 2


async def test_a_broken_access_token_is_renewed_while_its_refresh_token_is_whole(
    house: House, replica: Replica
) -> None:
    await house.import_(replica)
    house.grants.put(replace(await house.row(), access_sealed=b"broken"))
    assert (await replica.ask()).token.generation == 2


async def test_an_unknown_sealing_key_is_our_trouble_and_marks_nothing(house: House, replica: Replica) -> None:
    await expire(house, replica)
    before = await house.row()
    house.keyring.known = {"another"}
    assert isinstance(await failure_of(replica), KeyUnavailable)
    assert replica.broker.standing(before) == (GrantState.CONNECTED, None)
    house.keyring.known = {"k1"}
    assert await house.row() == before
    assert house.server.calls == []
    assert (await replica.ask()).token.generation == 2


async def test_a_client_secret_that_does_not_open_sends_nothing_and_gives_the_claim_back(
    house: House, replica: Replica
) -> None:
    await expire(house, replica)
    before = await house.row()
    with pytest.raises(KeyUnavailable):
        await replica.ask(ALICE, replace(VERSATURE, sealed_secret=b"broken"))
    assert house.server.calls == []
    assert await house.row() == before


async def test_a_renewal_without_refresh_token_or_scope_keeps_the_old_ones(house: House, replica: Replica) -> None:
    refresh_token = await expire(house, replica)
    house.server.names_refresh, house.server.scope = False, None
    before = await house.row()
    handout = await replica.ask()
    row, (_, kept) = await house.row(), await house.stored()
    assert (kept, row.scope, handout.token.scope) == (refresh_token, "Office Manager", "Office Manager")
    assert row.refresh_expires_at == before.refresh_expires_at


async def test_a_new_refresh_token_starts_a_new_life_and_a_new_scope_replaces_the_old(
    house: House, replica: Replica
) -> None:
    await expire(house, replica)
    house.server.scope = "Call Centre"
    handout = await replica.ask()
    row = await house.row()
    assert (row.scope, handout.token.scope) == ("Call Centre", "Call Centre")
    assert row.refresh_expires_at == house.clock.now() + timedelta(days=90)


async def test_an_unstated_life_is_a_short_one(house: House, replica: Replica) -> None:
    await expire(house, replica)
    house.server.life = None
    token = (await replica.ask()).token
    assert token.expires_at - token.issued_at == timedelta(minutes=5)


async def test_a_life_counts_from_the_sending_of_the_request(house: House, replica: Replica) -> None:
    await expire(house, replica)
    silence = house.server.fall_silent()
    sent_at = house.clock.now()
    asyncio.get_running_loop().call_later(7, silence.release)
    token = (await replica.ask()).token
    assert (token.issued_at, token.expires_at) == (sent_at, sent_at + timedelta(hours=1))


async def test_without_a_refresh_token_a_grant_lasts_as_long_as_its_access_token(
    house: House, replica: Replica
) -> None:
    await house.import_(replica)
    house.grants.put(replace(await house.row(), refresh_sealed=None))
    await asyncio.sleep(3590)
    assert (await replica.ask()).token.generation == 1
    await asyncio.sleep(10)
    failure = await failure_of(replica)
    assert isinstance(failure, ReauthorizationRequired)
    assert failure.reason is Reason.NO_REFRESH_TOKEN
    assert replica.broker.standing(await house.row()) == (
        GrantState.REAUTHORIZATION_REQUIRED,
        Reason.NO_REFRESH_TOKEN,
    )
    assert house.server.calls == []


async def test_the_company_starts_afresh_when_its_application_has_changed(house: House, replica: Replica) -> None:
    house.server.script(NotSent("x"))
    assert isinstance(await failure_of(replica, THE_COMPANY), UpstreamUnavailable)
    changed = replace(COMPANYS, token_url="https://elsewhere.example/token")
    assert (await replica.ask(THE_COMPANY, changed)).token.generation == 1
