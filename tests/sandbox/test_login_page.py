"""The authorization endpoint, as browsers and scripts use it."""

from html.parser import HTMLParser
from urllib.parse import urlencode

import httpx
import pytest

from sandbox.app import create_sandbox
from sandbox.directory import COMPANY_CLIENT, DEFAULT_REDIRECT_URI, USER_CLIENT
from sandbox.server import running
from tests.sandbox.visitor import Visitor, query_of

REQUEST = {
    "response_type": "code",
    "client_id": USER_CLIENT.id,
    "redirect_uri": DEFAULT_REDIRECT_URI,
    "state": 'a "state" & <more>',
}


class Page(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


async def test_what_a_browser_posts_from_the_page_brings_it_back_with_code_and_state(visitor: Visitor) -> None:
    page = Page((await visitor.http.get("/api/oauth/authorize/", params=REQUEST)).text)
    form = {str(field["name"]): field.get("value") or "" for field in page.attributes("input")}
    form |= {"username": "carol", "password": "carol-password", "decision": "allow"}
    back = await visitor.http.post(str(page.attributes("form")[0]["action"]), data=form)
    assert back.headers["location"].startswith(DEFAULT_REDIRECT_URI + "?")
    assert query_of(back)["state"] == REQUEST["state"]
    assert (await visitor.redeem(query_of(back)["code"])).status_code == 200


async def test_a_script_may_post_only_its_decision_to_the_url_of_the_page(visitor: Visitor) -> None:
    form = {"username": "alice", "password": "alice-password", "decision": "allow"}
    back = await visitor.http.post(f"/api/oauth/authorize/?{urlencode(REQUEST)}", data=form)
    assert query_of(back).keys() == {"code", "state"}


async def test_denying_needs_no_password_and_says_access_denied(visitor: Visitor) -> None:
    back = await visitor.decide("deny", password="", username="")
    assert query_of(back) == {"error": "access_denied", "state": "s1"}


async def test_a_request_without_state_comes_back_without_one(visitor: Visitor) -> None:
    assert query_of(await visitor.decide("deny", state="")).keys() == {"error"}


@pytest.mark.parametrize("wrong", [{"password": "wrong"}, {"username": "mallory"}])
async def test_a_wrong_login_shows_the_page_again_with_the_same_request(
    visitor: Visitor, wrong: dict[str, str]
) -> None:
    answer = await visitor.decide("allow", **wrong)
    assert answer.status_code == 422
    assert "User or password is wrong" in answer.text
    assert {"type": "hidden", "name": "state", "value": "s1"} in Page(answer.text).attributes("input")
    assert "alice-password" not in [field.get("value") for field in Page(answer.text).attributes("input")]
    assert (await visitor.last_call())["outcome"] == "invalid_login"


@pytest.mark.parametrize(
    "bad",
    [
        {"client_id": "unknown"},
        {"client_id": COMPANY_CLIENT.id},
        {"redirect_uri": "http://127.0.0.1:8000/elsewhere"},
        {"redirect_uri": ""},
        {"response_type": "token"},
        {"code_challenge": "x"},
        {"code_challenge": "x", "code_challenge_method": "plain"},
        {"code_challenge_method": "S256"},
    ],
)
async def test_a_bad_request_ends_on_an_error_page_and_redirects_nowhere(visitor: Visitor, bad: dict[str, str]) -> None:
    for answer in (
        await visitor.http.get("/api/oauth/authorize/", params={**REQUEST, **bad}),
        await visitor.decide("allow", **bad),
    ):
        assert answer.status_code == 400
        assert "This login cannot go on" in answer.text
        assert "location" not in answer.headers
        assert (await visitor.last_call())["outcome"] == "error_page"


async def test_a_parameter_given_twice_or_no_decision_ends_on_an_error_page(visitor: Visitor) -> None:
    twice = await visitor.http.get(f"/api/oauth/authorize/?{urlencode(REQUEST)}&state=b")
    undecided = await visitor.decide("perhaps")
    assert (twice.status_code, undecided.status_code) == (400, 400)


async def test_redirect_uris_are_those_given_at_start_and_keep_their_query() -> None:
    uri = "https://broker.example/callback?tenant=a%20b"
    app = create_sandbox(redirect_uris=[uri])
    async with running(app) as served, httpx.AsyncClient(base_url=served.base_url) as http:
        assert (await Visitor(http).decide()).status_code == 400
        back = await Visitor(http).decide("allow", redirect_uri=uri)
    assert query_of(back)["tenant"] == "a b"


@pytest.mark.parametrize("change", [{}, {"client_id": "unknown"}])
async def test_pages_are_accessible_fit_a_phone_and_load_nothing(visitor: Visitor, change: dict[str, str]) -> None:
    answer = await visitor.http.get("/api/oauth/authorize/", params={**REQUEST, **change})
    page = Page(answer.text)
    assert page.attributes("html") == [{"lang": "en"}]
    assert len(page.attributes("h1")) == len(page.attributes("main")) == len(page.attributes("title")) == 1
    assert any(meta.get("name") == "viewport" for meta in page.attributes("meta"))
    assert not [tag for tag, attributes in page.tags if tag in {"script", "link", "img"} or "src" in attributes]
    visible = {field.get("id") for field in page.attributes("input") if field.get("type") != "hidden"}
    assert visible == {label["for"] for label in page.attributes("label")}
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"
