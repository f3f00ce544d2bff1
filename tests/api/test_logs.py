"""One line per request, with what is needed to follow it and nothing that belongs to nobody else."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.logs import configure_logging
from tests.api.front import Front, front_in
from tests.contract.wire import Client, listening

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"

USERS_ACTIONS = {"imported", "token", "revoked"}


class Lines:
    """What the process has written to its log."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    def about(self, event: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.text.splitlines()]
        return [line for line in found if line["event"] == event]


@pytest.fixture
def lines() -> Iterator[Lines]:
    root, found = logging.getLogger(), Lines()
    before = root.handlers[:], root.level
    configure_logging("info", "json")
    (handler,) = root.handlers
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(found.stream)
    yield found
    root.handlers[:], level = before
    root.setLevel(level)


def test_what_the_server_says_of_itself_is_said_once_and_without_colours(lines: Lines) -> None:
    coloured = {"color_message": "Started server process [\033[36m%d\033[0m]"}
    logging.getLogger("uvicorn.error").info("Started server process [%d]", 7, extra=coloured)
    [line] = lines.about("Started server process [7]")
    assert set(line) == {"event", "level", "logger", "timestamp"}


async def test_a_request_is_one_line_with_all_that_is_needed_to_follow_it(front: Front, lines: Lines) -> None:
    await front.hold("alice")
    await front.client.get("/tokens/alice", headers={"X-Request-ID": "one", "traceparent": TRACEPARENT})
    await front.client.get("/tokens/nobody?min_ttl=7", headers={"X-Request-ID": "two"})
    good, bad = lines.about("request")[-2:]
    told = ("request_id", "caller", "method", "route", "status", "outcome", "source")
    assert [good[name] for name in told] == ["one", "crm", "GET", "/tokens/{user}", 200, "served", "database"]
    assert [bad[name] for name in told] == ["two", "crm", "GET", "/tokens/{user}", 404, "grant_not_found", None]
    assert (good["trace_id"], len(good["span_id"])) == (TRACE, 16)
    assert "trace_id" not in bad
    assert 0 < good["seconds"] < 30
    assert good["user"] != bad["user"]
    assert "min_ttl" not in lines.text


async def test_what_a_caller_gets_again_from_memory_is_not_logged_unless_it_is_traced(
    front: Front, lines: Lines
) -> None:
    await front.hold("alice")
    await front.client.get("/tokens/alice", headers={"X-Request-ID": "judged"})
    for _ in range(3):
        answer = await front.client.get("/tokens/alice", headers={"X-Request-ID": "again"})
        assert "detail=local" in answer.headers["Cache-Status"]
    await front.client.get("/tokens/alice", headers={"X-Request-ID": "traced", "traceparent": TRACEPARENT})
    of_alice = [line for line in lines.about("request") if line["route"] == "/tokens/{user}"]
    assert [(line["request_id"], line["source"]) for line in of_alice] == [("judged", "database"), ("traced", "local")]


@pytest.mark.parametrize(("setting", "shown"), [("hash", "u-"), ("none", None), ("plain", "alice")])
async def test_users_are_named_as_the_setting_says_also_by_the_audit(
    tmp_path: Path, lines: Lines, setting: str, shown: str | None
) -> None:
    async with front_in(tmp_path, BROKER_LOG_USERS=setting) as front:
        await front.hold("alice")
        await front.client.get("/tokens/alice")
        front.clock.advance(60)
        await front.container.services.audit.flush()
        await front.client.delete("/grants/alice")
    told = [line for line in lines.about("audit") if line["action"] in USERS_ACTIONS]
    assert {line["action"] for line in told} == USERS_ACTIONS
    told += [line for line in lines.about("request") if "{user}" in line["route"]]
    if shown is None:
        assert {line.get("user") for line in told} == {None}
    else:
        (name,) = {line["user"] for line in told}
        assert name.startswith(shown)
    assert ("alice" in lines.text) == (setting == "plain")


async def test_what_a_flight_logs_belongs_to_the_request_that_started_it(front: Front, lines: Lines) -> None:
    await front.hold("alice")
    front.clock.advance(3600)
    await front.versature.switch(fault="drop_before", fault_times=1)
    await front.client.get("/tokens/alice", headers={"X-Request-ID": "one", "traceparent": TRACEPARENT})
    (failed,) = lines.about("a renewal failed")
    assert (failed["request_id"], failed["trace_id"], failed["outcome"]) == ("one", TRACE, "ambiguous")


async def test_the_provider_hears_of_the_trace_and_of_nothing_else_of_the_callers_context(tmp_path: Path) -> None:
    async def answer(client: Client) -> None:
        await client.answer()

    async with listening(answer) as wire, front_in(tmp_path, VERSATURE_TOKEN_URL=f"{wire.base_url}/token") as front:
        for user in ("alice", "bob"):
            assert (await front.client.put(f"/grants/{user}", json={"refresh_token": user})).status_code == 201
        context = {"traceparent": TRACEPARENT, "tracestate": "vendor=secret", "baggage": "user=alice"}
        assert (await front.client.get("/tokens/alice", headers=context)).status_code == 200
        assert (await front.client.get("/tokens/bob", headers={"traceparent": "nonsense"})).status_code == 200
        of_alice, of_bob = (request.headers for request in wire.requests)
    assert of_alice["traceparent"].startswith(f"00-{TRACE}-")
    assert of_alice["traceparent"] != TRACEPARENT
    assert "traceparent" not in of_bob
    assert {"tracestate", "baggage", "x-request-id"}.isdisjoint(of_alice | of_bob)
