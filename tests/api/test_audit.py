"""The audit as operators read it: what leaves an entry, and how to find it again."""

import base64
import json
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from service.core.model import GrantType, Scope
from tests.api.front import ADMIN_KEY, Front, bearer, code_of, front_in
from tests.support.browser import browser_of, connect, invite

ACTS: list[tuple[str, str, Any, str, str]] = [
    (
        "POST",
        "/applications",
        {"name": "a", "client_id": "i", "client_secret": "s", "grant_types": ["authorization_code"]},
        "application_added",
        "a",
    ),
    ("PATCH", "/applications/a", {"client_secret": "n"}, "application_changed", "a"),
    ("PUT", "/applications/a/default", None, "default_set", "a"),
    ("DELETE", "/applications/a", None, "application_removed", "a"),
    ("POST", "/callers", {"name": "b", "scopes": ["tokens"], "users": ["*"]}, "caller_added", "b"),
    ("PATCH", "/callers/b", {"users": ["x"]}, "caller_changed", "b"),
    ("POST", "/callers/b/keys", {"expires_in": 60}, "key_added", "b {key}"),
    ("DELETE", "/callers/b/keys/{key}", None, "key_removed", "b {key}"),
    ("DELETE", "/callers/b", None, "caller_removed", "b"),
]


async def entries(front: Front, query: str = "") -> list[dict[str, Any]]:
    """What the audit shows, the oldest first."""
    front.container.core.lane.collect()
    await front.container.services.audit.flush()
    answer = await front.bare("GET", f"/audit?limit=500{query}", bearer(ADMIN_KEY))
    assert answer.status_code == 200, answer.text
    assert answer.json()["next_cursor"] is None
    return list(reversed(answer.json()["items"]))


def shown(found: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(one[name] for name in names) for one in found]


async def test_every_act_of_an_operator_leaves_its_entry_with_who_and_in_which_request(front: Front) -> None:
    key, expected = "", []
    for number, (method, path, content, action, subject) in enumerate(ACTS):
        headers = {**bearer(ADMIN_KEY), "X-Request-ID": f"act-{number}"}
        body = {} if content is None else {"json": content}
        answer = await front.bare(method, path.format(key=key), headers, **body)
        assert answer.is_success, answer.text
        key = answer.json()["id"] if action == "key_added" else key
        expected.append(("admin", action, subject.format(key=key), f"act-{number}", 1))
        front.clock.advance(1)
    found = await entries(front, "&caller=admin")
    assert shown(found, "caller", "action", "subject", "request_id", "times") == expected


async def test_an_act_that_failed_leaves_none(front: Front) -> None:
    before = await entries(front)
    for method, path, content, _, _ in ACTS:
        if path not in {"/applications", "/callers"}:
            body = {} if content is None else {"json": content}
            answer = await front.bare(method, path.format(key="none"), bearer(ADMIN_KEY), **body)
            assert answer.status_code == 404, answer.text
    assert await entries(front) == before


async def test_a_connect_leaves_its_invitation_and_its_end(front: Front) -> None:
    assert (await connect(front.broker, "alice")).status_code == 303
    front.clock.advance(1)
    async with browser_of(front.broker) as browser:
        denied = await browser.walk(await invite(front.broker, "bob"), "bob", "deny")
    assert denied.status_code == 403
    found = shown(await entries(front, "&application=default"), "action", "caller", "user", "code")
    assert [one for one in found if one[0] != "connect_failed"] == [
        ("invited", "crm", "alice", None),
        ("connected", "crm", "alice", None),
        ("invited", "crm", "bob", None),
    ]
    assert ("connect_failed", "crm", "bob", "authorization_denied") in found


async def test_import_hand_out_rejection_and_revocation_leave_theirs(front: Front) -> None:
    minted = await front.hold("alice")
    for _ in range(3):
        await front.client.get("/tokens/alice")
    await front.client.post("/tokens/alice/rejected", json={"access_token": minted["access_token"]})
    await front.client.get("/tokens/@company")
    front.clock.advance(1)
    await front.client.delete("/grants/alice")
    found = shown(await entries(front, "&caller=crm"), "action", "application", "user", "code", "times")
    assert sorted(found, key=str) == [
        ("imported", "default", "alice", None, 1),
        ("rejected", "default", "alice", None, 1),
        ("revoked", "default", "alice", "not_configured", 1),
        ("token", "company", "@company", None, 1),
        ("token", "default", "alice", None, 3),
    ]


async def test_a_token_that_was_not_handed_out_is_not_counted(front: Front) -> None:
    assert (await front.client.get("/tokens/nobody")).status_code == 404
    assert await entries(front, "&action=token") == []


async def test_refusals_are_counted_with_who_was_told_no_and_about_whom(tmp_path: Path) -> None:
    async with front_in(tmp_path, BROKER_CALLER_REQUESTS_PER_SECOND="1") as front:
        narrow = await front.admit("narrow", Scope.TOKENS, users=("alice",))
        for _ in range(2):
            assert code_of(await front.bare("GET", "/tokens/alice", bearer("vtb_wrong")))[0] == 401
        assert code_of(await front.bare("GET", "/tokens/bob", narrow))[0] == 403
        front.clock.advance(5)
        assert code_of(await front.bare("GET", "/grants", narrow))[0] == 403
        answers = [await front.bare("GET", "/tokens/bob", narrow) for _ in range(5)]
        assert code_of(answers[-1]) == (429, "rate_limited")
        front.clock.advance(20)
        found = await entries(front, "&action=refused")
        assert sorted(shown(found, "caller", "user", "code"), key=str) == [
            ("-", None, "invalid_api_key"),
            ("narrow", "bob", "not_allowed"),
            ("narrow", None, "not_allowed"),
            ("narrow", None, "rate_limited"),
        ]
        assert [one["times"] for one in found if one["caller"] == "-"] == [2]


async def test_too_many_rejections_are_a_refusal_about_that_user(front: Front) -> None:
    token = (await front.hold("alice"))["access_token"]
    report = "/tokens/alice/rejected"
    newer = (await front.client.post(report, json={"access_token": token})).json()["access_token"]
    answer = await front.client.post(report, json={"access_token": newer})
    assert code_of(answer) == (429, "rejected_too_often")
    found = await entries(front, "&action=refused")
    assert shown(found, "caller", "user", "code") == [("crm", "alice", "rejected_too_often")]


async def test_names_that_strangers_try_are_not_written_down(front: Front) -> None:
    for number in range(20):
        await front.bare("GET", f"/tokens/guess-{number}", bearer(f"vtb_{number}"))
    assert shown(await entries(front, "&action=refused"), "caller", "user", "times") == [("-", None, 20)]


async def test_an_event_waits_while_the_database_is_away_and_is_found_when_it_is_back(front: Front) -> None:
    async with front.database_away():
        assert code_of(await front.bare("GET", "/audit", bearer(ADMIN_KEY))) == (503, "store_unavailable")
        await front.bare("GET", "/me", bearer(ADMIN_KEY + "x"))
        assert code_of(await front.bare("GET", "/grants", bearer(ADMIN_KEY)))[0] == 503
        front.container.services.audit.refused("crm", "not_allowed", "alice")
    assert ("crm", "alice") in shown(await entries(front, "&action=refused"), "caller", "user")


@pytest.mark.parametrize("role", ["caller=crm", "user=al%C3%AF%20ce%2B", "application=sales", "action=imported"])
async def test_each_filter_shows_what_it_names(front: Front, role: str) -> None:
    await front.register("sales", GrantType.AUTHORIZATION_CODE)
    await front.client.put(f"/grants/{quote('alï ce+')}?application=sales", json={"refresh_token": "r"})
    await front.bare("POST", "/callers", bearer(ADMIN_KEY), json={"name": "b", "scopes": ["admin"]})
    found = await entries(front, f"&{role}")
    assert shown(found, "action", "user") == [("imported", "alï ce+")]


async def test_instants_filter_from_the_first_inclusive_to_the_second_exclusive(front: Front) -> None:
    began = front.clock.now()
    for user in ("a", "b", "c"):
        await front.client.put(f"/grants/{user}", json={"refresh_token": user})
        front.clock.advance(10)

    async def between(since: timedelta, until: timedelta) -> list[tuple[Any, ...]]:
        query = f"&since={quote((began + since).isoformat())}&until={quote((began + until).isoformat())}"
        return shown(await entries(front, f"{query}&action=imported"), "user")

    ten = timedelta(seconds=10)
    assert await between(0 * ten, 2 * ten) == [("a",), ("b",)]
    assert await between(1 * ten, 3 * ten) == [("b",), ("c",)]
    naive = quote((began + ten).replace(tzinfo=None).isoformat())
    assert shown(await entries(front, f"&since={naive}&action=imported"), "user") == [("b",), ("c",)]
    far = "&since=0001-01-01T00:00:00%2B14:00&until=9999-12-31T23:59:59-14:00&action=imported"
    assert len(await entries(front, far)) == 3


async def test_the_newest_come_first_and_paging_is_stable_while_entries_arrive(front: Front) -> None:
    for number in range(10):
        await front.client.put(f"/grants/user-{number}", json={"refresh_token": str(number)})
        front.clock.advance(0.001 if number % 2 else 0)
    pages: list[str] = []
    cursor = ""
    while True:
        answer = (await front.bare("GET", f"/audit?action=imported&limit=3{cursor}", bearer(ADMIN_KEY))).json()
        pages += [item["user"] for item in answer["items"]]
        await front.client.put(f"/grants/late-{len(pages)}", json={"refresh_token": f"late {len(pages)}"})
        if answer["next_cursor"] is None:
            break
        cursor = f"&cursor={answer['next_cursor']}"
    assert len(pages) == len(set(pages)) == 10
    instants = [pages.index(f"user-{number}") // 2 for number in range(9, -1, -1)]
    assert instants == sorted(instants)


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        ["2026-01-01T00:00:00+00:00"],
        ["yesterday", "i"],
        ["2026-01-01T00:00:00", "i"],
        ["2026-01-01T00:00:00+00:00", "\x00"],
        ["2026-01-01T00:00:00+00:00", "\ud800"],
        ["2026-01-01T00:00:00+00:00", 1],
    ],
    ids=repr,
)
async def test_a_cursor_that_is_not_ours_is_refused(front: Front, cursor: object) -> None:
    encoded = cursor if isinstance(cursor, str) else base64.urlsafe_b64encode(json.dumps(cursor).encode()).decode()
    answer = await front.bare("GET", f"/audit?cursor={encoded}", bearer(ADMIN_KEY))
    assert code_of(answer) == (422, "invalid_request")


@pytest.mark.parametrize("query", ["action=flown", "since=soon", "limit=0", "limit=501", "caller=", "user=%00", "x=1"])
async def test_a_malformed_question_is_refused_before_the_scope_is_looked_at(front: Front, query: str) -> None:
    for headers in (bearer(ADMIN_KEY), None):
        answer = await (
            front.bare("GET", f"/audit?{query}", headers) if headers else front.client.get(f"/audit?{query}")
        )
        assert code_of(answer) == (422, "invalid_request")


async def test_the_audit_is_for_operators_only(front: Front) -> None:
    everything_else = await front.admit("most", Scope.TOKENS, Scope.GRANTS, users=("*", "@company"))
    assert code_of(await front.bare("GET", "/audit", everything_else)) == (403, "not_allowed")
    assert code_of(await front.bare("GET", "/audit")) == (401, "invalid_api_key")
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert code_of(await front.bare(method, "/audit", bearer(ADMIN_KEY))) == (405, "method_not_allowed")


async def test_the_end_of_a_connect_tells_in_which_request_it_came(front: Front) -> None:
    arrival = await connect(front.broker, "alice")
    [connected] = await entries(front, "&action=connected")
    assert connected["request_id"] == arrival.headers["X-Request-ID"]


async def test_a_login_that_another_browser_tried_to_finish_leaves_an_entry(front: Front) -> None:
    async with browser_of(front.broker) as browser, browser_of(front.broker) as other:
        callback = await browser.decide("alice", await browser.depart(await invite(front.broker, "alice")))
        assert (await other.open(callback)).status_code == 400
    found = await entries(front, "&action=connect_failed")
    assert shown(found, "user", "code") == [("alice", "invalid_authorization_request")]


async def test_who_fails_with_one_link_again_and_again_fills_no_disk(front: Front) -> None:
    link = await invite(front.broker, "alice")
    for cookies in [True, False] * 5:
        left = await front.bare("POST", httpx.URL(link).path)
        state = httpx.URL(left.headers["Location"]).params["state"]
        cookie = {"Cookie": left.headers["Set-Cookie"].partition(";")[0]} if cookies else {"Cookie": ""}
        arrived = await front.bare("GET", f"/oauth/callback?state={state}&error=access_denied", cookie)
        assert arrived.status_code == (403 if cookies else 400)
    found = await entries(front, "&action=connect_failed")
    assert sorted(shown(found, "caller", "user", "code", "times")) == [
        ("crm", "alice", "authorization_denied", 5),
        ("crm", "alice", "invalid_authorization_request", 5),
    ]
