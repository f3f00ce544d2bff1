"""One trip of one browser to the provider and back."""

import asyncio
import base64
import hashlib
from dataclasses import dataclass, replace
from urllib.parse import parse_qs, urlsplit

import pytest

from service.core.audit_store import Action
from service.core.authorization import Arrival, Departure
from service.core.errors import (
    ApplicationNotFound,
    AuthorizationDenied,
    AuthorizationExpired,
    ClientRejected,
    InvalidAuthorizationRequest,
    InvalidRequest,
    InvalidUpstreamAnswer,
    StoreUnavailable,
    UpstreamUnavailable,
)
from service.core.model import Application, Caller, Scope
from service.core.redeeming.upstream import Ambiguous, InvalidGrant, NotSent, OtherRefusal, Outcome, RateLimited
from tests.support.replicas import ALICE, REDIRECT_URI, THE_COMPANY, VERSATURE, House, Replica, application

CRM = Caller("crm", frozenset({Scope.GRANTS}), users=("*",), applications=("*",))
TRIP_ENDS = {Action.CONNECTED, Action.CONNECT_FAILED}
BACK = "https://crm.example/done?x=1"


@dataclass(frozen=True, slots=True)
class Traveller:
    """A person at a browser, with a link of ours."""

    house: House
    replica: Replica
    ticket: str

    async def depart(self, cookie: str | None = None) -> Departure:
        return await self.replica.authorization.depart(self.ticket, cookie)

    async def arrive(
        self, departure: Departure, *, code: str | None = None, error: str | None = None, cookie: str | None = None
    ) -> Arrival:
        """Come back with a good code, unless told otherwise, in the browser that departed, unless told otherwise."""
        return await self.replica.authorization.arrive(
            state=state_of(departure),
            code=code or (None if error else self.house.server.code()),
            error=error,
            cookie=cookie or departure.cookie,
        )


async def traveller(house: House, app: Application = VERSATURE, return_to: str | None = BACK) -> Traveller:
    replica = house.replica(settings=app)
    await replica.directory.check()
    ticket, _ = await replica.authorization.invite(CRM, app, replace(ALICE, application=app.name), return_to)
    return Traveller(house, replica, ticket)


def state_of(departure: Departure) -> str:
    return sent_along(departure)["state"]


def sent_along(departure: Departure) -> dict[str, str]:
    fields = parse_qs(urlsplit(departure.authorize_url).query, strict_parsing=True)
    return {name: value for name, [value] in fields.items()}


async def test_a_trip_connects_the_user_with_what_the_code_brought(house: House) -> None:
    alice = await traveller(house)
    departure = await alice.depart()
    arrival = await alice.arrive(departure)
    assert arrival.failure is None
    assert arrival.request.return_to == BACK
    access, refresh = await house.stored()
    assert access is not None
    assert refresh in house.server.good
    call = house.server.calls[0]
    assert (call.kind, call.redirect_uri, call.client_secret) == ("code", REDIRECT_URI, "secret of versature")
    assert (await alice.replica.broker.get(VERSATURE, ALICE)).token.value == access.value


async def test_the_provider_is_asked_for_exactly_what_the_application_needs(house: House) -> None:
    departure = await (await traveller(house)).depart()
    assert departure.authorize_url.startswith("https://provider.example/api/oauth/authorize/?")
    fields = sent_along(departure)
    assert fields == {
        "response_type": "code",
        "client_id": "id-of-versature",
        "redirect_uri": REDIRECT_URI,
        "state": fields["state"],
    }


async def test_a_query_of_the_authorize_url_and_a_scope_with_a_space_survive(house: House) -> None:
    app = replace(
        application("versature", oauth_scope="Office Manager"),
        authorize_url="https://provider.example/authorize?tenant=7",
    )
    fields = sent_along(await (await traveller(house, app)).depart())
    assert (fields["tenant"], fields["scope"]) == ("7", "Office Manager")


async def test_pkce_proves_that_the_same_broker_redeems(house: House) -> None:
    alice = await traveller(house, application("versature", pkce=True))
    departure = await alice.depart()
    await alice.arrive(departure)
    verifier = house.server.calls[0].verifier or ""
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    fields = sent_along(departure)
    assert (fields["code_challenge"], fields["code_challenge_method"]) == (challenge, "S256")
    assert len(verifier) >= 43


async def test_no_ticket_state_cookie_or_verifier_is_stored_in_the_clear(house: House) -> None:
    alice = await traveller(house)
    departure = await alice.depart()
    stored = repr(vars(house.requests))
    for secret in (alice.ticket, departure.cookie, state_of(departure)):
        assert secret not in stored


async def test_looking_at_a_link_changes_nothing(house: House) -> None:
    alice = await traveller(house)
    departure = await alice.depart()
    for _ in range(3):
        await alice.replica.authorization.look_up(alice.ticket)
    assert (await alice.arrive(departure)).failure is None


async def test_a_used_state_is_worth_nothing(house: House) -> None:
    alice = await traveller(house)
    departure = await alice.depart()
    await alice.arrive(departure)
    before = await house.row()
    with pytest.raises(InvalidAuthorizationRequest):
        await alice.arrive(departure)
    assert await house.row() == before
    assert house.server.count("code") == 1


@pytest.mark.parametrize("state", [None, "", "made-up", "\ud800"], ids=repr)
async def test_a_state_that_is_not_ours_changes_nothing(house: House, state: str | None) -> None:
    alice = await traveller(house)
    departure = await alice.depart()
    with pytest.raises(InvalidAuthorizationRequest):
        await alice.replica.authorization.arrive(state=state, code="c", error=None, cookie=departure.cookie)
    assert house.server.calls == []
    assert (await alice.arrive(departure)).failure is None


@pytest.mark.parametrize("cookie", ["x" * 43, "", "ü"], ids=repr)
async def test_another_browser_changes_nothing_and_spends_the_state(house: House, cookie: str) -> None:
    alice = await traveller(house)
    departure = await alice.depart()
    with pytest.raises(InvalidAuthorizationRequest):
        await alice.replica.authorization.arrive(
            state=state_of(departure), code=house.server.code(), error=None, cookie=cookie or None
        )
    assert house.server.calls == []
    assert not (await house.row()).exists
    with pytest.raises(InvalidAuthorizationRequest):
        await alice.arrive(departure)


async def test_departing_again_voids_the_last_state(house: House) -> None:
    alice = await traveller(house)
    first = await alice.depart()
    second = await alice.depart(first.cookie)
    assert second.cookie == first.cookie
    with pytest.raises(InvalidAuthorizationRequest):
        await alice.arrive(first)
    assert (await alice.arrive(second)).failure is None


async def test_another_browser_on_the_same_link_gets_a_cookie_of_its_own_and_voids_the_first(house: House) -> None:
    alice = await traveller(house)
    first, second = await alice.depart(), await alice.depart()
    assert first.cookie != second.cookie
    with pytest.raises(InvalidAuthorizationRequest):
        await alice.arrive(second, cookie=first.cookie)


async def test_two_tabs_of_one_browser_do_not_void_each_other(house: House) -> None:
    alice = await traveller(house)
    ticket, _ = await alice.replica.authorization.invite(CRM, VERSATURE, replace(ALICE, user="bob"), None)
    bob = Traveller(house, alice.replica, ticket)
    hers = await alice.depart()
    his = await bob.depart(hers.cookie)
    assert (await alice.arrive(hers)).failure is None
    assert (await bob.arrive(his)).failure is None


async def test_a_cookie_that_is_not_ours_is_replaced(house: House) -> None:
    for strange in ("short", "x" * 42 + "\n", "ü" * 43, "x" * 42 + ";"):
        assert (await (await traveller(house)).depart(strange)).cookie != strange


async def test_a_link_lives_ten_minutes_and_until_it_is_completed(house: House) -> None:
    alice = await traveller(house)
    await asyncio.sleep(599.9)
    assert (await alice.arrive(await alice.depart(), error="access_denied")).failure is not None
    await alice.replica.authorization.look_up(alice.ticket)
    await asyncio.sleep(0.1)
    with pytest.raises(AuthorizationExpired):
        await alice.depart()


async def test_a_completed_link_is_used_up(house: House) -> None:
    alice = await traveller(house)
    await alice.arrive(await alice.depart())
    for step in (alice.replica.authorization.look_up(alice.ticket), alice.depart()):
        with pytest.raises(AuthorizationExpired):
            await step


async def test_an_unknown_link_is_not_ours(house: House) -> None:
    alice = await traveller(house)
    with pytest.raises(InvalidAuthorizationRequest):
        await alice.replica.authorization.look_up(alice.ticket + "x")


async def test_a_login_begun_in_time_may_end_after_the_link_but_not_ten_minutes_later(house: House) -> None:
    alice = await traveller(house)
    await asyncio.sleep(590)
    in_time = await alice.depart()
    await asyncio.sleep(599)
    assert (await alice.arrive(in_time)).failure is None
    other = await traveller(house)
    late = await other.depart()
    await asyncio.sleep(600)
    assert isinstance((await other.arrive(late)).failure, AuthorizationExpired)
    assert house.server.count("code") == 1


async def test_a_denied_login_changes_nothing_and_leaves_the_link_usable(house: House) -> None:
    alice = await traveller(house)
    arrival = await alice.arrive(await alice.depart(), error="access_denied")
    assert isinstance(arrival.failure, AuthorizationDenied)
    assert not (await house.row()).exists
    assert (await alice.arrive(await alice.depart())).failure is None


async def test_a_return_without_a_code_or_with_another_error_is_no_login(house: House) -> None:
    alice = await traveller(house)
    wrong = await alice.arrive(await alice.depart(), error="server_error", code="c")
    departure = await alice.depart()
    without = await alice.replica.authorization.arrive(
        state=state_of(departure), code=None, error=None, cookie=departure.cookie
    )
    assert [type(arrival.failure) for arrival in (wrong, without)] == [InvalidAuthorizationRequest] * 2
    assert house.server.calls == []


@pytest.mark.parametrize(
    ("outcome", "problem"),
    [
        (InvalidGrant("x"), AuthorizationExpired),
        (NotSent("x"), UpstreamUnavailable),
        (RateLimited("x"), UpstreamUnavailable),
        (Ambiguous("x"), UpstreamUnavailable),
        (Ambiguous("x", unreadable=True), InvalidUpstreamAnswer),
        (OtherRefusal("x"), InvalidUpstreamAnswer),
    ],
    ids=lambda value: getattr(value, "label", None) or getattr(value, "__name__", None),
)
async def test_a_code_leaves_us_once_and_its_failure_changes_no_grant(
    house: House, outcome: Outcome, problem: type[Exception]
) -> None:
    alice = await traveller(house)
    await house.import_(alice.replica)
    before = await house.row()
    house.server.script(outcome)
    arrival = await alice.arrive(await alice.depart())
    assert type(arrival.failure) is problem
    assert house.server.count("code") == 1
    assert await house.row() == before


async def test_a_refused_registration_is_told_as_such(house: House) -> None:
    alice = await traveller(house)
    house.server.refuses.add(VERSATURE.client_id)
    assert isinstance((await alice.arrive(await alice.depart())).failure, ClientRejected)


async def test_an_application_that_went_away_meanwhile_is_a_failed_trip(house: House) -> None:
    alice = await traveller(house)
    departure = await alice.depart()
    stranger = house.replica()
    arrival = await stranger.authorization.arrive(
        state=state_of(departure), code="c", error=None, cookie=departure.cookie
    )
    assert isinstance(arrival.failure, ApplicationNotFound)


async def test_while_the_database_is_away_nothing_is_taken_and_the_same_address_works_again(house: House) -> None:
    alice = await traveller(house)
    departure, code = await alice.depart(), house.server.code()
    house.requests.away = True
    with pytest.raises(StoreUnavailable):
        await alice.arrive(departure, code=code)
    assert house.server.calls == []
    house.requests.away = False
    assert (await alice.arrive(departure, code=code)).failure is None


async def test_the_company_needs_no_login(house: House) -> None:
    alice = await traveller(house)
    with pytest.raises(InvalidRequest):
        await alice.replica.authorization.invite(CRM, VERSATURE, THE_COMPANY, None)


@pytest.mark.parametrize(
    "return_to",
    [
        "https://crm.example",
        "https://crm.example/",
        "HTTPS://CRM.example/a?b#c",
        "https://crm.example?next=https://evil",
    ],
)
async def test_return_to_may_lead_anywhere_on_an_allowed_origin(house: House, return_to: str) -> None:
    await traveller(house, return_to=return_to)


@pytest.mark.parametrize(
    "return_to",
    [
        "",
        "/done",
        "//crm.example/",
        "http://crm.example/",
        "https://crm.example:8443/",
        "https://crm.example.evil.example/",
        "https://evil.example/https://crm.example",
        "https://evil.example#https://crm.example",
        "https://crm.example@evil.example/",
        "https://evil.example\\@crm.example/",
        "https://evil.example\\.crm.example/",
        "https:\\\\crm.example/",
        "https:/\\evil.example/",
        "https://evil.example/\\@crm.example",
        "https://\uff43rm.example/",
        "https://crm.example/\\evil.example",
        "https:///crm.example/",
        "https:crm.example",
        "https://crm.example\n.evil.example/",
        " https://crm.example/",
        "https://crm.example/\tx",
        "https://crm.example\uff0f.evil.example/",
        "https://[crm.example/",
        "https://crm.example:x/",
        "javascript://crm.example/%0aalert(1)",
        "data:text/html,crm.example",
    ],
    ids=repr,
)
async def test_return_to_leads_nowhere_else(house: House, return_to: str) -> None:
    with pytest.raises(InvalidRequest):
        await traveller(house, return_to=return_to)


@pytest.mark.parametrize("meanwhile", ["revocation", "newer login"])
async def test_a_login_that_came_too_late_is_not_told_as_success(house: House, meanwhile: str) -> None:
    """Nothing takes its answer for a while, and when the database does, somebody has decided otherwise."""
    alice = await traveller(house)
    await house.import_(alice.replica)
    departure = await alice.depart()
    house.grants.away_for = {"connect"}
    alice.replica.spool.away = house.copy.away = True
    arriving = asyncio.create_task(alice.arrive(departure))
    await asyncio.sleep(2)
    house.grants.away_for = set()
    if meanwhile == "revocation":
        await alice.replica.broker.revoke(VERSATURE, ALICE)
    else:
        newer = house.answer(generation=0, ticket_digest=b"another")
        await house.grants.connect(ALICE, newer.tokens, at=house.clock.now(), attempt_id="newer")
    before = await house.row()
    arrival = await arriving
    assert isinstance(arrival.failure, AuthorizationExpired)
    assert await house.row() == before
    assert (await alice.replica.authorization.look_up(alice.ticket)).completed_at is None
    await alice.replica.audit.flush()
    noted = [(entry.action, entry.code) for entry in house.audit.rows.values() if entry.action in TRIP_ENDS]
    assert noted == [(Action.CONNECT_FAILED, "authorization_expired")]
