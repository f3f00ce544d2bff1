"""Problems (RFC 9457): the tree of errors, the table of problems, their pages, and how they look on the wire."""

import asyncio
import html
import json
import re
import socket
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from service.api.application import build_api
from service.api.deps import WrongFields
from service.api.problems import BY_CODE, PROBLEMS, problem_example, problem_response
from service.core import errors
from service.core.broker import TokenBroker
from service.core.model import GrantId, Reason
from tests.api.front import Front, code_of

MEMBERS = {"type", "title", "status", "code", "detail", "request_id"}
CONTRACT = {
    "invalid_api_key": 401,
    "not_allowed": 403,
    "grant_not_found": 404,
    "application_not_found": 404,
    "not_found": 404,
    "method_not_allowed": 405,
    "reauthorization_required": 409,
    "conflict": 409,
    "payload_too_large": 413,
    "unsupported_media_type": 415,
    "invalid_request": 422,
    "rejected_too_often": 429,
    "rate_limited": 429,
    "client_rejected": 502,
    "invalid_upstream_answer": 502,
    "upstream_unavailable": 503,
    "renewal_in_progress": 503,
    "store_unavailable": 503,
    "key_unavailable": 503,
    "overloaded": 503,
    "internal_error": 500,
    "invalid_authorization_request": 400,
    "authorization_expired": 410,
    "authorization_denied": 403,
}
# Told to people at a browser, or to whoever asks for what no call is; documented operations never answer with these.
OFF_THE_CALLS = {
    "method_not_allowed",
    "invalid_authorization_request",
    "authorization_expired",
    "authorization_denied",
}


def leaves(branch: type[errors.BrokerError] = errors.BrokerError) -> Iterator[type[errors.BrokerError]]:
    """What can really happen: the ends of the tree, as the core has it."""
    below = [found for found in branch.__subclasses__() if found.__module__ == errors.__name__]
    if not below:
        yield branch
    for found in below:
        yield from leaves(found)


def example(leaf: type[errors.BrokerError], **options: Any) -> errors.BrokerError:
    match leaf.__name__:
        case "GrantNotFound":
            return errors.GrantNotFound(GrantId("default", "alice"))
        case "ReauthorizationRequired":
            return errors.ReauthorizationRequired(GrantId("default", "alice"), Reason.REFUSED)
        case "KeyUnavailable" | "Overloaded":
            found: errors.BrokerError = getattr(errors, leaf.__name__)()
            return found
        case _:
            return leaf("A sentence.", **options)


def test_every_error_has_one_row_with_its_status_and_no_row_is_left_over() -> None:
    assert set(PROBLEMS) == set(leaves())
    assert {leaf.code: PROBLEMS[leaf].status for leaf in leaves()} == CONTRACT
    assert len(BY_CODE) == len(PROBLEMS)


def test_titles_are_told_apart_and_every_row_explains_itself() -> None:
    assert len({problem.title for problem in PROBLEMS.values()}) == len(PROBLEMS)
    assert [problem.title for problem in PROBLEMS.values() if not problem.explanation.endswith(".")] == []


def test_the_drawn_tree_is_the_tree() -> None:
    drawn = re.findall(r"[├└]── (\w+)", errors.__doc__ or "")
    branches = {leaf.__mro__[1].__name__ for leaf in leaves()}
    assert sorted(drawn) == sorted({leaf.__name__ for leaf in leaves()} | branches)


async def test_every_code_has_a_page_that_explains_it(front: Front) -> None:
    for code, problem in BY_CODE.items():
        answer = await front.bare("GET", f"/problems/{code}")
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/html")
        for told in (problem.title, code, str(problem.status)):
            assert told in html.unescape(answer.text)
        assert "`" not in answer.text, "what is code is shown as code"
        assert answer.text.count("<code>") == problem.explanation.count("`") / 2
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert code_of(await front.bare("GET", "/problems/nonsense")) == (404, "not_found")


def test_every_error_that_a_call_can_raise_is_documented_with_its_status() -> None:
    told: dict[str, set[int]] = {}
    for path in build_api("all").openapi()["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                for code in re.findall(r"`([a-z_]+)`: ", response.get("description", "")):
                    told.setdefault(code, set()).add(int(status))
                    assert "application/problem+json" in response["content"]
    assert told == {code: {status} for code, status in CONTRACT.items() if code not in OFF_THE_CALLS}


def test_every_problem_has_exactly_the_documented_members() -> None:
    extras = {
        "reauthorization_required": {"reason", "connect"},
        "grant_not_found": {"connect"},
    }
    for leaf in leaves():
        error = example(leaf)
        answer = problem_response(error, "the-id")
        assert answer.media_type == "application/problem+json"
        assert answer.status_code == CONTRACT[leaf.code]
        body = json.loads(bytes(answer.body))
        assert set(body) == MEMBERS | extras.get(leaf.code, set()), leaf
        assert (body["type"], body["code"]) == (f"/problems/{leaf.code}", leaf.code)
        assert (body["status"], body["request_id"]) == (CONTRACT[leaf.code], "the-id")
        assert (body["title"], body["detail"]) == (PROBLEMS[leaf].title, error.detail)
        assert answer.headers["Cache-Control"] == "no-store"


def test_every_429_and_503_says_when_to_come_back_and_never_too_early() -> None:
    for leaf in leaves():
        headers = problem_response(example(leaf), "x").headers
        if CONTRACT[leaf.code] in {429, 503}:
            assert int(headers["Retry-After"]) >= 1, leaf
        else:
            assert "Retry-After" not in headers, leaf
    for wait, told in [(0.001, "1"), (1.0, "1"), (1.001, "2"), (59.5, "60"), (-3.0, "1")]:
        error = errors.RejectedTooOften("Soon.", retry_after=timedelta(seconds=wait))
        assert problem_response(error, "x").headers["Retry-After"] == told


def test_only_401_challenges() -> None:
    challenged = {leaf.code for leaf in leaves() if "WWW-Authenticate" in problem_response(example(leaf), "x").headers}
    assert challenged == {"invalid_api_key"}


def test_malformed_fields_are_listed_under_errors() -> None:
    error = WrongFields([{"field": "limit", "message": "too small"}])
    assert error.code == "invalid_request"
    assert error.fields == [{"field": "limit", "message": "too small"}]


async def test_wrong_parameters_are_listed_by_place_without_their_values(front: Front) -> None:
    answer = await front.client.get("/grants?limit=geheim&state=verborgen&nope=1")
    assert set(answer.json()) == MEMBERS | {"errors"}
    assert {error["field"] for error in answer.json()["errors"]} == {"query.limit", "query.state", "query.nope"}


async def test_the_example_of_a_wrong_parameter_is_what_is_answered_to_it(front: Front) -> None:
    answer = await front.client.get("/tokens/alice?min_ttl=soon")
    assert answer.json()["errors"] == problem_example("invalid_request")["errors"]


async def test_a_thousand_mistakes_make_no_long_answer(front: Front) -> None:
    many = {f"strange-{number}": number for number in range(2000)}
    for answer in (
        await front.client.get("/grants", params=dict.fromkeys(list(many)[:1000], "x")),
        await front.client.put("/grants/alice", json=many),
        await front.client.put("/grants/alice", json={"x" * 60_000: 1}),
    ):
        assert code_of(answer) == (422, "invalid_request")
        assert 0 < len(answer.json()["errors"]) <= 20
        assert len(answer.content) < 5_000
    assert "geheim" not in answer.text
    assert "verborgen" not in answer.text


METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
ALLOWED = {
    "/tokens/alice": {"GET"},
    "/tokens/alice/rejected": {"POST"},
    "/grants": {"GET"},
    "/grants/alice": {"GET", "PUT", "DELETE"},
    "/grants/alice/connect": {"POST"},
    "/me": {"GET"},
    "/applications": {"GET", "POST"},
    "/applications/billing": {"GET", "PATCH", "DELETE"},
    "/applications/billing/default": {"PUT"},
    "/callers": {"GET", "POST"},
    "/callers/billing": {"GET", "PATCH", "DELETE"},
    "/callers/billing/keys": {"GET", "POST"},
    "/callers/billing/keys/5f0c2a91": {"DELETE"},
    "/healthz": {"GET"},
    "/readyz": {"GET"},
    "/metrics": {"GET"},
    "/problems/conflict": {"GET"},
    "/connect/ticket": {"GET", "POST"},
    "/connect/done": {"GET", "POST"},
    "/oauth/callback": {"GET"},
}


async def test_another_method_is_405_and_told_all_that_are_allowed(front: Front) -> None:
    for path, allowed in ALLOWED.items():
        for method in METHODS:
            answer = await front.client.request(method, path)
            if method in allowed:
                assert answer.status_code != 405, (method, path)
                continue
            assert answer.status_code == 405, (method, path)
            assert set(answer.headers["Allow"].split(", ")) == allowed, (method, path)
            if method != "HEAD":
                assert code_of(answer) == (405, "method_not_allowed")
                assert set(answer.json()) == MEMBERS


async def test_what_does_not_exist_is_a_404_problem(front: Front) -> None:
    for path in ("/", "/nowhere", "/tokens", "/redoc", "/admin", "/connect", "/oauth", "/favicon.ico", "/%ff", "/%00"):
        for method in ("GET", "POST"):
            answer = await front.bare(method, path)
            assert code_of(answer) == (404, "not_found"), path
            assert set(answer.json()) == MEMBERS


async def test_a_crash_is_a_problem_with_the_request_id_and_none_of_its_detail(
    front: Front, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def crash(*_: object) -> object:
        raise RuntimeError("geheim")

    monkeypatch.setattr(TokenBroker, "get", crash)
    answer = await front.client.get("/tokens/alice", headers={"X-Request-ID": "crash-1"})
    assert code_of(answer) == (500, "internal_error")
    assert set(answer.json()) == MEMBERS
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"] == "crash-1"
    assert "geheim" not in answer.text
    assert "Retry-After" not in answer.headers
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert (record.name, record.message) == ("service.api.middleware", "a request crashed")
    assert record.exc_info is not None
    metrics = (await front.client.get("/metrics")).text
    assert 'token_broker_token_requests_total{outcome="internal_error",source="none"} 1.0' in metrics
    monkeypatch.undo()
    assert (await front.client.get("/healthz")).status_code == 200


async def test_an_unknown_key_id_is_503_marks_nothing_and_readiness_fails(front: Front) -> None:
    await front.hold("alice")
    assert (await front.client.get("/readyz")).json()["status"] == "ready"
    async with front.container.database.write() as connection:
        ((sealed,),) = await connection.exec_driver_sql("SELECT access_sealed FROM grants")
        assert sealed[2:6] == b"test"
        strange = sealed[:2] + b"gone" + sealed[6:]
        await connection.exec_driver_sql("UPDATE grants SET access_sealed = ?", (strange,))
    answer = await front.client.get("/tokens/alice")
    assert code_of(answer) == (503, "key_unavailable")
    assert int(answer.headers["Retry-After"]) == 30
    assert (await front.client.get("/grants/alice")).json()["state"] == "connected"
    front.clock.advance(1)
    ready = await front.client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (503, "not_ready")
    assert ready.json()["parts"]["keys"]["status"] == "not_ready"
    assert ready.json()["parts"]["database"]["status"] == "ok"
    [recheck] = [duty.work for duty in front.container._duties if "missing key" in duty.what]
    await recheck()
    front.clock.advance(1)
    assert (await front.client.get("/readyz")).status_code == 503
    async with front.container.database.write() as connection:
        await connection.exec_driver_sql("UPDATE grants SET access_sealed = ?", (sealed,))
    await recheck()
    front.clock.advance(1)
    assert (await front.client.get("/readyz")).json()["status"] == "ready"


async def test_a_lost_database_is_degraded_and_still_ready(front: Front) -> None:
    async with front.database_away():
        ready = await front.client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    assert ready.json()["parts"]["database"]["status"] == "degraded"
    assert set(ready.json()) == {"status", "parts"}


async def test_who_hangs_up_in_the_middle_of_a_body_leaves_no_crash_behind(
    front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    url = httpx.URL(front.broker.base_url)
    key = front.client.headers["Authorization"]
    head = f"PUT /grants/alice HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((url.host, url.port or 0)) as half:
        half.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        for _ in range(50):
            await asyncio.sleep(0)
            await front.client.get("/healthz")
    for _ in range(5):
        assert (await front.client.get("/healthz")).status_code == 200
    assert [record for record in caplog.records if record.levelname in {"ERROR", "CRITICAL"}] == []
    assert code_of(await front.client.get("/grants/alice")) == (404, "grant_not_found")
