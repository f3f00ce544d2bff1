"""What a real Chromium is kept from doing with our pages, and what becomes of trips that go astray."""

import contextlib
import sqlite3
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.async_api import Page, Request, Response, Route, expect

from sandbox.directory import USERS
from tests.e2e.conftest import Phone, Stage
from tests.support.browser import invite
from tests.support.canary import Canary

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

HEADERS = {
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
INLINE = """() => {
    const script = document.createElement("script");
    script.textContent = "document.title = 'run'";
    document.head.append(script);
    return [document.title, document.cookie];
}"""


def expire(stage: Stage) -> None:
    """Let the time of every link be over."""
    with contextlib.closing(sqlite3.connect(stage.folder / "broker.db")) as connection, connection:
        connection.execute("UPDATE authorization_requests SET expires_at = 1")


async def pages_of_every_kind(stage: Stage) -> dict[str, str]:
    """Addresses of pages that a person may see, by the heading that each has."""
    base = stage.broker.base_url
    return {
        "Connect headers to Versature": await invite(stage.broker, "headers"),
        "You are connected": f"{base}/connect/done",
        "an unknown link": f"{base}/connect/not-one-of-ours",
    }


async def test_no_page_runs_script_is_framed_or_tells_where_it_was(stage: Stage, phone: Phone) -> None:
    kinds = await pages_of_every_kind(stage)
    kinds["callback"] = f"{stage.broker.base_url}/oauth/callback?code=a&state=b"
    kinds["explained"] = f"{stage.broker.base_url}/problems/not_allowed"
    for heading, address in kinds.items():
        answer = await phone.page.goto(address)
        assert answer is not None
        headers = await answer.all_headers()
        assert {name: headers.get(name) for name in HEADERS} == HEADERS, heading
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "script-src" not in policy
        assert "unsafe" not in policy
        title, cookie = await phone.page.evaluate(INLINE)
        assert (title == "run", cookie) == (False, ""), heading
        phone.complaints.clear()  # Chromium tells that it did not run the script, and of the status
    await assert_no_frame_shows(phone.page, next(iter(kinds.values())))
    await assert_no_frame_shows(phone.page, f"{stage.broker.base_url}/docs")


async def assert_no_frame_shows(page: Page, address: str) -> None:
    async def framing(route: Route) -> None:
        await route.fulfill(body=f'<iframe src="{address}"></iframe>', content_type="text/html")

    await page.route("**/framing", framing)
    await page.goto(f"{urlsplit(address).scheme}://{urlsplit(address).netloc}/framing")
    [frame] = page.frames[1:]
    assert frame.url == "chrome-error://chromewebdata/"
    assert "to Versature" not in await frame.content()
    await page.unroute("**/framing")


async def test_a_foreign_page_cannot_press_the_button_for_a_person(stage: Stage, phone: Phone) -> None:
    """The page says who will be connected to whom; whoever is sent past it was not warned."""
    link, elsewhere = await invite(stage.broker, "pressed"), "http://127.0.0.1:9/trap"

    async def trap(route: Route) -> None:
        form = f'<form method="post" action="{link}"><button>You have won</button></form>'
        await route.fulfill(body=form, content_type="text/html")

    await phone.page.route(elsewhere, trap)
    await phone.page.goto(elsewhere)
    await phone.page.get_by_role("button").click()
    await phone.sees("This login cannot be completed")
    assert urlsplit(phone.page.url).netloc == urlsplit(stage.broker.base_url).netloc
    assert await phone.context.cookies() == []
    await phone.depart(link)
    await phone.decide("alice")
    await phone.sees("You are connected")


async def test_neither_the_provider_nor_the_service_hears_where_the_browser_came_from(
    stage: Stage, phone: Phone
) -> None:
    back, requests = f"{stage.versature.base_url}/sandbox/switches", list[Request]()
    phone.page.on("request", lambda request: requests.append(request))  # noqa: PLW0108 - playwright marks what it is given
    await phone.depart(await invite(stage.broker, "referrer", {"return_to": back}))
    await phone.decide("alice")
    await expect(phone.page).to_have_url(f"{back}?status=connected")
    from_us = [request for request in requests if "authorize" in request.url and request.method == "GET"]
    returned = [request for request in requests if request.url.startswith(back)]
    assert from_us
    assert returned
    for request in (*from_us, *returned):
        told = (await request.all_headers()).get("referer", "")
        assert "connect" not in told, "the ticket"
        assert "callback" not in told, "code and state"


async def test_the_cookie_is_for_the_trip_only(stage: Stage, phone: Phone) -> None:
    await phone.depart(await invite(stage.broker, "cookie"))
    [cookie] = await phone.context.cookies(stage.broker.base_url)
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Lax", "/")
    seconds = cookie["expires"] - await phone.page.evaluate("Date.now() / 1000")
    assert 500 < seconds <= 600
    assert len(cookie["value"]) >= 43


async def test_no_address_of_a_page_can_send_a_person_elsewhere(stage: Stage, phone: Phone) -> None:
    evil = "return_to=https://evil.example/&redirect_uri=https://evil.example/&next=//evil.example"
    for heading, address in (await pages_of_every_kind(stage)).items():
        await phone.page.goto(f"{address}?{evil}")
        assert urlsplit(phone.page.url).netloc == urlsplit(stage.broker.base_url).netloc
        if heading.startswith(("Connect", "You")):
            await phone.sees(heading)
    assert (await phone.page.goto(f"{stage.broker.base_url}//evil.example/%2e%2e")) is not None
    assert urlsplit(phone.page.url).netloc == urlsplit(stage.broker.base_url).netloc


async def test_the_wrong_person_is_warned_before_the_login(stage: Stage, phone: Phone) -> None:
    await phone.page.goto(await invite(stage.broker, "somebody-else"))
    warning = phone.page.get_by_text("Whoever logs in there becomes")
    await expect(warning).to_be_visible()
    await expect(warning).to_contain_text("somebody-else")
    above = "element => element.compareDocumentPosition(document.querySelector('button')) & 4"
    assert await warning.evaluate(above), "read before the button is reached"


async def test_an_expired_link_and_a_login_on_an_expired_link_say_what_to_do(stage: Stage, phone: Phone) -> None:
    link = await invite(stage.broker, "late")
    expire(stage)
    answer = await phone.page.goto(link)
    assert answer is not None
    assert answer.status == 410
    await phone.sees("This link is no longer valid")
    await expect(phone.page.get_by_text("A new link comes from where you got this one")).to_be_visible()
    assert await phone.fits()
    await phone.keep_screenshot("9-expired")


async def test_going_back_and_replaying_the_callback_changes_nothing(stage: Stage, phone: Phone) -> None:
    callbacks = list[Response]()
    phone.page.on("response", lambda answer: callbacks.append(answer) if "/oauth/callback" in answer.url else None)
    await phone.depart(await invite(stage.broker, "replayed"))
    await phone.decide("bob")
    await phone.sees("You are connected")
    before = (await stage.broker.client.get("/grants/replayed")).json()
    answer = await phone.page.goto(callbacks[0].url)
    assert answer is not None
    assert answer.status == 400
    await expect(phone.page.get_by_text("already used")).to_be_visible()
    await phone.keep_screenshot("10-replayed")
    assert (await stage.broker.client.get("/grants/replayed")).json() == before


async def test_two_tabs_connect_two_users_each_their_own(stage: Stage, phone: Phone) -> None:
    second = Phone(phone.context, await phone.context.new_page(), [])
    await phone.depart(await invite(stage.broker, "tab-one"))
    await second.depart(await invite(stage.broker, "tab-two"))
    for tab, login in ((phone, "alice"), (second, "bob")):
        await tab.decide(login)
        await tab.sees("You are connected")
    for user, login in (("tab-one", "alice"), ("tab-two", "bob")):
        token = (await stage.broker.client.get(f"/tokens/{user}")).raise_for_status().json()["access_token"]
        assert await stage.versature.whose(token) == login


async def test_no_ticket_code_state_or_cookie_of_a_real_trip_is_in_the_log(stage: Stage, phone: Phone) -> None:
    canary, urls = Canary(), list[str]()
    phone.page.on("request", lambda request: urls.append(request.url))
    link = await invite(stage.broker, "logged")
    await phone.depart(link)
    [cookie] = await phone.context.cookies(stage.broker.base_url)
    await phone.decide("carol")
    await phone.sees("You are connected")
    [callback] = [parse_qs(urlsplit(url).query) for url in urls if "/oauth/callback" in url]
    token = (await stage.broker.client.get("/tokens/logged")).json()["access_token"]
    secrets = {
        "ticket": link.rpartition("/")[2],
        "code": callback["code"][0],
        "state": callback["state"][0],
        "cookie": cookie["value"],
        "password": USERS["carol"],
        "token": token,
    }
    for what, secret in secrets.items():
        canary.know(what, secret)
    lines = stage.log.read_bytes()
    assert b'"route": "/oauth/callback"' in lines
    canary.look("the log", lines)
    assert canary.found == []
