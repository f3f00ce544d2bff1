"""Key (401), form of user and query (422), permission (403), body (413, 415, 422), existence (404): in this order."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from service.core.model import GrantType, Scope
from tests.api.front import ADMIN_KEY, Front, Headers, bearer, code_of, front_in

JSON = {"Content-Type": "application/json"}
TEXT = {"Content-Type": "text/plain"}
HUGE = b'{"refresh_token": "' + b"x" * 70_000 + b'"}'


@dataclass(frozen=True)
class Call:
    """One internal call: its scope, a body that it takes, and a query parameter that it judges by form."""

    method: str
    path: str
    scope: Scope
    body: bytes | None
    wrong_query: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


CALLS = [
    Call("GET", "/tokens/{user}", Scope.TOKENS, None, "min_ttl=-1"),
    Call("POST", "/tokens/{user}/rejected", Scope.TOKENS, b'{"access_token": "a"}', "min_ttl=1"),
    Call("POST", "/grants/{user}/connect", Scope.GRANTS, b"{}", "application="),
    Call("GET", "/grants/{user}", Scope.GRANTS, None, "application=a%20b"),
    Call("PUT", "/grants/{user}", Scope.GRANTS, b'{"refresh_token": "r"}', "application=-x"),
    Call("DELETE", "/grants/{user}", Scope.GRANTS, None, f"application={'x' * 65}"),
]
with_body = [call for call in CALLS if call.body is not None]


async def ask(
    front: Front, call: Call, headers: Headers, user: str = "nobody", query: str = "", body: bytes | None = None
) -> tuple[int, str | None]:
    url = f"{call.path.format(user=user)}?{query}"
    content = call.body if body is None else body
    return code_of(await front.bare(call.method, url, {**JSON, **headers}, content=content))


@pytest.mark.parametrize("call", CALLS, ids=str)
async def test_each_fault_hides_all_later_ones(front: Front, call: Call) -> None:
    """Faults are taken away one by one, from the first to be judged to the last; what is left decides."""
    good = await front.admit("good", call.scope)
    other = await front.admit("other", *(set(Scope) - {call.scope}))
    narrow = await front.admit("narrow", call.scope, users=("bob",))
    elsewhere = await front.admit("elsewhere", call.scope, applications=("company", "missing"))
    bad_body, missing = b"{nonsense", "application=missing"
    found = {
        "no key": await ask(front, call, {}, "@x", call.wrong_query, bad_body),
        "unknown key": await ask(front, call, bearer("vtb_unknown"), "@x", call.wrong_query, bad_body),
        "user": await ask(front, call, other, "@x", missing, bad_body),
        "query": await ask(front, call, other, "nobody", call.wrong_query, bad_body),
        "unknown parameter": await ask(front, call, other, "nobody", f"{missing}&aplication=default", bad_body),
        "scope": await ask(front, call, other, "nobody", missing, bad_body),
        "user pattern": await ask(front, call, narrow, "nobody", missing, bad_body),
        "application pattern": await ask(front, call, elsewhere, "nobody", "application=default", bad_body),
        "pattern of the default": await ask(front, call, elsewhere, "nobody", "", bad_body),
        "application": await ask(front, call, good, "nobody", missing),
    }
    assert found == {
        "no key": (401, "invalid_api_key"),
        "unknown key": (401, "invalid_api_key"),
        "user": (422, "invalid_request"),
        "query": (422, "invalid_request"),
        "unknown parameter": (422, "invalid_request"),
        "scope": (403, "not_allowed"),
        "user pattern": (403, "not_allowed"),
        "application pattern": (403, "not_allowed"),
        "pattern of the default": (403, "not_allowed"),
        "application": (404, "application_not_found"),
    }


@pytest.mark.parametrize("call", with_body, ids=str)
async def test_a_body_is_judged_after_permission_and_before_existence(front: Front, call: Call) -> None:
    good, other = await front.admit("good", call.scope), await front.admit("other", Scope.ADMIN)
    bodies = {
        "malformed": (JSON, b"{nonsense", (422, "invalid_request")),
        "not UTF-8": (JSON, b'{"access_token": "\xff"}', (422, "invalid_request")),
        "half a surrogate": (
            JSON,
            b'{"access_token": "\\ud800", "refresh_token": "\\ud800"}',
            (422, "invalid_request"),
        ),
        "an array": (JSON, b"[]", (422, "invalid_request")),
        "null": (JSON, b"null", (422, "invalid_request")),
        "deep": (JSON, b"[" * 60_000, (422, "invalid_request")),
        "unknown field": (JSON, b'{"refresh_tokne": "r"}', (422, "invalid_request")),
        "another type": (TEXT, call.body, (415, "unsupported_media_type")),
        "almost JSON": ({"Content-Type": "application/jsonp"}, call.body, (415, "unsupported_media_type")),
        "too large": (JSON, HUGE, (413, "payload_too_large")),
        "good": ({"Content-Type": "Application/JSON; charset=utf-8"}, call.body, (404, "application_not_found")),
    }
    expected = {name: row[2] for name, row in bodies.items()}
    missing = "application=missing"
    assert expected == {
        name: await ask(front, call, {**good, **headers}, query=missing, body=body)
        for name, (headers, body, _) in bodies.items()
    }
    assert {(403, "not_allowed")} == {
        await ask(front, call, {**other, **headers}, query=missing, body=body) for headers, body, _ in bodies.values()
    }


async def test_a_missing_body_is_malformed_only_where_one_is_required(front: Front) -> None:
    statuses = {
        str(call): (await ask(front, call, bearer(f"vtb_{'k' * 43}"), "alice", body=b""))[0] for call in with_body
    }
    assert statuses == {
        "POST /tokens/{user}/rejected": 422,
        "POST /grants/{user}/connect": 201,
        "PUT /grants/{user}": 422,
    }


async def test_a_listing_is_judged_like_the_rest(front: Front) -> None:
    call = Call("GET", "/grants", Scope.GRANTS, None, "limit=0")
    tokens = await front.admit("tokens", Scope.TOKENS)
    narrow = await front.admit("narrow", Scope.GRANTS, applications=("company",))
    found = {
        "no key": await ask(front, call, {}, query="limit=0"),
        "limit": await ask(front, call, tokens, query="limit=0"),
        "state": await ask(front, call, tokens, query="state=connectde"),
        "cursor": await ask(front, call, tokens, query="cursor=nonsense"),
        "application's form": await ask(front, call, tokens, query="application=%20"),
        "scope": await ask(front, call, tokens, query="application=missing"),
        "application pattern": await ask(front, call, narrow, query="application=default"),
        "nothing wrong": await ask(front, call, narrow, query="application=company&limit=500"),
    }
    assert found == {
        "no key": (401, "invalid_api_key"),
        "limit": (422, "invalid_request"),
        "state": (422, "invalid_request"),
        "cursor": (422, "invalid_request"),
        "application's form": (422, "invalid_request"),
        "scope": (403, "not_allowed"),
        "application pattern": (403, "not_allowed"),
        "nothing wrong": (200, None),
    }


async def test_nothing_is_stored_for_whom_is_refused(front: Front) -> None:
    other = await front.admit("other", Scope.TOKENS)
    for call in CALLS:
        await ask(front, call, other, "mallory")
        await ask(front, call, {}, "mallory")
    everything = await front.client.get("/grants")
    assert everything.json()["items"] == []


PATTERNS = [
    (("*",), "alice", True),
    (("*",), "@company", False),
    (("@company",), "@company", True),
    (("@*",), "@company", False),
    (("@company",), "alice", False),
    (("alice",), "alice", True),
    (("alice",), "Alice", False),
    (("alice",), "alice2", False),
    (("ali*",), "alice", True),
    (("ali*",), "malice", False),
    (("*ice",), "alice", True),
    (("a*c*e",), "alice", True),
    (("a.ice",), "alice", False),
    (("a?ice",), "alice", False),
    (("[a]lice",), "alice", False),
    (("bob", "alice"), "alice", True),
    (("*@example.com",), "alice@example.com", True),
    (("*@example.com",), "alice@example.com.evil", False),
    ((), "alice", False),
]


async def test_patterns_cover_whole_names_and_star_never_the_company(front: Front) -> None:
    found = []
    for number, (users, user, _) in enumerate(PATTERNS):
        headers = await front.admit(f"caller{number}", Scope.GRANTS, users=users)
        status = (await front.client.get(f"/grants/{user}", headers=headers)).status_code
        found.append((users, user, status == 404))
        assert status in {403, 404}
    assert found == PATTERNS


async def test_an_omitted_application_is_judged_as_the_default_one_that_it_stands_for(front: Front) -> None:
    await front.register("billing", GrantType.CLIENT_CREDENTIALS)
    headers = await front.admit("billing", Scope.TOKENS, Scope.GRANTS, users=("*", "@company"), applications=("bill*",))

    async def get(path: str) -> tuple[int, str | None]:
        return code_of(await front.client.get(path, headers=headers))

    assert await get("/tokens/@company") == (403, "not_allowed")
    assert await get("/tokens/@company?application=company") == (403, "not_allowed")
    assert await get("/tokens/@company?application=billing") == (200, None)
    assert await get("/grants/alice") == (403, "not_allowed")
    assert await get("/grants/alice?application=billing") == (404, "application_not_found")
    await front.container.services.administration.set_default("billing", frozenset({GrantType.CLIENT_CREDENTIALS}))
    front.clock.advance(6)
    assert await get("/tokens/@company") == (200, None)


async def test_without_any_application_the_answer_is_not_found_whatever_the_patterns(tmp_path: Path) -> None:
    async with front_in(tmp_path, VERSATURE_CLIENT_ID="", VERSATURE_CLIENT_SECRET="") as front:
        narrow = await front.admit("narrow", Scope.TOKENS, applications=("none",))
        for headers in ({}, narrow):
            answer = await front.client.get("/tokens/alice", headers=headers)
            assert code_of(answer) == (404, "application_not_found")


async def test_adding_applications_changes_no_default(front: Front) -> None:
    await front.register("another", GrantType.AUTHORIZATION_CODE, GrantType.CLIENT_CREDENTIALS)
    await front.hold("alice")
    assert (await front.client.get("/grants/alice")).json()["application"] == "default"
    await front.client.get("/tokens/@company")
    assert (await front.client.get("/grants/@company")).json()["application"] == "company"


async def test_the_admin_key_manages_grants_and_gets_no_tokens(front: Front) -> None:
    await front.hold("alice")
    admin = bearer(ADMIN_KEY)
    found = {path: code_of(await front.client.get(path, headers=admin)) for path in ("/tokens/alice", "/grants/alice")}
    assert found == {"/tokens/alice": (403, "not_allowed"), "/grants/alice": (200, None)}
    assert code_of(await front.client.get("/grants/@company", headers=admin)) == (403, "not_allowed")
    assert (await front.client.get("/me", headers=admin)).json() == {
        "name": "admin",
        "scopes": ["admin", "grants"],
        "users": ["*"],
        "applications": ["*"],
        "key_expires_at": None,
    }


async def test_me_needs_any_key_and_shows_when_it_expires(front: Front) -> None:
    expires_at = front.clock.now() + timedelta(hours=1)
    headers = await front.admit("brief", Scope.TOKENS, users=("b*", "a*"), expires_at=expires_at)
    assert (await front.client.get("/me", headers=headers)).json() == {
        "name": "brief",
        "scopes": ["tokens"],
        "users": ["b*", "a*"],
        "applications": ["*"],
        "key_expires_at": "2026-01-01T01:00:00Z",
    }
    assert code_of(await front.client.get("/me", headers={"Authorization": ""})) == (401, "invalid_api_key")


async def test_a_key_works_until_the_instant_it_expires(front: Front) -> None:
    headers = await front.admit("brief", Scope.GRANTS, expires_at=front.clock.now() + timedelta(seconds=60))
    front.clock.advance(59.999)
    assert code_of(await front.client.get("/me", headers=headers)) == (200, None)
    front.clock.advance(0.001)
    answer = await front.client.get("/me", headers=headers)
    assert code_of(answer) == (401, "invalid_api_key")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


async def test_a_removed_key_ends_within_the_local_cache_time_and_a_new_one_works_at_once(front: Front) -> None:
    headers = await front.admit("leaver", Scope.GRANTS)
    assert code_of(await front.client.get("/me", headers=headers)) == (200, None)
    rotated = bearer((await front.container.services.administration.rotate_key("leaver")).secret)
    assert code_of(await front.client.get("/me", headers=rotated)) == (200, None)
    assert code_of(await front.client.get("/me", headers=headers)) == (401, "invalid_api_key")
    await front.container.services.administration.remove_caller("leaver")
    front.clock.advance(5)
    assert code_of(await front.client.get("/me", headers=rotated)) == (401, "invalid_api_key")


async def test_while_the_database_is_away_known_keys_work_and_unknown_ones_get_503(front: Front) -> None:
    assert code_of(await front.client.get("/me")) == (200, None)
    front.clock.advance(60)
    async with front.database_away():
        assert code_of(await front.client.get("/me")) == (200, None)
        answer = await front.client.get("/me", headers=bearer("vtb_unknown"))
        assert code_of(answer) == (503, "store_unavailable")
        assert int(answer.headers["Retry-After"]) >= 1
    assert code_of(await front.client.get("/me", headers=bearer("vtb_unknown"))) == (401, "invalid_api_key")


BAD_CREDENTIALS = ["", "Bearer", "Basic dXNlcjpwYXNz", "vtb_", "Token x", "Bearer vtb_\xff", "Bearer a b"]


async def test_credentials_of_any_other_form_are_401(front: Front) -> None:
    for authorization in BAD_CREDENTIALS:
        answer = await front.client.get("/tokens/alice", headers={b"Authorization": authorization.encode("latin-1")})
        assert code_of(answer) == (401, "invalid_api_key"), authorization


async def test_the_scheme_is_case_insensitive(front: Front) -> None:
    headers = {"Authorization": f"bearer vtb_{'k' * 43}"}
    assert code_of(await front.client.get("/me", headers=headers)) == (200, None)


@pytest.mark.parametrize(
    ("host", "status"), [("127.0.0.1", 200), ("::1", 200), ("10.1.2.3", 401), ("192.168.0.127", 401), ("", 401)]
)
async def test_the_demo_key_works_on_loopback_only(front: Front, host: str, status: int) -> None:
    headers = await front.admit("demo", Scope.TOKENS, key="vtb_demo")
    transport = httpx.ASGITransport(front.app, client=(host, 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://broker") as client:
        assert (await client.get("/me", headers=headers)).status_code == status
        for passed_on in ({"X-Forwarded-For": host}, {"Forwarded": f"for={host}"}):
            assert (await client.get("/me", headers={**headers, **passed_on})).status_code == 401, "behind a proxy"
