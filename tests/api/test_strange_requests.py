"""Requests that no honest client sends: every answer is a plain refusal, never a crash."""

import base64
import json
from pathlib import Path

import httpx
import pytest

from service.core.model import GrantType, Scope
from tests.api.front import Front, Headers, bearer, code_of

DOCUMENT = json.loads((Path(__file__).parents[2] / "openapi.json").read_text())
CALLS = [(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods]
BROWSERS = [("GET", "/connect/{user}"), ("POST", "/connect/{user}"), ("GET", "/problems/{user}")]
NAMES = [
    *("a%ff", "%00", "a%2Fb", "x" * 300, "%", "%zz", "%C3%28", "%ED%A0%80", "%F0%9F%98%80", "..", "%2e%2e", "a%0d%0ab"),
    *("@", "@admin", "%40company%00", "*", "''--", "a%20b", "+", "%E2%80%AE", "{user}", "a;b", "a%3Fb%23c", "%5c"),
]
BODIES = [
    b"",
    b"null",
    b"[]",
    b"{",
    b"\xff\xfe",
    b'"\\ud800"',
    b'{"a": NaN}',
    b"[" * 50_000,
    b'{"name": {"a": 1}, "scopes": [null], "users": [[]], "grant_types": "x"}',
    b'{"name": "\\u0000", "client_id": "\\u0000", "client_secret": "\\u0000", "grant_types": ["authorization_code"]}',
    b'{"name": "x", "client_id": "x", "client_secret": "x", "grant_types": ["authorization_code"], "base_url": "//"}',
    b'{"name": "y", "client_id": "x", "client_secret": "x", "grant_types": [], "token_url": "http://[::1"}',
    b'{"name": "z", "scopes": ["admin"], "users": ["\\u0000", ""], "applications": ["\\ud83d"]}',
    b'{"expires_in": 1e400}',
    b'{"expires_in": 99999999999999999999999999}',
    b'{"expires_in": true}',
    b'{"expires_at": "9999-12-31T23:59:59-23:59"}',
    b'{"expires_at": "0001-01-01T00:00:00+23:59"}',
    b'{"expires_at": 99999999999999999999}',
    b'{"return_to": "http://[", "refresh_token": "\\u0000", "access_token": ""}',
]


async def ask(front: Front, method: str, target: str, headers: Headers, content: bytes = b"{}") -> httpx.Response:
    """Exactly this *target*: the client would tidy up its escapes."""
    request = front.client.build_request(
        method,
        "/",
        content=content,
        headers={"Content-Type": "application/json"},
        extensions={"target": target.encode()},
    )
    del request.headers["Authorization"]
    request.headers.update(headers)
    return await front.client.send(request)


@pytest.mark.parametrize(("method", "path"), [*CALLS, *BROWSERS])
async def test_no_name_in_a_path_crashes_anything(front: Front, method: str, path: str) -> None:
    everything = await front.admit("everything", *Scope)
    if "{" not in path:
        path += "/{user}"
    for name in NAMES:
        answer = await ask(front, method, path.format(user=name, name=name, key_id=name), everything)
        assert answer.status_code < 500, (name, answer.text)
        assert "Traceback" not in answer.text
    malformed = await ask(front, method, path.format(user="a%ff", name="a%ff", key_id="a%ff"), everything)
    assert malformed.status_code in {400, 404, 405, 410, 422}


@pytest.mark.parametrize(("method", "path"), [call for call in CALLS if call[0] in {"POST", "PUT", "PATCH"}])
async def test_no_body_crashes_anything(front: Front, method: str, path: str) -> None:
    everything = await front.admit("everything", *Scope)
    await front.admit("victim", Scope.TOKENS)
    await front.register("victim", GrantType.AUTHORIZATION_CODE)
    for body in BODIES:
        answer = await ask(front, method, path.format(user="alice", name="victim", key_id="first"), everything, body)
        assert answer.status_code < 500, (body, answer.text)
        assert (await front.client.get("/me")).status_code == 200, body
    front.clock.advance(60)
    assert (await ask(front, "GET", "/callers", everything)).status_code == 200
    assert (await ask(front, "GET", "/applications", everything)).status_code == 200


@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_no_query_crashes_anything(front: Front, method: str, path: str) -> None:
    everything = await front.admit("everything", *Scope)
    where = path.format(user="alice", name="nothing", key_id="first")
    for query in ("%ff", "application=%00", "a[]=1&&&=", "cursor=%ff", "cursor=" + "x" * 5000, "cursor=W10=", "%"):
        answer = await ask(front, method, f"{where}?{query}", everything)
        assert answer.status_code < 500, (query, answer.text)
    for last in ('["a"]', "[1]", '["a", "b", "c"]', '["/", "/"]', '{"a": 1}', "[[]]", '["\\ud800", "a"]'):
        cursor = base64.urlsafe_b64encode(last.encode()).decode()
        answer = await ask(front, method, f"{where}?cursor={cursor}", everything)
        assert answer.status_code < 500, (last, answer.text)


KEY = f"vtb_{'k' * 43}"
AUTHORIZATIONS: list[list[bytes]] = [
    [b""],
    [b"Bearer"],
    [b"Bearer\t" + KEY.encode() + b" x"],
    [b"Basic " + b"A" * 10],
    [b"Basic !!!"],
    [b"Digest username=x"],
    [b"Bearer vtb_\xff\xfe"],
    ["Bearer vtb_\u00e9\u4e2d".encode()],
    [b"Bearer " + b"v" * 60_000],
    [b"\xff" * 100],
    [f"Bearer {KEY}".encode(), f"Bearer {KEY}".encode()],
    [f"Bearer {KEY}".encode(), b"Bearer vtb_other"],
    [b"Bearer vtb_other", f"Bearer {KEY}".encode()],
    [b"Basic dXNlcjpwYXNz", f"Bearer {KEY}".encode()],
    [f"{KEY}".encode()],
    [f"Bearer {KEY}, Bearer {KEY}".encode()],
]


@pytest.mark.parametrize("number", range(len(AUTHORIZATIONS)))
async def test_no_credentials_but_one_good_key_get_in_and_none_crash(front: Front, number: int) -> None:
    values = AUTHORIZATIONS[number]
    for method, path in CALLS:
        request = front.client.build_request(method, path.format(user="alice", name="crm", key_id="first"))
        kept = [(name, value) for name, value in request.headers.raw if name.lower() != b"authorization"]
        request.headers = httpx.Headers([*kept, *((b"Authorization", value) for value in values)])
        answer = await front.client.send(request)
        if "security" in DOCUMENT["paths"][path][method.lower()]:
            assert code_of(answer) == (401, "invalid_api_key"), (method, path)
            assert KEY not in answer.text
        else:
            assert answer.status_code == 200


PARAMETERS = [
    "",
    "x",
    "%00",
    "%ff",
    "%",
    "x" * 20_000,
    "%F0%9F%98%80",
    "%0d%0aSet-Cookie:a=b",
    "<script>",
    "[1]",
    "%ED%A0%80",
]
COOKIES = [
    "",
    "tb-connect=",
    "tb-connect=x",
    "tb-connect=%00",
    "tb-connect=" + "x" * 5000,
    "=;=;",
    "tb-connect=a; tb-connect=b",
]


@pytest.mark.parametrize("with_state", [False, True])
async def test_no_callback_crashes_anything_or_says_what_it_was_given(front: Front, with_state: bool) -> None:
    """Once with a state that nobody knows, and once with one that is waited for."""
    for value in PARAMETERS:
        for query in (f"state={value}", f"code={value}", f"error={value}", f"state={value}&code={value}&error={value}"):
            for cookie in COOKIES:
                state = f"&state={await departed(front)}" if with_state and cookie == "" else ""
                headers = {"Cookie": cookie}
                answer = await ask(front, "GET", f"/oauth/callback?{query}{state}", headers, b"")
                assert answer.status_code < 500, (query, answer.text)
                assert "<script>" not in answer.text
                assert "set-cookie" not in answer.headers or "a=b" not in answer.headers["set-cookie"]


async def departed(front: Front) -> str:
    """The state of a trip that has begun."""
    link = (await front.client.post("/grants/alice/connect")).json()["connect_url"]
    left = await front.bare("POST", httpx.URL(link).path)
    front.client.cookies.clear()
    return httpx.URL(left.headers["Location"]).params["state"]


async def test_a_good_key_still_gets_in(front: Front) -> None:
    assert code_of(await front.bare("GET", "/me", bearer(KEY))) == (200, None)
