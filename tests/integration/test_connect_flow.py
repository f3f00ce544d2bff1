"""The connect flow against a real provider and a real database file: what goes wrong changes nothing, and heals."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.support.brokers import Broker
from tests.support.browser import Browser, browser_of, connect, invite
from tests.support.world import World

LIFE = 3600
LINK_LIFE = 600
UNSTATED_LIFE = 300


@pytest.fixture
async def broker(world: World) -> AsyncIterator[Broker]:
    async with world.broker() as running:
        yield running


@pytest.fixture
async def browser(broker: Broker) -> AsyncIterator[Browser]:
    async with browser_of(broker) as fresh:
        yield fresh


async def _token(broker: Broker, user: str = "alice") -> str:
    answer = await broker.client.get(f"/tokens/{user}")
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


async def _standing(broker: Broker, user: str = "alice") -> tuple[str, str | None]:
    grant = (await broker.client.get(f"/grants/{user}")).json()
    return grant["state"], grant["reason"]


async def _must_reconnect(broker: Broker, reason: str) -> bool:
    answer = await broker.client.get("/tokens/alice")
    problem = answer.json()
    assert problem["connect"] == {"method": "POST", "href": "/grants/alice/connect?application=default"}
    return (answer.status_code, problem["code"], problem["reason"]) == (409, "reauthorization_required", reason)


def _explains(page: httpx.Response, status: int, code: str, *, what_to_do: str) -> bool:
    """Whether *page* is that problem in words for a person, who is told how to go on."""
    assert page.headers["Content-Type"].startswith("text/html")
    assert page.status_code == status
    assert code in page.text
    return what_to_do in " ".join(page.text.split())


@pytest.mark.parametrize("known", [False, True], ids=["unknown user", "connected user"])
async def test_a_callback_with_a_wrong_or_used_or_expired_state_changes_nothing_and_says_what_to_do(
    world: World, broker: Broker, browser: Browser, known: bool
) -> None:
    if known:
        await connect(broker, "alice")
    before = (await broker.client.get("/grants/alice")).json()

    async def unchanged() -> bool:
        now = (await broker.client.get("/grants/alice")).json()
        return {**now, "request_id": None} == {**before, "request_id": None}

    link = await invite(broker, "alice")
    callback = await browser.decide("alice", await browser.depart(link))
    exchanges = len(await world.versature.calls(grant_type="authorization_code"))
    wrong = httpx.URL(callback).copy_merge_params({"state": "w" * 43})
    page = await browser.open(str(wrong))
    assert _explains(page, 400, "invalid_authorization_request", what_to_do="Open the link that you were given again")
    assert await unchanged()

    world.clock.advance(LINK_LIFE)
    page = await browser.open(callback)
    assert _explains(page, 410, "authorization_expired", what_to_do="A new link comes from where you got this one")
    page = await browser.open(callback)
    assert _explains(page, 400, "invalid_authorization_request", what_to_do="Open the link that you were given again")
    assert await unchanged()
    assert len(await world.versature.calls(grant_type="authorization_code")) == exchanges, "no code was sent"


async def test_a_used_callback_changes_nothing(world: World, broker: Broker, browser: Browser) -> None:
    callback = await browser.decide("alice", await browser.depart(await invite(broker, "alice")))
    assert (await browser.open(callback)).status_code == 303
    before = (await broker.client.get("/grants/alice")).json()
    page = await browser.open(callback)
    assert _explains(page, 400, "invalid_authorization_request", what_to_do="Open the link that you were given again")
    assert (await broker.client.get("/grants/alice")).json() == before
    assert len(await world.versature.calls(grant_type="authorization_code")) == 1
    assert await world.versature.whose(await _token(broker)) == "alice"


async def test_a_callback_in_another_browser_changes_nothing_and_the_first_one_may_start_again(
    world: World, broker: Broker, browser: Browser
) -> None:
    link = await invite(broker, "alice")
    callback = await browser.decide("alice", await browser.depart(link))
    async with browser_of(broker) as stranger:
        await stranger.depart(await invite(broker, "bob"))
        page = await stranger.open(callback)
    assert _explains(page, 400, "invalid_authorization_request", what_to_do="another browser")
    assert (await broker.client.get("/grants/alice")).status_code == 404
    assert await world.versature.calls(endpoint="token") == []
    assert (await browser.walk(link, "alice")).status_code == 303
    assert await world.versature.whose(await _token(broker)) == "alice"


async def test_a_denied_login_changes_nothing_and_says_what_to_do(
    world: World, broker: Broker, browser: Browser
) -> None:
    await connect(broker, "alice")
    before, token = (await broker.client.get("/grants/alice")).json(), await _token(broker)
    page = await browser.walk(await invite(broker, "alice"), "alice", decision="deny")
    assert _explains(page, 403, "authorization_denied", what_to_do="Open your link again")
    assert (await broker.client.get("/grants/alice")).json() == before
    assert await _token(broker) == token
    assert len(await world.versature.calls(endpoint="token")) == 1


async def test_a_link_works_again_after_every_failure_until_it_is_completed(
    world: World, broker: Broker, browser: Browser
) -> None:
    link = await invite(broker, "alice")
    assert (await browser.walk(link, "alice", decision="deny")).status_code == 403
    await world.versature.switch(fault="server_error_after", fault_times=1)
    assert (await browser.walk(link, "alice")).status_code == 503
    assert (await browser.walk(link, "alice")).status_code == 303
    for page in (await browser.open(link), await browser.depart(link)):
        assert _explains(page, 410, "authorization_expired", what_to_do="A new link comes from where you got this one")


async def test_with_pkce_the_code_works_only_together_with_its_verifier(world: World) -> None:
    async with world.broker(VERSATURE_PKCE="true") as broker:
        assert (await connect(broker, "alice")).status_code == 303
        assert await world.versature.whose(await _token(broker)) == "alice"
    trip = [call["pkce"] for call in await world.versature.calls() if call["endpoint"] in {"authorize", "token"}]
    assert trip == [True, True]


@pytest.mark.parametrize("death", ["revoked", "lost_in_transit", "no_refresh_token"])
async def test_reconnecting_heals_a_dead_grant(world: World, broker: Broker, death: str) -> None:
    if death == "no_refresh_token":
        await world.versature.switch(omit=["refresh_token"])
    await connect(broker, "alice")
    world.clock.advance(LIFE)
    await world.versature.switch(omit=[])
    if death == "revoked":
        await world.versature.client.post("/sandbox/revoke_user", json={"user": "alice"})
    if death == "lost_in_transit":
        await world.versature.switch(fault="drop_after", fault_times=1)
        lost = await broker.client.get("/tokens/alice")
        world.clock.advance(int(lost.headers["Retry-After"]))
    assert await _must_reconnect(broker, death)
    assert await _standing(broker) == ("reauthorization_required", death)
    await connect(broker, "alice")
    assert await _standing(broker) == ("connected", None)
    assert await world.versature.whose(await _token(broker)) == "alice"
    world.clock.advance(LIFE)
    assert await world.versature.whose(await _token(broker)) == "alice"


async def test_without_a_refresh_token_the_access_token_serves_until_it_ends(world: World, broker: Broker) -> None:
    await world.versature.switch(omit=["refresh_token"])
    await connect(broker, "alice")
    token = await _token(broker)
    world.clock.advance(LIFE - 6)
    assert await _token(broker) == token
    assert await world.versature.whose(token) == "alice"
    assert await _standing(broker) == ("connected", None)
    world.clock.advance(6)
    assert await _must_reconnect(broker, "no_refresh_token")
    assert await _standing(broker) == ("reauthorization_required", "no_refresh_token")
    assert await world.versature.redemptions() == []


async def test_a_retried_import_restores_nothing_that_was_spent(world: World, broker: Broker) -> None:
    await world.versature.switch(rotation="strict")
    [minted] = await world.versature.mint("alice")
    body = {"refresh_token": minted["refresh_token"]}
    assert (await broker.client.put("/grants/alice", json=body)).status_code == 201
    assert (await broker.client.put("/grants/alice", json=body)).status_code == 200
    for _ in range(3):
        await _token(broker)
        world.clock.advance(LIFE)
    before = (await broker.client.get("/grants/alice")).json()
    again = await broker.client.put("/grants/alice", json=body)
    assert again.status_code == 200
    assert again.json() == before
    assert await world.versature.whose(await _token(broker)) == "alice"
    await broker.client.delete("/grants/alice")
    assert (await broker.client.put("/grants/alice", json=body)).json()["state"] == "revoked"
    assert await _must_reconnect(broker, "revoked")
    shown = [call["refresh_token_digest"] for call in await world.versature.redemptions()]
    assert len(shown) == len(set(shown)) == 4


async def test_an_answer_that_arrives_after_a_revocation_is_handed_back_and_never_published(
    world: World, broker: Broker
) -> None:
    await connect(broker, "alice")
    world.clock.advance(LIFE)
    await world.versature.switch(fault="delay", fault_times=1, delay_seconds=0.5)
    asking = asyncio.create_task(broker.client.get("/tokens/alice"))
    async with asyncio.timeout(10):
        while await world.versature.redemptions() == []:  # noqa: ASYNC110 - the sandbox has no events
            await asyncio.sleep(0.01)
    revocation = await broker.client.delete("/grants/alice")
    assert revocation.json() == {"state": "revoked", "upstream": "revoked"}
    late = await asking
    assert (late.status_code, late.json()["reason"]) == (409, "revoked")
    assert await _must_reconnect(broker, "revoked")
    async with asyncio.timeout(10):  # a slow database makes the late answer wait, not the caller
        while len(revoked := await world.versature.calls(endpoint="revoke")) < 2:  # noqa: ASYNC110 - it has no events
            await asyncio.sleep(0.01)
    assert [call["outcome"] for call in revoked] == ["revoked", "revoked"]
    assert len({call["refresh_token_digest"] for call in revoked}) == 2


async def test_a_refresh_that_leaves_out_life_and_scope_and_type_keeps_what_was_known(
    world: World, broker: Broker
) -> None:
    await connect(broker, "alice")
    first = (await broker.client.get("/tokens/alice")).json()
    world.clock.advance(LIFE)
    await world.versature.switch(omit=["expires_in", "expires", "scope", "token_type"])
    second = (await broker.client.get("/tokens/alice")).json()
    assert second["access_token"] != first["access_token"]
    assert (second["token_type"], second["scope"]) == ("Bearer", first["scope"])
    assert second["expires_in"] == UNSTATED_LIFE
    world.clock.advance(UNSTATED_LIFE)
    assert await world.versature.whose(await _token(broker)) == "alice"


async def test_a_refresh_without_a_new_refresh_token_keeps_the_old_one(world: World, broker: Broker) -> None:
    await connect(broker, "alice")
    await world.versature.switch(omit=["refresh_token"])
    for _ in range(3):
        world.clock.advance(LIFE)
        assert await world.versature.whose(await _token(broker)) == "alice"
    assert len({call["refresh_token_digest"] for call in await world.versature.redemptions()}) == 1
