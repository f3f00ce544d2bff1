"""The browser's way: the page behind a link, departure to the provider, return, and everything that can go wrong."""

import asyncio
import base64
import hashlib
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookies import Morsel, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest

from service.adapters.sql_grants import SqlGrantStore
from service.core.errors import StoreUnavailable
from service.core.model import Grant, GrantType
from tests.api.front import RETURN_ORIGIN, Front, code_of, front_in
from tests.support.browser import browser_of, connect, invite

PUBLIC = "https://broker.example"


@dataclass
class Page(HTMLParser):
    """What a person and a screen reader find in a page."""

    html: str
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[str] = []
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        for tag in self._open:
            self.texts[tag] = self.texts.get(tag, "") + data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def words(text: str) -> str:
    return " ".join(text.split())


def is_good_page(answer: httpx.Response) -> Page:
    """What every page promises: to the browser in its headers, to the person in its markup."""
    headers = answer.headers
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    policy = dict(part.strip().partition(" ")[::2] for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert re.fullmatch(r"'sha256-[A-Za-z0-9+/=]{44}'", policy["style-src"])
    assert set(policy) == {"default-src", "style-src", "base-uri", "frame-ancestors"}
    found = Page(answer.text)
    assert answer.text.startswith("<!doctype html>")
    assert found.all("html") == [{"lang": "en"}]
    assert len(found.all("h1")) == len(found.all("main")) == 1
    assert words(found.texts["title"])
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in found.all("meta")
    assert not {name for name, _ in found.tags} & {"script", "img", "link", "iframe", "base", "a"}
    assert not any(name.startswith("on") or name == "style" for _, attributes in found.tags for name in attributes)
    return found


def is_problem_page(answer: httpx.Response, status: int, code: str) -> Page:
    assert answer.status_code == status, answer.text
    found = is_good_page(answer)
    assert code in found.texts["main"]
    assert answer.headers["X-Request-ID"] in found.texts["main"]
    return found


def cookie_of(answer: httpx.Response) -> "Morsel[str]":
    (header,) = answer.headers.get_list("Set-Cookie")
    (morsel,) = SimpleCookie(header).values()
    return morsel


def state_of(departure: httpx.Response) -> str:
    return parse_qs(urlsplit(departure.headers["Location"]).query)["state"][0]


async def rows(front: Front) -> list[tuple[object, ...]]:
    """Every row that a trip may touch."""
    found: list[tuple[object, ...]] = []
    async with front.container.database.read() as connection:
        for statement in ("SELECT * FROM authorization_requests", "SELECT * FROM grants WHERE generation > 0"):
            found += [tuple(row) for row in await connection.exec_driver_sql(statement)]
    return found


async def generation(front: Front, user: str = "alice") -> int | None:
    answer = await front.client.get(f"/grants/{user}")
    return int(answer.json()["generation"]) if answer.is_success else None


async def test_the_page_says_who_is_connected_to_what_and_who_asked(front: Front) -> None:
    link = await invite(front.broker, "alice")
    async with browser_of(front.broker) as browser:
        answer = await browser.open(link)
    assert answer.status_code == 200
    found = is_good_page(answer)
    assert words(found.texts["title"]) == words(found.texts["h1"]) == "Connect alice to Versature"
    assert "Asked by crm" in words(found.texts["main"])
    assert "Whoever logs in there becomes alice here" in words(found.texts["main"])
    assert found.all("form") == [{"method": "post"}]
    assert found.all("button") == [{"type": "submit"}]
    assert words(found.texts["button"]) == "Log in at Versature"
    assert "Set-Cookie" not in answer.headers


async def test_the_style_that_the_policy_allows_is_the_one_in_the_page(front: Front) -> None:
    async with browser_of(front.broker) as browser:
        answer = await browser.open(await invite(front.broker, "alice"))
    style = Page(answer.text).texts["style"]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in answer.headers["Content-Security-Policy"]


async def test_opening_a_link_changes_nothing_however_often(front: Front) -> None:
    link = await invite(front.broker, "alice")
    async with browser_of(front.broker) as browser:
        departure = await browser.depart(link)
        before = await rows(front)
        for _ in range(3):
            assert (await browser.open(link)).status_code == 200
        assert await rows(front) == before
        assert (await browser.open(await browser.decide("alice", departure))).status_code == 303


async def test_a_user_called_script_is_shown_and_not_run(front: Front) -> None:
    user = "<script>alert('1')&\"<b>"
    link = await invite(front.broker, quote(user))
    async with browser_of(front.broker) as browser:
        answer = await browser.open(link)
    found = is_good_page(answer)
    assert f"Connect {user} to Versature" == words(found.texts["h1"]) == words(found.texts["title"])
    assert "<script" not in answer.text
    assert "<b" not in answer.text.replace("<body", "").replace("<button", "")


async def test_the_button_sends_the_browser_to_the_provider_with_a_cookie(front: Front) -> None:
    link = await invite(front.broker, "alice")
    async with browser_of(front.broker) as browser:
        answer = await browser.depart(link)
    assert answer.status_code == 303
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    location = urlsplit(answer.headers["Location"])
    assert answer.headers["Location"].startswith(f"{front.versature.base_url}/api/oauth/authorize/?")
    fields = {name: value for name, (value,) in parse_qs(location.query).items()}
    assert len(fields.pop("state")) == 43
    assert fields == {
        "response_type": "code",
        "client_id": "sandbox-users",
        "redirect_uri": f"{front.container.services.public_url}/oauth/callback",
    }
    cookie = cookie_of(answer)
    assert (cookie.key, len(cookie.value)) == ("tb-connect", 43)
    attributes = {name: value for name, value in cookie.items() if value}
    assert attributes == {"path": "/", "max-age": "600", "httponly": True, "samesite": "lax"}


@pytest.mark.parametrize(("site", "goes_on"), [("cross-site", False), ("same-site", False), ("same-origin", True)])
async def test_the_button_is_pressed_on_our_own_page_or_not_at_all(front: Front, site: str, goes_on: bool) -> None:
    link = await invite(front.broker, "alice")
    before = await rows(front)
    answer = await front.bare("POST", link, {"Sec-Fetch-Site": site})
    if goes_on:
        assert answer.status_code == 303
    else:
        is_problem_page(answer, 400, "invalid_authorization_request")
        assert "Set-Cookie" not in answer.headers
        assert await rows(front) == before


async def test_on_https_the_cookie_is_secure_and_bound_to_the_host(tmp_path: Path) -> None:
    async with front_in(tmp_path, BROKER_PUBLIC_URL=f"{PUBLIC}/") as front:
        link = await invite(front.broker, "alice")
        assert link.startswith(f"{PUBLIC}/connect/")
        async with browser_of(front.broker) as browser:
            departure = await browser.depart(link)
            cookie = cookie_of(departure)
            callback = await browser.decide("alice", departure)
            assert callback.startswith(f"{PUBLIC}/oauth/callback?")
            wrong_name = httpx.URL(front.broker.base_url).copy_with(raw_path=httpx.URL(callback).raw_path)
            arrived = await front.bare("GET", str(wrong_name), {"Cookie": f"{cookie.key}={cookie.value}"})
    assert (cookie.key, len(cookie.value)) == ("__Host-tb-connect", 43)
    attributes = {name: value for name, value in cookie.items() if value}
    assert attributes == {"path": "/", "max-age": "600", "httponly": True, "samesite": "lax", "secure": True}
    assert arrived.status_code == 303


async def test_pkce_is_used_where_the_application_wants_it(tmp_path: Path) -> None:
    async with front_in(tmp_path, VERSATURE_PKCE="true", VERSATURE_SCOPE="Office Manager") as front:
        link = await invite(front.broker, "alice")
        async with browser_of(front.broker) as browser:
            departure = await browser.depart(link)
            fields = parse_qs(urlsplit(departure.headers["Location"]).query)
            assert fields["code_challenge_method"] == ["S256"]
            assert len(fields["code_challenge"][0]) == 43
            assert fields["scope"] == ["Office Manager"]
            assert (await browser.open(await browser.decide("alice", departure))).status_code == 303
        (exchange,) = await front.versature.calls(grant_type="authorization_code")
        assert (exchange["pkce"], exchange["outcome"]) == (True, "issued")


async def test_a_completed_trip_leads_to_a_page_that_says_so(front: Front) -> None:
    async with browser_of(front.broker) as browser:
        answer = await browser.walk(await invite(front.broker, "alice"), "alice")
        assert (answer.status_code, answer.headers["Location"]) == (303, "/connect/done")
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        done = await browser.open("/connect/done")
    assert words(is_good_page(done).texts["h1"]) == "You are connected"
    assert await generation(front) == 1
    assert await front.versature.whose((await front.client.get("/tokens/alice")).json()["access_token"]) == "alice"


async def test_who_logs_in_is_connected_under_the_name_of_the_link(front: Front) -> None:
    assert (await connect(front.broker, "customer 7", login="bob")).status_code == 303
    token = (await front.client.get("/tokens/customer%207")).json()["access_token"]
    assert await front.versature.whose(token) == "bob"
    assert code_of(await front.client.get("/tokens/bob")) == (404, "grant_not_found")


async def test_a_used_link_and_an_old_link_are_410_and_an_unknown_one_is_400(front: Front) -> None:
    used, old = await invite(front.broker, "alice"), await invite(front.broker, "bob")
    async with browser_of(front.broker) as browser:
        await browser.walk(used, "alice")
        front.clock.advance(600)
        before = await rows(front)
        for link, status, code in [
            (used, 410, "authorization_expired"),
            (old, 410, "authorization_expired"),
            (f"/connect/{'x' * 43}", 400, "invalid_authorization_request"),
            ("/connect/%00", 400, "invalid_authorization_request"),
            ("/connect/%F0%9F%A6%8A", 400, "invalid_authorization_request"),
        ]:
            is_problem_page(await browser.open(link), status, code)
            departure = await browser.depart(link)
            is_problem_page(departure, status, code)
            assert "Set-Cookie" not in departure.headers
        assert await rows(front) == before


async def test_a_link_works_until_the_instant_it_expires(front: Front) -> None:
    link = await invite(front.broker, "alice")
    front.clock.advance(599.999)
    async with browser_of(front.broker) as browser:
        assert (await browser.open(link)).status_code == 200
        assert (await browser.walk(link, "alice")).status_code == 303
    assert await generation(front) == 1


async def test_a_new_departure_voids_the_last_state(front: Front) -> None:
    link = await invite(front.broker, "alice")
    async with browser_of(front.broker) as browser:
        first, second = await browser.depart(link), await browser.depart(link)
        assert state_of(first) != state_of(second)
        assert cookie_of(first).value == cookie_of(second).value
        late = await browser.open(await browser.decide("alice", first))
        is_problem_page(late, 400, "invalid_authorization_request")
        assert await generation(front) is None
        assert (await browser.open(await browser.decide("alice", second))).status_code == 303
    assert await generation(front) == 1


async def test_two_tabs_of_one_browser_connect_two_users(front: Front) -> None:
    links = {user: await invite(front.broker, user) for user in ("alice", "bob")}
    async with browser_of(front.broker) as browser:
        departures = {user: await browser.depart(link) for user, link in links.items()}
        for user, departure in departures.items():
            assert (await browser.open(await browser.decide(user, departure))).status_code == 303
    assert [await generation(front, user) for user in links] == [1, 1]


async def test_a_callback_works_once(front: Front) -> None:
    async with browser_of(front.broker) as browser:
        callback = await browser.decide("alice", await browser.depart(await invite(front.broker, "alice")))
        assert (await browser.open(callback)).status_code == 303
        before = await rows(front)
        is_problem_page(await browser.open(callback), 400, "invalid_authorization_request")
        assert await rows(front) == before
    assert len(await front.versature.calls(grant_type="authorization_code")) == 1


async def test_a_callback_nobody_departed_for_changes_nothing(front: Front) -> None:
    await connect(front.broker, "alice")
    before = await rows(front)
    queries = ["", "state=", "state=unknown&code=x", "code=x", "error=access_denied", "state=%00&code=%00", "state=%ff"]
    async with browser_of(front.broker) as browser:
        for query in queries:
            answer = await browser.open(f"/oauth/callback?{query}")
            is_problem_page(answer, 400, "invalid_authorization_request")
    assert await rows(front) == before


@pytest.mark.parametrize("cookie", [None, "", "y" * 43])
async def test_another_browser_cannot_complete_a_trip_and_the_link_still_works(
    front: Front, cookie: str | None
) -> None:
    link = await invite(front.broker, "alice", {"return_to": f"{RETURN_ORIGIN}/done"})
    async with browser_of(front.broker) as victim, browser_of(front.broker) as attacker:
        callback = await attacker.decide("bob", await attacker.depart(link))
        if cookie is not None:
            victim.http.cookies.set("tb-connect", cookie, domain="127.0.0.1", path="/")
        is_problem_page(await victim.open(callback), 400, "invalid_authorization_request")
        assert await generation(front) is None
        assert await front.versature.calls(grant_type="authorization_code") == []
        is_problem_page(await attacker.open(callback), 400, "invalid_authorization_request")
        assert (await victim.walk(link, "alice")).status_code == 303
    assert await generation(front) == 1


async def test_a_denied_login_is_403_changes_no_grant_and_the_link_still_works(front: Front) -> None:
    await connect(front.broker, "alice")
    link = await invite(front.broker, "alice")
    async with browser_of(front.broker) as browser:
        is_problem_page(await browser.walk(link, "alice", decision="deny"), 403, "authorization_denied")
        assert await generation(front) == 1
        assert (await browser.walk(link, "alice")).status_code == 303
    assert await generation(front) == 2


async def test_a_login_that_took_longer_than_ten_minutes_is_410(front: Front) -> None:
    link = await invite(front.broker, "alice")
    async with browser_of(front.broker) as browser:
        departure = await browser.depart(link)
        front.clock.advance(600)
        callback = await browser.decide("alice", departure)
        is_problem_page(await browser.open(callback), 410, "authorization_expired")
    assert await generation(front) is None
    assert await front.versature.calls(grant_type="authorization_code") == []


async def test_a_code_that_the_provider_no_longer_takes_is_410(front: Front) -> None:
    async with browser_of(front.broker) as browser:
        callback = await browser.decide("alice", await browser.depart(await invite(front.broker, "alice")))
        front.clock.advance(61)
        is_problem_page(await browser.open(callback), 410, "authorization_expired")
    assert await generation(front) is None


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("server_error", 503, "upstream_unavailable"),
        ("drop_before", 503, "upstream_unavailable"),
        ("html", 502, "invalid_upstream_answer"),
        ("invalid_client", 502, "client_rejected"),
        ("invalid_grant", 410, "authorization_expired"),
    ],
)
async def test_a_failing_provider_leaves_the_grant_alone(front: Front, fault: str, status: int, code: str) -> None:
    await connect(front.broker, "alice")
    await front.versature.switch(fault=fault)
    async with browser_of(front.broker) as browser:
        answer = await browser.walk(await invite(front.broker, "alice"), "alice")
    is_problem_page(answer, status, code)
    assert ("Retry-After" in answer.headers) == (status == 503)
    assert await generation(front) == 1
    assert (await front.client.get("/tokens/alice")).status_code == 200


async def test_the_browser_returns_where_the_service_wanted_with_how_it_went(front: Front) -> None:
    returns = {
        f"{RETURN_ORIGIN}": f"{RETURN_ORIGIN}?status=",
        f"{RETURN_ORIGIN}/x": f"{RETURN_ORIGIN}/x?status=",
        f"{RETURN_ORIGIN}/x?a=1&b=%20": f"{RETURN_ORIGIN}/x?a=1&b=%20&status=",
        f"{RETURN_ORIGIN}/x?a=1#part": f"{RETURN_ORIGIN}/x?a=1&status=",
        "HTTPS://CRM.example/x": "https://CRM.example/x?status=",
    }
    async with browser_of(front.broker) as browser:
        for return_to, expected in returns.items():
            link = await invite(front.broker, "alice", {"return_to": return_to})
            denied = await browser.walk(link, "alice", decision="deny")
            done = await browser.walk(link, "alice")
            assert (denied.status_code, done.status_code) == (303, 303)
            fragment = "#part" if "#" in return_to else ""
            assert denied.headers["Location"] == f"{expected}failed&code=authorization_denied{fragment}"
            assert done.headers["Location"] == f"{expected}connected{fragment}"


REFUSED_RETURNS = [
    "",
    "/done",
    "//crm.example/done",
    "///crm.example/done",
    "crm.example/done",
    "http://crm.example/done",
    "https:crm.example/done",
    "https:/crm.example/done",
    "https:///crm.example/done",
    "https://crm.example.evil.example/",
    "https://evil.example/?https://crm.example/",
    "https://evil.example/https://crm.example/",
    "https://evil.example#@crm.example",
    "https://evil.example\\@crm.example",
    "https://crm.example\\@evil.example",
    "https://crm.example\\.evil.example",
    "https://crm.example@evil.example/",
    "https://crm.example:443@evil.example/",
    "https://user:password@crm.example/",
    "https://@crm.example/",
    "https://crm.example:8443/",
    "https://crm.example:0/",
    "https://crm.example:99999/",
    "https://crm.example:x/",
    "https://crm.example%2eevil.example/",
    "https://crm.example./",
    "https://xcrm.example/",
    "https://sub.crm.example/",
    "https://crm.example。evil.example/",
    "https://crm。example/",
    "https://crm.ex\u00adample/",
    "https://[::1]/",
    "https://[crm.example]/",
    "https://crm.example /",
    " https://crm.example/",
    "https://crm.example/\r\nSet-Cookie: a=b",
    "https://crm.example/\tx",
    "https://crm.example/\x00",
    "https://crm.example/\x7f",
    "ht\ntps://crm.example/",
    "javascript:alert(1)//https://crm.example",
    "data:text/html,https://crm.example",
    "file:///etc/passwd",
    "ftp://crm.example/",
    "https://",
    "https://crm.example/" + "x" * 2048,
]


async def test_return_to_leads_nowhere_but_to_the_allowed_origins(front: Front) -> None:
    found = {}
    for return_to in REFUSED_RETURNS:
        answer = await front.client.post("/grants/alice/connect", json={"return_to": return_to})
        found[return_to] = code_of(answer)
    assert found == dict.fromkeys(REFUSED_RETURNS, (422, "invalid_request"))
    assert await rows(front) == []


@pytest.mark.parametrize(
    ("origins", "return_to"),
    [
        ("http://localhost:3000", "http://localhost:3000/x"),
        ("http://[::1]:3000", "http://[::1]:3000/x"),
        ("https://a.example/, https://B.example", "https://b.example/x"),
    ],
)
async def test_allowed_origins_may_have_ports_and_be_several(tmp_path: Path, origins: str, return_to: str) -> None:
    async with front_in(tmp_path, BROKER_RETURN_ORIGINS=origins) as front:
        assert (await front.client.post("/grants/a/connect", json={"return_to": return_to})).status_code == 201


async def test_without_allowed_origins_there_is_no_return_address(tmp_path: Path) -> None:
    async with front_in(tmp_path, BROKER_RETURN_ORIGINS="") as front:
        for return_to in (f"{RETURN_ORIGIN}/x", f"{front.broker.base_url}/x"):
            answer = await front.client.post("/grants/a/connect", json={"return_to": return_to})
            assert code_of(answer) == (422, "invalid_request")


async def test_while_the_database_is_away_the_callback_retries_by_itself_and_then_succeeds(front: Front) -> None:
    async with browser_of(front.broker) as browser:
        callback = await browser.decide("alice", await browser.depart(await invite(front.broker, "alice")))
        async with front.database_away():
            for _ in range(2):
                waiting = await browser.open(callback)
                found = is_problem_page(waiting, 503, "store_unavailable")
                assert {"http-equiv": "refresh", "content": "2"} in found.all("meta")
                assert int(waiting.headers["Retry-After"]) >= 1
                assert "tries again by itself" in words(found.texts["main"])
        assert await front.versature.calls(grant_type="authorization_code") == []
        assert (await browser.open(callback)).status_code == 303
    assert await generation(front) == 1


async def test_other_pages_do_not_reload_themselves(front: Front) -> None:
    link = await invite(front.broker, "alice")
    async with browser_of(front.broker) as browser:
        async with front.database_away():
            found = [is_problem_page(await browser.open(link), 503, "store_unavailable")]
            found.append(is_problem_page(await browser.depart(link), 503, "store_unavailable"))
        found.append(is_problem_page(await browser.open("/oauth/callback"), 400, "invalid_authorization_request"))
    assert all("http-equiv" not in meta for page in found for meta in page.all("meta"))


async def test_a_redeemed_code_is_saved_however_often_the_database_fails(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals, connect_once = [StoreUnavailable()] * 3, SqlGrantStore.connect

    async def stubborn(store: SqlGrantStore, *what: Any, **how: Any) -> Grant | None:
        if refusals:
            raise refusals.pop()
        return await connect_once(store, *what, **how)

    monkeypatch.setattr(SqlGrantStore, "connect", stubborn)
    assert (await connect(front.broker, "alice")).status_code == 303, "it is safe in escrow"
    for _ in range(100):
        if await generation(front) == 1:
            break
        await asyncio.sleep(0.05)
    assert refusals == []
    assert await generation(front) == 1
    assert len(await front.versature.calls(grant_type="authorization_code")) == 1


async def test_a_link_of_a_removed_application_is_a_page_too(tmp_path: Path) -> None:
    async with front_in(tmp_path, VERSATURE_CLIENT_ID="", VERSATURE_CLIENT_SECRET="") as front:
        await front.register("brief", GrantType.AUTHORIZATION_CODE)
        link = await invite(front.broker, "alice")
        await front.container.services.administration.remove_application("brief")
        front.clock.advance(5)
        async with browser_of(front.broker) as browser:
            await front.client.get("/me")
            is_problem_page(await browser.depart(link), 404, "application_not_found")
