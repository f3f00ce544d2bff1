"""What operators manage over HTTP: applications, callers and their keys."""

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox.directory import COMPANY_CLIENT, USER_CLIENT
from service.adapters.sql_directory import SqlDirectoryStore
from service.api.admin_schemas import ApplicationChanges, NewApplication
from service.api.schemas import GrantImport, RejectedToken
from service.core.model import Scope
from service.core.sealing.digests import secret_digest
from tests.api.front import ADMIN_KEY, Front, bearer, code_of, front_in

KEY_FORM = re.compile(r"vtb_[A-Za-z0-9_-]{43}")
BILLING: dict[str, Any] = {
    "name": "billing",
    "client_id": "billing-id",
    "client_secret": "geheim-billing",
    "grant_types": ["client_credentials"],
}


async def call(front: Front, method: str, path: str, content: Any = None) -> httpx.Response:
    """As the operator with the key from the settings."""
    body = {} if content is None else {"json": content}
    return await front.bare(method, path, bearer(ADMIN_KEY), **body)


async def names(front: Front, path: str) -> list[str]:
    return [item["name"] for item in (await call(front, "GET", path)).json()["items"]]


async def test_an_application_is_added_shown_and_used(front: Front) -> None:
    added = await call(front, "POST", "/applications", {**BILLING, "vendor_id": "v", "pkce": True})
    assert added.status_code == 201
    base = f"{front.versature.base_url}/api"
    assert added.json() == {
        "name": "billing",
        "source": "stored",
        "client_id": "billing-id",
        "grant_types": ["client_credentials"],
        "default_for": [],
        "token_url": f"{base}/oauth/token/",
        "authorize_url": f"{base}/oauth/authorize/",
        "revocation_url": None,
        "oauth_scope": None,
        "vendor_id": "v",
        "pkce": True,
    }
    assert (await call(front, "GET", "/applications/billing")).json() == added.json()
    assert await names(front, "/applications") == ["billing", "company", "default"]
    assert code_of(await front.client.get("/tokens/@company?application=billing")) == (502, "client_rejected")
    again = await call(front, "POST", "/applications", BILLING)
    assert code_of(again) == (409, "conflict")


async def test_a_removed_application_is_gone_at_once_and_its_grants_return_with_it(front: Front) -> None:
    await call(front, "POST", "/applications", as_user_application(front))
    await front.client.put("/grants/alice?application=sales", json={"refresh_token": "kept"})
    assert (await call(front, "DELETE", "/applications/sales")).status_code == 204
    assert code_of(await front.client.get("/grants/alice?application=sales")) == (404, "application_not_found")
    assert code_of(await call(front, "DELETE", "/applications/sales")) == (404, "application_not_found")
    await call(front, "POST", "/applications", as_user_application(front))
    assert (await front.client.get("/grants/alice?application=sales")).json()["state"] == "connected"


def as_user_application(front: Front) -> dict[str, Any]:
    return {
        "name": "sales",
        "client_id": USER_CLIENT.id,
        "client_secret": USER_CLIENT.secret,
        "grant_types": ["authorization_code"],
        "base_url": f"{front.versature.base_url}/api",
    }


async def hold_in_sales(front: Front) -> None:
    """Connect alice to `sales`, with an access token that is about to end."""
    await call(front, "POST", "/applications", as_user_application(front))
    (minted,) = await front.versature.mint("alice")
    kept = {"refresh_token": minted["refresh_token"], "access_token": minted["access_token"], "expires_in": 1}
    answer = await front.client.put("/grants/alice?application=sales", json=kept)
    assert answer.status_code == 201
    front.clock.advance(2)


async def test_a_new_client_secret_is_used_at_once_and_no_grant_is_lost(front: Front) -> None:
    await hold_in_sales(front)
    wrong = await call(front, "PATCH", "/applications/sales", {"client_secret": "not-yet-known-there"})
    assert (wrong.status_code, "not-yet" in wrong.text) == (200, False)
    assert code_of(await front.client.get("/tokens/alice?application=sales")) == (502, "client_rejected")
    assert (await front.client.get("/grants/alice?application=sales")).json()["state"] == "connected"
    await call(front, "PATCH", "/applications/sales", {"client_secret": USER_CLIENT.secret})
    front.clock.advance(600)
    assert code_of(await front.client.get("/tokens/alice?application=sales")) == (200, None)


@pytest.mark.parametrize("change", [{"client_id": COMPANY_CLIENT.id}, {"token_url": "http://127.0.0.1:9/token"}])
async def test_another_registration_rebinds_no_grant_and_sends_nobody_its_refresh_token(
    front: Front, change: dict[str, str]
) -> None:
    await hold_in_sales(front)
    before = (await call(front, "GET", "/applications/sales")).json()
    secret = {"client_secret": USER_CLIENT.secret}
    changed = await call(front, "PATCH", "/applications/sales", {**change, **secret})
    assert changed.json() == {**before, **change}
    assert code_of(await front.client.get("/tokens/alice?application=sales")) == (502, "client_rejected")
    assert await front.versature.redemptions() == []
    await call(front, "PATCH", "/applications/sales", {**{name: before[name] for name in change}, **secret})
    front.clock.advance(600)
    assert code_of(await front.client.get("/tokens/alice?application=sales")) == (200, None)


async def test_a_member_left_out_stays_and_null_takes_away(front: Front) -> None:
    whole = {
        **BILLING,
        "oauth_scope": "s",
        "vendor_id": "v",
        "base_url": "https://a.example/api",
        "revocation_url": "https://a.example/r",
        "pkce": True,
    }
    before = (await call(front, "POST", "/applications", whole)).json()
    assert (await call(front, "PATCH", "/applications/billing", {})).json() == before
    changed = await call(front, "PATCH", "/applications/billing", {"vendor_id": None, "revocation_url": None})
    assert changed.json() == {**before, "vendor_id": None, "revocation_url": None}
    impossible: list[Any] = [
        {"client_id": None},
        {"pkce": None},
        {"grant_types": []},
        {"name": "a"},
        {"token_url": "x"},
    ]
    for wrong in impossible:
        answer = await call(front, "PATCH", "/applications/billing", wrong)
        assert code_of(answer) == (422, "invalid_request"), wrong
    assert (await call(front, "GET", "/applications/billing")).json() == changed.json()


async def test_what_the_settings_define_is_changed_there_only(front: Front) -> None:
    shown = (await call(front, "GET", "/applications/default")).json()
    assert (shown["source"], shown["default_for"]) == ("settings", ["authorization_code"])
    for method, path, content in [
        ("PATCH", "/applications/default", {"client_id": "x"}),
        ("DELETE", "/applications/default", None),
        ("POST", "/applications", {**BILLING, "name": "default"}),
    ]:
        assert code_of(await call(front, method, path, content)) == (409, "conflict"), method
    assert (await call(front, "GET", "/applications/default")).json() == shown


async def test_the_default_application_is_chosen_among_those_that_can_serve(front: Front) -> None:
    await call(front, "POST", "/applications", BILLING)
    where = "/applications/billing/default"
    for content, expected in [
        ({"grant_types": ["authorization_code"]}, (409, "conflict")),
        ({"grant_types": ["client_credentials", "authorization_code"]}, (409, "conflict")),
        ({"grant_types": ["password"]}, (422, "invalid_request")),
        ({"grant_types": []}, (422, "invalid_request")),
        ({"grant_type": ["client_credentials"]}, (422, "invalid_request")),
    ]:
        assert code_of(await call(front, "PUT", where, content)) == expected, content
    assert code_of(await call(front, "PUT", "/applications/nothing/default")) == (404, "application_not_found")
    assert (await call(front, "GET", "/applications/company")).json()["default_for"] == ["client_credentials"]
    chosen = await call(front, "PUT", where, {"grant_types": ["client_credentials"]})
    assert chosen.json()["default_for"] == ["client_credentials"]
    assert (await call(front, "GET", "/applications/company")).json()["default_for"] == []
    back = await call(front, "PUT", "/applications/company/default")
    assert back.json()["default_for"] == ["client_credentials"]


async def test_a_caller_is_added_with_a_key_that_is_shown_once(front: Front) -> None:
    added = await call(front, "POST", "/callers", {"name": "erp", "scopes": ["tokens", "grants"], "users": ["a*"]})
    assert added.status_code == 201
    assert added.headers["Cache-Control"] == "no-store"
    key = added.json()["key"]
    assert KEY_FORM.fullmatch(key["key"])
    shown = {"name": "erp", "scopes": ["grants", "tokens"], "users": ["a*"], "applications": ["*"]}
    assert added.json() == {**shown, "key": key}
    me = await front.client.get("/me", headers=bearer(key["key"]))
    assert me.json() == {**shown, "key_expires_at": None}
    assert (await call(front, "GET", "/callers/erp")).json() == shown
    everything = "".join([(await call(front, "GET", path)).text for path in ("/callers", "/callers/erp/keys")])
    assert key["key"] not in everything
    assert secret_digest(key["key"]).hex() not in everything


async def test_rights_are_changed_at_once_and_keys_stay(front: Front) -> None:
    headers = await front.admit("erp", Scope.TOKENS, users=("bob",))
    assert code_of(await front.client.get("/tokens/@company", headers=headers)) == (403, "not_allowed")
    changed = await call(front, "PATCH", "/callers/erp", {"users": ["bob", "@company"]})
    assert changed.json() == {"name": "erp", "scopes": ["tokens"], "users": ["bob", "@company"], "applications": ["*"]}
    assert code_of(await front.client.get("/tokens/@company", headers=headers)) == (200, None)
    impossible: list[Any] = [{"users": []}, {"users": [""]}, {"scopes": []}, {"applications": []}, {"users": None}]
    for wrong in [*impossible, {"name": "x"}]:
        assert code_of(await call(front, "PATCH", "/callers/erp", wrong)) == (422, "invalid_request"), wrong
    assert (await call(front, "GET", "/callers/erp")).json() == changed.json()
    assert (await call(front, "DELETE", "/callers/erp")).status_code == 204
    assert code_of(await front.client.get("/me", headers=headers)) == (401, "invalid_api_key")


async def test_a_stored_caller_may_be_the_operator(front: Front) -> None:
    operator = await front.admit("operator", Scope.ADMIN, users=())
    added = await front.bare("POST", "/callers", operator, json={"name": "erp", "scopes": ["admin"]})
    assert added.status_code == 201
    assert code_of(await front.bare("GET", "/grants", operator)) == (403, "not_allowed")
    assert code_of(await front.bare("GET", "/callers", bearer(added.json()["key"]["key"]))) == (200, None)


IMPOSSIBLE: list[dict[str, Any]] = [
    {"name": "two words"},
    {"name": ""},
    {"name": "x" * 65},
    {"scopes": []},
    {"scopes": ["root"]},
    {"scopes": "tokens"},
    {"users": []},
    {"users": [""]},
    {"users": ["a/b"]},
    {"users": ["\0"]},
    {"users": ["u"] * 101},
    {"applications": []},
    {"applications": [""]},
    {"key": "vtb_chosen"},
]


@pytest.mark.parametrize("wrong", IMPOSSIBLE, ids=lambda wrong: json.dumps(wrong)[:30])
async def test_an_impossible_caller_is_refused(front: Front, wrong: dict[str, Any]) -> None:
    answer = await call(front, "POST", "/callers", {"name": "erp", "scopes": ["tokens"], "users": ["*"], **wrong})
    assert code_of(answer) == (422, "invalid_request")
    assert await names(front, "/callers") == ["crm"]


async def test_taken_names_are_a_conflict(front: Front) -> None:
    for name in ("crm", "admin"):
        answer = await call(front, "POST", "/callers", {"name": name, "scopes": ["admin"]})
        assert code_of(answer) == (409, "conflict")


async def test_keys_rotate_without_a_gap(front: Front) -> None:
    old = await front.admit("erp", Scope.TOKENS)
    added = await call(front, "POST", "/callers/erp/keys")
    assert (added.status_code, added.headers["Cache-Control"]) == (201, "no-store")
    new = added.json()
    assert KEY_FORM.fullmatch(new["key"])
    for headers in (old, bearer(new["key"])):
        assert (await front.client.get("/me", headers=headers)).json()["name"] == "erp"
    assert code_of(await call(front, "POST", "/callers/erp/keys")) == (409, "conflict")
    shown = (await call(front, "GET", "/callers/erp/keys")).json()["items"]
    assert shown == [
        {"id": "first", "created_at": None, "expires_at": None},
        {"id": new["id"], "created_at": "2026-01-01T00:00:00Z", "expires_at": None},
    ]
    assert (await call(front, "DELETE", "/callers/erp/keys/first")).status_code == 204
    assert code_of(await front.client.get("/me", headers=old)) == (401, "invalid_api_key")
    assert code_of(await front.client.get("/me", headers=bearer(new["key"]))) == (200, None)
    assert code_of(await call(front, "DELETE", "/callers/erp/keys/first")) == (404, "not_found")
    assert (await call(front, "POST", "/callers/erp/keys")).status_code == 201


async def test_a_key_may_be_given_an_end_in_two_ways_and_keeps_it_to_the_instant(front: Front) -> None:
    await front.admit("erp", Scope.TOKENS)
    for content in ({"expires_in": 3600}, {"expires_at": "2026-01-01T02:00:00+01:00"}):
        issued = (await call(front, "POST", "/callers/erp/keys", content)).json()
        assert issued["expires_at"] == "2026-01-01T01:00:00Z"
        me = await front.client.get("/me", headers=bearer(issued["key"]))
        assert me.json()["key_expires_at"] == "2026-01-01T01:00:00Z"
        await call(front, "DELETE", f"/callers/erp/keys/{issued['id']}")
    issued = (await call(front, "POST", "/callers/erp/keys", {"expires_in": 3600})).json()
    assert (await front.client.get("/me", headers=bearer(issued["key"]))).status_code == 200
    front.clock.advance(3599.999999)
    assert (await front.client.get("/me", headers=bearer(issued["key"]))).status_code == 200
    front.clock.advance(timedelta(microseconds=1))
    async with front.database_away():
        ended = await front.client.get("/me", headers=bearer(issued["key"]))
        assert code_of(ended) == (401, "invalid_api_key")


async def test_an_expired_key_is_shown_until_a_new_one_takes_its_place(front: Front) -> None:
    await front.admit("erp", Scope.TOKENS)
    brief = (await call(front, "POST", "/callers/erp/keys", {"expires_in": 1})).json()
    front.clock.advance(1)
    ids = [key["id"] for key in (await call(front, "GET", "/callers/erp/keys")).json()["items"]]
    assert ids == ["first", brief["id"]]
    new = await call(front, "POST", "/callers/erp/keys")
    assert new.status_code == 201
    ids = [key["id"] for key in (await call(front, "GET", "/callers/erp/keys")).json()["items"]]
    assert ids == ["first", new.json()["id"]]


@pytest.mark.parametrize(
    "content",
    [
        {"expires_in": 0},
        {"expires_in": -1},
        {"expires_in": True},
        {"expires_in": 1.5},
        {"expires_in": 10**12},
        {"expires_at": "2026-01-01T00:00:00Z"},
        {"expires_at": "2026-02-01T00:00:00"},
        {"expires_at": "2026-02-01"},
        {"expires_at": 1893456000},
        {"expires_at": "9999-12-31T23:59:59-12:00"},
        {"expires_in": 1, "expires_at": "2026-02-01T00:00:00Z"},
        {"expires": 1},
    ],
    ids=json.dumps,
)
async def test_an_end_that_cannot_be_is_refused(front: Front, content: dict[str, Any]) -> None:
    assert code_of(await call(front, "POST", "/callers/crm/keys", content)) == (422, "invalid_request")
    assert len((await call(front, "GET", "/callers/crm/keys")).json()["items"]) == 1


async def test_what_is_not_there_is_404_whatever_is_asked_of_it(front: Front) -> None:
    callers: list[tuple[str, str, Any]] = [
        ("GET", "/callers/nobody", None),
        ("PATCH", "/callers/nobody", {"users": ["*"]}),
        ("DELETE", "/callers/nobody", None),
        ("GET", "/callers/nobody/keys", None),
        ("POST", "/callers/nobody/keys", {}),
        ("DELETE", "/callers/nobody/keys/first", None),
        ("DELETE", "/callers/crm/keys/nothing", None),
    ]
    applications: list[tuple[str, str, Any]] = [
        ("GET", "/applications/nothing", None),
        ("PATCH", "/applications/nothing", {"client_id": "x"}),
        ("DELETE", "/applications/nothing", None),
        ("PUT", "/applications/nothing/default", {}),
    ]
    for rows, code in [(callers, "not_found"), (applications, "application_not_found")]:
        for method, path, content in rows:
            assert code_of(await call(front, method, path, content)) == (404, code), (method, path)


MANAGING = [
    ("GET", "/callers", None),
    ("POST", "/callers", b"{}"),
    ("GET", "/callers/{name}", None),
    ("PATCH", "/callers/{name}", b'{"users": ["*"]}'),
    ("DELETE", "/callers/{name}", None),
    ("GET", "/callers/{name}/keys", None),
    ("POST", "/callers/{name}/keys", b"{}"),
    ("DELETE", "/callers/{name}/keys/first", None),
    ("DELETE", "/callers/crm/keys/{name}", None),
    ("GET", "/applications", None),
    ("POST", "/applications", b"{}"),
    ("GET", "/applications/{name}", None),
    ("PATCH", "/applications/{name}", b'{"client_id": "x"}'),
    ("DELETE", "/applications/{name}", None),
    ("PUT", "/applications/{name}/default", b"{}"),
]


@pytest.mark.parametrize(("method", "path", "good_body"), MANAGING)
async def test_each_fault_hides_all_later_ones(front: Front, method: str, path: str, good_body: bytes | None) -> None:
    """Key, form of name and query, permission, body, existence."""
    admin, other = bearer(ADMIN_KEY), await front.admit("other", Scope.TOKENS, Scope.GRANTS)

    async def ask(headers: dict[str, str], name: str, query: str, body: bytes) -> tuple[int, str | None]:
        where = path.format(name=name) + query
        sent = {"Content-Type": "application/json", **headers}
        return code_of(await front.bare(method, where, sent, content=body))

    assert await ask({}, "-x", "?nope=1", b"{nonsense") == (401, "invalid_api_key")
    assert await ask(other, "nobody", "?nope=1", b"{nonsense") == (422, "invalid_request")
    if "{name}" in path:
        assert await ask(other, "-x", "", b"{nonsense") == (422, "invalid_request")
        assert await ask(other, "x" * 65, "", b"{nonsense") == (422, "invalid_request")
    assert await ask(other, "nobody", "", b"{nonsense") == (403, "not_allowed")
    if good_body is not None:
        assert await ask(admin, "nobody", "", b"{nonsense") == (422, "invalid_request")
        assert await ask(admin, "nobody", "", b'{"unknown": 1}') == (422, "invalid_request")
    if "{name}" in path:
        assert (await ask(admin, "nobody", "", good_body or b""))[0] == 404


@pytest.mark.parametrize("shrinking", [False, True])
@pytest.mark.parametrize("path", ["/callers", "/applications"])
async def test_a_listing_comes_in_pages_that_fit_together(front: Front, path: str, shrinking: bool) -> None:
    """Even when the item at which a page ended is removed meanwhile."""
    for number in range(7):
        await front.admit(f"c{number}", Scope.TOKENS)
        await call(front, "POST", "/applications", {**BILLING, "name": f"a{number}"})
    whole = await names(front, path)
    assert whole == sorted(whole)
    assert len(whole) >= 8
    found: list[str] = []
    cursor = ""
    for _ in range(len(whole)):
        page = (await call(front, "GET", f"{path}?limit=3{cursor}")).json()
        found += [item["name"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        assert len(page["items"]) == 3
        if shrinking:
            await call(front, "DELETE", f"{path}/{found[-1]}")
        cursor = f"&cursor={page['next_cursor']}"
    assert found == whole
    for wrong in ("limit=0", "limit=501", "limit=x", "cursor=nonsense", "cursor=WyItIl0=", "state=connected"):
        assert code_of(await call(front, "GET", f"{path}?{wrong}")) == (422, "invalid_request"), wrong


async def test_no_secret_ever_comes_back_or_reaches_a_log(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    secrets = ["geheim-billing", "geheim-neu", "geheim-falsch"]
    answers = [
        await call(front, "POST", "/applications", BILLING),
        await call(front, "PATCH", "/applications/billing", {"client_secret": "geheim-neu"}),
        await call(front, "PATCH", "/applications/billing", {"client_secret": "geheim-falsch", "token_url": "x"}),
        await call(front, "POST", "/applications", {**BILLING, "client_secret": ["geheim-falsch"]}),
        await call(front, "GET", "/applications"),
        await call(front, "GET", "/applications/billing"),
    ]
    issued = await call(front, "POST", "/callers", {"name": "erp", "scopes": ["tokens"], "users": ["*"]})
    secrets.append(issued.json()["key"]["key"])
    told = "".join(answer.text for answer in answers) + caplog.text
    assert [secret for secret in secrets if secret in told] == []
    rows = await SqlDirectoryStore(front.container.database).load()
    assert [secret for secret in secrets if secret in repr(rows)] == []
    assert [secret for secret in secrets if secret.encode() in front.database.read_bytes()] == []


async def test_while_the_database_is_away_nothing_is_managed(front: Front) -> None:
    await call(front, "GET", "/callers")
    calls: list[tuple[str, str, Any]] = [
        ("GET", "/callers", None),
        ("GET", "/applications", None),
        ("POST", "/callers/crm/keys", {}),
        ("DELETE", "/applications/company", None),
    ]
    async with front.database_away():
        for method, path, content in calls:
            assert code_of(await call(front, method, path, content)) == (503, "store_unavailable"), path
    assert await names(front, "/callers") == ["crm"]


async def test_without_an_admin_key_nobody_manages_unless_stored(tmp_path: Path) -> None:
    async with front_in(tmp_path, BROKER_ADMIN_KEY="") as front:
        assert code_of(await call(front, "GET", "/callers")) == (401, "invalid_api_key")
        assert code_of(await front.client.get("/callers")) == (403, "not_allowed")


def test_no_shape_shows_its_secrets_when_it_is_printed() -> None:
    shapes = [
        NewApplication.model_validate({**BILLING, "client_secret": "geheim"}),
        ApplicationChanges(client_secret="geheim"),
        GrantImport(refresh_token="geheim", access_token="geheim"),
        RejectedToken(access_token="geheim"),
    ]
    assert [shape for shape in shapes if "geheim" in repr(shape) + str(shape)] == []
