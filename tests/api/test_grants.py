"""Grants over HTTP: connect, look, take over, end."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from service.core.model import GrantType, Scope
from tests.api.front import RETURN_ORIGIN, Front, code_of, front_in
from tests.support.browser import connect

BEGINNING = "2026-01-01T00:00:00Z"


async def users_listed(front: Front, query: str = "", headers: dict[str, str] | None = None) -> list[str]:
    answer = await front.client.get(f"/grants?{query}", headers=headers)
    assert answer.status_code == 200, answer.text
    return [item["user"] for item in answer.json()["items"]]


async def test_an_invitation_is_a_link_for_ten_minutes(front: Front) -> None:
    answer = await front.client.post("/grants/alice/connect")
    assert answer.status_code == 201
    assert set(answer.json()) == {"connect_url", "expires_at"}
    assert answer.json()["expires_at"] == "2026-01-01T00:10:00Z"
    link = answer.json()["connect_url"]
    assert link.startswith(f"{front.container.services.public_url}/connect/")
    assert len(link.rpartition("/")[2]) == 43
    assert answer.headers["Cache-Control"] == "no-store"
    again = await front.client.post("/grants/alice/connect", json={"return_to": f"{RETURN_ORIGIN}/done"})
    assert again.json()["connect_url"] != link


async def test_an_invitation_makes_no_grant(front: Front) -> None:
    await front.client.post("/grants/alice/connect")
    assert code_of(await front.client.get("/grants/alice")) == (404, "grant_not_found")
    assert await users_listed(front) == []


async def test_the_company_needs_no_login_and_has_nothing_to_import(front: Front) -> None:
    invitation = await front.client.post("/grants/@company/connect")
    assert code_of(invitation) == (422, "invalid_request")
    imported = await front.client.put("/grants/@company", json={"refresh_token": "r"})
    assert code_of(imported) == (422, "invalid_request")


async def test_a_grant_is_shown_with_every_documented_member_and_no_token(front: Front) -> None:
    minted = await front.hold("alice")
    answer = await front.client.get("/grants/alice")
    assert answer.json() == {
        "user": "alice",
        "application": "default",
        "state": "connected",
        "reason": None,
        "scope": "Office Manager",
        "generation": 1,
        "obtained_at": BEGINNING,
        "renewed_at": BEGINNING,
        "access_expires_at": "2026-01-01T01:00:00Z",
        "refresh_expires_at": "2026-04-01T00:00:00Z",
        "last_error": None,
        "retry_at": None,
    }
    assert minted["access_token"] not in answer.text
    assert minted["refresh_token"] not in answer.text


async def test_a_renewal_moves_generation_and_renewed_at_only(front: Front) -> None:
    await front.hold("alice")
    front.clock.advance(3600)
    assert (await front.client.get("/tokens/alice")).status_code == 200
    grant = (await front.client.get("/grants/alice")).json()
    assert grant["generation"] == 2
    assert grant["obtained_at"] == BEGINNING
    assert grant["renewed_at"] == "2026-01-01T01:00:00Z"


async def test_trouble_shows_in_last_error_and_retry_at_and_goes_with_the_next_success(front: Front) -> None:
    await front.hold("alice")
    await front.versature.switch(fault="refused_without_code", fault_times=1)
    front.clock.advance(3600)
    answer = await front.client.get("/tokens/alice")
    assert code_of(answer) == (502, "invalid_upstream_answer")
    grant = (await front.client.get("/grants/alice")).json()
    assert grant["state"] == "connected"
    assert grant["last_error"] == {"code": "invalid_upstream_answer", "at": "2026-01-01T01:00:00Z"}
    assert "2026-01-01T01:00:00" < grant["retry_at"] <= "2026-01-01T01:00:01Z"
    front.clock.advance(1)
    assert (await front.client.get("/tokens/alice")).status_code == 200
    grant = (await front.client.get("/grants/alice")).json()
    assert (grant["last_error"], grant["retry_at"]) == (None, None)


async def test_the_company_is_shown_once_it_has_a_token(front: Front) -> None:
    before = await front.client.get("/grants/@company")
    assert code_of(before) == (404, "grant_not_found")
    assert "connect" not in before.json()
    await front.client.get("/tokens/@company")
    grant = (await front.client.get("/grants/@company")).json()
    assert (grant["state"], grant["application"], grant["refresh_expires_at"]) == ("connected", "company", None)


async def test_a_missing_grant_says_how_to_connect(front: Front) -> None:
    answer = await front.client.get("/grants/a%20b%26c?application=default")
    assert code_of(answer) == (404, "grant_not_found")
    assert answer.json()["connect"] == {
        "method": "POST",
        "href": "/grants/a%20b%26c/connect?application=default",
    }
    assert (await front.client.post(answer.json()["connect"]["href"])).status_code == 201


async def test_a_listing_goes_page_by_page_without_missing_or_repeating_anybody(front: Front) -> None:
    users = sorted(["anna", "bert", "Zoe", "ünal", "a b", "x%y", "🦊"])
    for user in users:
        await front.hold(user)
    pages: list[list[str]] = []
    query = {"limit": "3"}
    while len(pages) < 5:
        page = (await front.client.get("/grants", params=query)).json()
        assert set(page) == {"items", "next_cursor"}
        pages.append([item["user"] for item in page["items"]])
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert pages == [users[:3], users[3:6], users[6:]]


async def test_the_last_page_knows_that_it_is_the_last(front: Front) -> None:
    for user in ("anna", "bert"):
        await front.hold(user)
    assert (await front.client.get("/grants?limit=2")).json()["next_cursor"] is None
    assert (await front.client.get("/grants?limit=1")).json()["next_cursor"] is not None


async def test_a_page_has_fifty_grants_unless_asked_otherwise(front: Front) -> None:
    for number in range(51):
        await front.client.put(f"/grants/u{number:02}", json={"refresh_token": "r"})
    assert len(await users_listed(front)) == 50
    assert len(await users_listed(front, "limit=500")) == 51


BAD_CURSORS = [
    "WyJkZWZhdWx0IixbImEiXV0=",
    "x",
    "W10=",
    "WzEsMl0=",
    "WyJhIl0=",
    "bnVsbA==",
    "%ff",
    "e30=",
    "WyJkZWZhdWx0IiwiXHVkODAwIl0=",
    "W1tb" * 500,
]


async def test_a_cursor_that_is_not_ours_is_422(front: Front) -> None:
    found = {cursor[:20]: code_of(await front.client.get(f"/grants?cursor={cursor}")) for cursor in BAD_CURSORS}
    assert set(found.values()) == {(422, "invalid_request")}, found


async def test_a_listing_shows_only_what_the_caller_may_ask_for(front: Front) -> None:
    await front.register("billing", GrantType.AUTHORIZATION_CODE)
    for user in ("anna", "bert", "Anton"):
        await front.hold(user)
    await front.client.put("/grants/anna?application=billing", json={"refresh_token": "other"})
    await front.client.get("/tokens/@company")
    rows: list[tuple[dict[str, Any], str, list[str]]] = [
        ({}, "", ["anna", "@company", "Anton", "anna", "bert"]),
        ({}, "application=company", ["@company"]),
        ({"users": ("*",)}, "", ["anna", "Anton", "anna", "bert"]),
        ({"users": ("a*",)}, "", ["anna", "anna"]),
        ({"users": ("a*", "@company")}, "", ["anna", "@company", "anna"]),
        ({"users": ("[aA]n*",)}, "", []),
        ({"users": ("bert",), "applications": ("billing",)}, "", []),
        ({"applications": ("bil*",)}, "", ["anna"]),
        ({"applications": ("bil*",)}, "application=billing", ["anna"]),
        ({"users": ()}, "", []),
    ]
    found = []
    for number, (patterns, query, _) in enumerate(rows):
        headers = await front.admit(f"caller{number}", Scope.GRANTS, **patterns) if patterns else None
        found.append((patterns, query, await users_listed(front, query, headers)))
    assert found == rows


async def test_pages_of_a_restricted_caller_are_full(front: Front) -> None:
    for user in ("a1", "b1", "b2", "b3", "c1"):
        await front.hold(user)
    headers = await front.admit("narrow", Scope.GRANTS, users=("b*",))
    page = (await front.client.get("/grants?limit=2", headers=headers)).json()
    assert [item["user"] for item in page["items"]] == ["b1", "b2"]
    cursor = page["next_cursor"]
    assert await users_listed(front, f"limit=2&cursor={cursor}", headers) == ["b3"]


async def test_a_listing_filters_by_state(front: Front) -> None:
    for user in ("dead", "gone", "well"):
        await front.hold(user)
    await front.client.put("/grants/brief", json={"refresh_token": "r"})
    await front.client.delete("/grants/gone")
    await front.versature.client.post("/sandbox/revoke_user", json={"user": "dead"})
    front.clock.advance(3600)
    assert code_of(await front.client.get("/tokens/dead")) == (409, "reauthorization_required")
    found = {
        state: await users_listed(front, f"state={state}")
        for state in ("connected", "reauthorization_required", "revoked")
    }
    assert found == {"connected": ["brief", "well"], "reauthorization_required": ["dead"], "revoked": ["gone"]}


async def test_an_import_answers_201_then_200_and_a_known_token_changes_nothing(front: Front) -> None:
    (minted,) = await front.versature.mint("alice")
    first = {"refresh_token": minted["refresh_token"]}
    created = await front.client.put("/grants/alice", json=first)
    assert created.status_code == 201
    assert created.json() == (await front.client.get("/grants/alice")).json()
    assert created.json()["access_expires_at"] is None
    repeated = await front.client.put("/grants/alice", json=first)
    assert (repeated.status_code, repeated.json()) == (200, created.json())
    replaced = await front.client.put("/grants/alice", json={"refresh_token": "another"})
    assert (replaced.status_code, replaced.json()["generation"]) == (200, 2)
    spent = await front.client.put("/grants/alice", json=first)
    assert (spent.status_code, spent.json()["generation"]) == (200, 2)


async def test_a_refresh_token_that_a_renewal_spent_is_not_taken_back(front: Front) -> None:
    minted = await front.hold("alice")
    front.clock.advance(3600)
    await front.client.get("/tokens/alice")
    repeated = await front.client.put("/grants/alice", json={"refresh_token": minted["refresh_token"]})
    assert (repeated.status_code, repeated.json()["generation"]) == (200, 2)
    front.clock.advance(3600)
    assert (await front.client.get("/tokens/alice")).status_code == 200


async def test_an_import_without_access_token_is_renewed_at_first_use(front: Front) -> None:
    (minted,) = await front.versature.mint("alice")
    await front.client.put("/grants/alice", json={"refresh_token": minted["refresh_token"]})
    answer = await front.client.get("/tokens/alice")
    assert answer.headers["Cache-Status"] == "token-broker; fwd=uri-miss; stored"
    assert await front.versature.whose(answer.json()["access_token"]) == "alice"


BAD_IMPORTS: list[dict[str, object]] = [
    {},
    {"refresh_token": ""},
    {"refresh_token": None},
    {"refresh_token": 1},
    {"refresh_token": "x" * 16_385},
    {"refresh_token": "r", "access_token": ""},
    {"refresh_token": "r", "access_token": "a b"},
    {"refresh_token": "r", "access_token": "a\nb"},
    {"refresh_token": "r", "access_token": "ä"},
    {"refresh_token": "r", "expires_in": 0},
    {"refresh_token": "r", "expires_in": -1},
    {"refresh_token": "r", "expires_in": 10**12},
    {"refresh_token": "r", "expires_in": 1.5},
    {"refresh_token": "r", "scope": "x" * 1025},
    {"refresh_token": "r", "user": "alice"},
]


async def test_an_import_of_any_other_form_is_422_says_where_and_never_repeats_a_value(front: Front) -> None:
    for body in BAD_IMPORTS:
        secret = {**body, "refresh_token": "geheim"} if body.get("refresh_token") == "r" else body
        answer = await front.client.put("/grants/alice", json=secret)
        assert code_of(answer) == (422, "invalid_request"), body
        assert [set(error) for error in answer.json()["errors"]] == [{"field", "message"}]
        assert answer.json()["errors"][0]["field"] in {"refresh_token", "access_token", "expires_in", "scope", "user"}
        assert "geheim" not in answer.text
    assert code_of(await front.client.get("/grants/alice")) == (404, "grant_not_found")


async def test_a_revoked_grant_answers_409_from_then_on_and_a_new_login_mends_it(tmp_path: Path) -> None:
    async with front_in(tmp_path) as front:
        await connect(front.broker, "alice")
        await front.client.get("/tokens/alice")
        ended = await front.client.delete("/grants/alice")
        assert ended.json() == {"state": "revoked", "upstream": "not_configured"}
        for _ in range(2):
            answer = await front.client.get("/tokens/alice")
            assert code_of(answer) == (409, "reauthorization_required")
            assert answer.json()["reason"] == "revoked"
            assert answer.json()["connect"]["href"] == "/grants/alice/connect?application=default"
        grant = (await front.client.get("/grants/alice")).json()
        assert (grant["state"], grant["reason"]) == ("revoked", "revoked")
        repeated = await front.client.delete("/grants/alice")
        assert (repeated.status_code, repeated.json()) == (200, ended.json())
        await connect(front.broker, "alice")
        assert (await front.client.get("/tokens/alice")).status_code == 200


async def test_revocation_is_told_to_the_provider_and_tried_again_until_it_knows(tmp_path: Path) -> None:
    async with front_in(tmp_path, VERSATURE_REVOCATION_URL="{versature}/api/oauth/revoke/") as front:
        minted = await front.hold("alice")
        await front.versature.switch(revocation_fault="server_error")
        found = [(await front.client.delete("/grants/alice")).json()["upstream"] for _ in range(2)]
        assert await front.versature.whose(minted["access_token"]) == "alice"
        await front.versature.switch(revocation_fault="none")
        found += [(await front.client.delete("/grants/alice")).json()["upstream"] for _ in range(2)]
        assert found == ["pending", "pending", "revoked", "revoked"]
        assert await front.versature.whose(minted["access_token"]) is None
        assert len(await front.versature.calls(endpoint="revoke", outcome="revoked")) == 1


async def test_there_is_nothing_to_revoke_where_nothing_was_connected(front: Front) -> None:
    assert code_of(await front.client.delete("/grants/alice")) == (404, "grant_not_found")
    await front.client.post("/grants/alice/connect")
    assert code_of(await front.client.delete("/grants/alice")) == (404, "grant_not_found")


async def die_by_refusal(front: Front) -> None:
    await front.hold("alice")
    await front.versature.client.post("/sandbox/revoke_user", json={"user": "alice"})
    front.clock.advance(3600)


async def die_of_age(front: Front) -> None:
    await front.hold("alice")
    front.clock.advance(timedelta(days=91))


async def die_without_refresh_token(front: Front) -> None:
    await front.versature.switch(omit=["refresh_token"])
    await connect(front.broker, "alice")
    front.clock.advance(3600)


async def die_in_transit(front: Front) -> None:
    await front.versature.switch(rotation="strict")
    await front.hold("alice")
    await front.versature.switch(fault="drop_after", fault_times=1)
    front.clock.advance(3600)
    assert code_of(await front.client.get("/tokens/alice")) == (503, "upstream_unavailable")
    front.clock.advance(61)


async def die_of_a_broken_seal(front: Front) -> None:
    for user in ("alice", "bob"):
        await front.client.put(f"/grants/{user}", json={"refresh_token": user})
    async with front.container.database.write() as connection:
        await connection.exec_driver_sql(
            "UPDATE grants SET refresh_sealed = (SELECT refresh_sealed FROM grants WHERE user = 'bob')"
        )


@pytest.mark.parametrize(
    ("die", "reason"),
    [
        (die_by_refusal, "revoked"),
        (die_of_age, "refresh_token_expired"),
        (die_without_refresh_token, "no_refresh_token"),
        (die_in_transit, "lost_in_transit"),
        (die_of_a_broken_seal, "undecryptable"),
    ],
)
async def test_a_dead_grant_says_why_and_how_to_connect_again(front: Front, die: Any, reason: str) -> None:
    await die(front)
    answer = await front.client.get("/tokens/alice")
    assert code_of(answer) == (409, "reauthorization_required")
    assert answer.json()["reason"] == reason
    assert answer.json()["connect"] == {"method": "POST", "href": "/grants/alice/connect?application=default"}
    grant = (await front.client.get("/grants/alice")).json()
    assert (grant["state"], grant["reason"]) == ("reauthorization_required", reason)


async def test_a_grant_belongs_to_one_application(front: Front) -> None:
    await front.register("billing", GrantType.AUTHORIZATION_CODE)
    await front.hold("alice")
    assert code_of(await front.client.get("/tokens/alice?application=billing")) == (404, "grant_not_found")
    assert code_of(await front.client.delete("/grants/alice?application=billing")) == (404, "grant_not_found")
    assert (await front.client.get("/tokens/alice?application=default")).status_code == 200


async def test_an_application_serves_only_the_grant_types_it_allows(front: Front) -> None:
    found = [
        code_of(await front.client.get("/tokens/@company?application=default")),
        code_of(await front.client.get("/tokens/alice?application=company")),
        code_of(await front.client.post("/grants/alice/connect?application=company")),
    ]
    assert found == [(404, "application_not_found")] * 3
