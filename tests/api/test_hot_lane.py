"""The hot lane answers what the route would have answered, and nobody whom the route would refuse."""

import asyncio
import re
from datetime import timedelta

from service.api.hot_lane import pass_key
from service.core.lane import LONGEST_ADDRESS
from service.core.model import Scope
from tests.api.front import Front, code_of
from tests.support.brokers import KEY


async def test_a_key_that_ends_while_its_request_waits_leaves_no_pass_behind(front: Front) -> None:
    await front.hold("alice")
    leaver = await front.admit("leaver", Scope.TOKENS)
    assert (await front.bare("GET", "/me", leaver)).status_code == 200
    await front.versature.switch(fault="delay", delay_seconds=0.3, fault_times=1)
    front.clock.advance(timedelta(minutes=59, seconds=58).total_seconds())
    waiting = asyncio.create_task(front.bare("GET", "/tokens/alice", leaver))
    async with asyncio.timeout(10):
        while not await front.versature.redemptions("alice"):  # noqa: ASYNC110 - there is only HTTP to watch it by
            await asyncio.sleep(0.01)
    await front.container.services.administration.remove_caller("leaver")
    assert (await waiting).status_code == 200, "it was asked for in time"
    assert code_of(await front.bare("GET", "/tokens/alice", leaver)) == (401, "invalid_api_key")


async def test_a_request_keeps_its_id_on_the_lane_too(front: Front) -> None:
    await front.hold("alice")
    found = [await front.client.get("/tokens/alice", headers={"X-Request-ID": "mine"}) for _ in range(3)]
    assert [answer.headers.get_list("X-Request-ID") for answer in found] == [["mine"]] * 3
    assert found[-1].headers["Cache-Status"].endswith("detail=local")
    for bad in ("a b", "x" * 129):
        answer = await front.client.get("/tokens/alice", headers={"X-Request-ID": bad})
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-ID"])


async def test_no_address_is_so_long_that_remembering_many_of_it_fills_the_memory(front: Front) -> None:
    await front.hold("alice")
    for query, is_remembered in (("min_ttl=5", True), ("&".join(["min_ttl=5"] * LONGEST_ADDRESS), False)):
        assert (await front.client.get(f"/tokens/alice?{query}")).status_code == 200
        scope = {"raw_path": b"/tokens/alice", "query_string": query.encode()}
        found = front.container.core.lane.take(pass_key(f"Bearer {KEY}".encode(), scope))
        assert (found is not None) == is_remembered


async def test_the_demo_key_never_takes_the_lane_where_nobody_asks_where_it_comes_from(front: Front) -> None:
    await front.hold("alice")
    demo = await front.admit("demo", Scope.TOKENS, key="vtb_demo")
    for _ in range(3):
        assert (await front.bare("GET", "/tokens/alice", demo)).status_code == 200
    behind_a_proxy = {**demo, "X-Forwarded-For": "10.1.2.3"}
    assert code_of(await front.bare("GET", "/tokens/alice", behind_a_proxy)) == (401, "invalid_api_key")
