"""/sandbox/: switches, log, minted grants, clock."""

import hashlib

import pytest

from sandbox.calls import Call, CallLog
from sandbox.switches import Switches
from tests.sandbox.visitor import Visitor, refused_with


async def test_the_switches_are_shown_and_turned_by_name(visitor: Visitor) -> None:
    before = (await visitor.http.get("/sandbox/switches")).json()
    assert before == Switches().model_dump(mode="json")
    answer = await visitor.http.patch("/sandbox/switches", json={"rotation": "strict", "omit": ["scope"]})
    assert answer.json() == {**before, "rotation": "strict", "omit": ["scope"]}
    assert (await visitor.http.get("/sandbox/switches")).json() == answer.json()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"nonsense": 1}, "nonsense"),
        ({"rotation": "maybe"}, "rotation"),
        ({"token_lifetime_seconds": 0}, "token_lifetime_seconds"),
        ({"fault_times": 0}, "fault_times"),
        ({"delay_seconds": -1}, "delay_seconds"),
        ({"omit": ["access_token"]}, "omit"),
        ({"fault_users": [""]}, "fault_users"),
        ([], "body"),
    ],
)
async def test_a_bad_change_names_its_switch_and_changes_nothing(visitor: Visitor, change: object, named: str) -> None:
    if isinstance(change, dict):
        change = {"delay_seconds": 1, **change}
    answer = await visitor.http.patch("/sandbox/switches", json=change)
    assert answer.status_code == 422
    assert list(answer.json()["errors"]) == [named]
    assert (await visitor.http.get("/sandbox/switches")).json() == Switches().model_dump(mode="json")


async def test_the_log_tells_calls_apart_and_holds_no_secret(visitor: Visitor) -> None:
    token = (await visitor.connect())["refresh_token"]
    await visitor.refresh(token)
    items = await visitor.calls()
    assert [(item["endpoint"], item["grant_type"], item["outcome"]) for item in items] == [
        ("authorize", None, "code_issued"),
        ("token", "authorization_code", "issued"),
        ("token", "refresh_token", "issued"),
    ]
    assert [item["seq"] for item in items] == [1, 2, 3]
    assert items[2] == {
        "seq": 3,
        "at": 1_000_000.25,
        "endpoint": "token",
        "outcome": "issued",
        "grant_type": "refresh_token",
        "client_id": "sandbox-users",
        "user": "alice",
        "fault": None,
        "vendor_id_present": False,
        "pkce": False,
        "refresh_token_digest": hashlib.sha256(token.encode()).hexdigest()[:12],
    }


async def test_two_redemptions_of_one_refresh_token_show_the_same_digest(visitor: Visitor) -> None:
    token = (await visitor.connect())["refresh_token"]
    await visitor.refresh(token)
    await visitor.refresh(token)
    first, second = await visitor.calls(grant_type="refresh_token")
    assert first["refresh_token_digest"] == second["refresh_token_digest"]
    assert [first["outcome"], second["outcome"]] == ["issued", "invalid_grant"]


async def test_the_log_is_filtered_and_counted(visitor: Visitor) -> None:
    await visitor.connect("alice")
    await visitor.connect("bob")
    await visitor.refresh("unknown")
    filtered = (await visitor.http.get("/sandbox/calls", params={"endpoint": "token"})).json()
    assert (filtered["count"], filtered["outcomes"]) == (3, {"issued": 2, "invalid_grant": 1})
    bob = await visitor.calls(grant_type="authorization_code", user="bob")
    assert [item["user"] for item in bob] == ["bob"]
    assert (await visitor.http.get("/sandbox/calls", params={"usr": "bob"})).status_code == 422


async def test_the_log_can_be_emptied_and_goes_on_counting(visitor: Visitor) -> None:
    await visitor.company()
    assert (await visitor.http.delete("/sandbox/calls")).status_code == 204
    await visitor.company()
    assert [item["seq"] for item in await visitor.calls()] == [2]


def test_the_log_forgets_its_oldest_calls_rather_than_grow_for_ever() -> None:
    log = CallLog(lambda: 0.0, remembered=2)
    for outcome in ("first", "second", "third"):
        log.add(Call(endpoint="token", outcome=outcome))
    assert [item["outcome"] for item in log.matching({})] == ["second", "third"]


async def test_a_minted_grant_works_like_one_from_a_login_whatever_answers_leave_out(visitor: Visitor) -> None:
    await visitor.switch(omit=["refresh_token", "scope"])
    answer = await visitor.http.post("/sandbox/grants", json={"user": "user 1"})
    assert answer.status_code == 201
    grant = answer.json()
    assert (await visitor.whoami(grant["access_token"])).json()["user"] == grant["user"] == "user 1"
    assert grant["scope"] == "Office Manager"
    assert (await visitor.refresh(grant["refresh_token"])).status_code == 200


async def test_a_thousand_grants_are_minted_at_once(visitor: Visitor) -> None:
    users = [f"user-{number}" for number in range(1000)]
    items = (await visitor.http.post("/sandbox/grants", json={"users": users})).json()["items"]
    assert [item["user"] for item in items] == users
    assert len({item["refresh_token"] for item in items}) == 1000
    assert (await visitor.refresh(items[999]["refresh_token"])).status_code == 200


@pytest.mark.parametrize(
    ("path", "order"),
    [
        ("grants", {}),
        ("grants", {"user": ""}),
        ("grants", {"user": "a", "users": ["b"]}),
        ("grants", {"user": "a", "client_id": "unknown"}),
        ("grants", {"name": "a"}),
        ("revoke_user", {}),
        ("clock", {"advance_seconds": -1}),
        ("clock", {"advance_seconds": "soon"}),
    ],
)
async def test_an_order_that_makes_no_sense_is_answered_with_reasons(
    visitor: Visitor, path: str, order: dict[str, object]
) -> None:
    answer = await visitor.http.post(f"/sandbox/{path}", json=order)
    assert answer.status_code == 422
    assert answer.json()["errors"]


async def test_the_clock_is_moved_on_over_http(visitor: Visitor) -> None:
    token = (await visitor.connect())["refresh_token"]
    answer = await visitor.http.post("/sandbox/clock", json={"advance_seconds": 90 * 86400})
    assert answer.json() == {"now": 1_000_000.25 + 90 * 86400}
    assert refused_with(await visitor.refresh(token), "invalid_grant")
