"""Every fault, as a client meets it over TCP, and whether the server acted before it."""

import json
from typing import get_args

import httpx
import pytest

from sandbox.app import create_sandbox
from sandbox.faults import FAULTS
from sandbox.switches import FaultName, Switches
from tests.sandbox.visitor import COMPANY_SECRET, Visitor, refused_with


def test_every_fault_that_can_be_switched_exists() -> None:
    assert set(FAULTS) == set(get_args(FaultName))


async def _attempt(visitor: Visitor, token: str) -> httpx.Response | httpx.TransportError:
    try:
        return await visitor.refresh(token)
    except httpx.TransportError as error:
        return error


@pytest.mark.parametrize("fault", get_args(FaultName))
async def test_a_refresh_token_is_spent_exactly_when_the_fault_says_that_the_server_acts(
    visitor: Visitor, fault: FaultName
) -> None:
    token = (await visitor.connect())["refresh_token"]
    await visitor.switch(fault=fault, fault_times=1, delay_seconds=0)
    await _attempt(visitor, token)
    noted = await visitor.last_call()
    assert noted["fault"] == (None if fault == "none" else fault)
    assert noted["outcome"] == ("issued" if FAULTS[fault].acts else "not_acted")
    assert noted["user"] == "alice"
    retry = await visitor.refresh(token)
    assert retry.status_code == (400 if FAULTS[fault].acts else 200)


@pytest.mark.parametrize("fault", ["delay", "drip"])
async def test_a_slow_answer_is_a_whole_one_for_who_waits(visitor: Visitor, fault: str) -> None:
    await visitor.switch(fault=fault, delay_seconds=0.0001)
    assert await visitor.works((await visitor.company()).json()["access_token"])


async def test_a_delayed_answer_outlasts_a_client_without_patience_though_the_server_acted(visitor: Visitor) -> None:
    token = (await visitor.connect())["refresh_token"]
    await visitor.switch(fault="delay", delay_seconds=3600)
    visitor.http.timeout = httpx.Timeout(0.05)
    with pytest.raises(httpx.ReadTimeout):
        await visitor.refresh(token)
    visitor.http.timeout = httpx.Timeout(5)
    assert (await visitor.last_call())["outcome"] == "issued"


async def test_a_dripping_body_comes_byte_by_byte_behind_its_head(visitor: Visitor) -> None:
    await visitor.switch(fault="drip", delay_seconds=0.001)
    form = {"grant_type": "client_credentials", **COMPANY_SECRET}
    async with visitor.http.stream("POST", "/api/oauth/token/", data=form) as answer:
        pieces = [piece async for piece in answer.aiter_raw()]
    assert len(pieces) > 10  # TCP may join a few
    assert "access_token" in json.loads(b"".join(pieces))
    assert int(answer.headers["content-length"]) == len(b"".join(pieces))


@pytest.mark.parametrize("fault", ["drop_before", "drop_after"])
async def test_a_dropped_connection_is_reset_without_an_answer(visitor: Visitor, fault: str) -> None:
    await visitor.switch(fault=fault)
    with pytest.raises(httpx.ReadError):
        await visitor.company()


async def test_rate_limiting_comes_with_and_without_retry_after(visitor: Visitor) -> None:
    await visitor.switch(fault="rate_limited")
    answer = await visitor.company()
    assert (answer.status_code, answer.headers.get("retry-after")) == (429, None)
    await visitor.switch(fault="rate_limited_retry_after", retry_after_seconds=11)
    answer = await visitor.company()
    assert (answer.status_code, answer.headers.get("retry-after")) == (429, "11")


@pytest.mark.parametrize("fault", ["server_error", "server_error_after"])
async def test_a_server_error_is_a_500_with_a_page(visitor: Visitor, fault: str) -> None:
    await visitor.switch(fault=fault)
    answer = await visitor.company()
    assert answer.status_code == 500
    assert answer.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize(("fault", "status"), [("invalid_client", 401), ("invalid_grant", 400)])
async def test_a_refusal_can_be_a_lie(visitor: Visitor, fault: str, status: int) -> None:
    await visitor.switch(fault=fault)
    assert refused_with(await visitor.company(), fault, status)


async def test_a_refusal_without_code_is_plain_text(visitor: Visitor) -> None:
    await visitor.switch(fault="refused_without_code")
    answer = await visitor.company()
    assert (answer.status_code, answer.text) == (400, "Bad Request")


async def test_html_comes_with_200(visitor: Visitor) -> None:
    await visitor.switch(fault="html")
    answer = await visitor.company()
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")


async def test_a_truncated_answer_announces_more_than_it_sends(visitor: Visitor) -> None:
    await visitor.switch(fault="truncated")
    form = {"grant_type": "client_credentials", **COMPANY_SECRET}
    async with visitor.http.stream("POST", "/api/oauth/token/", data=form) as answer:
        pieces = answer.aiter_raw()
        assert (await anext(pieces)).startswith(b'{"access_token":')
        with pytest.raises(httpx.RemoteProtocolError, match="without sending complete"):
            [piece async for piece in pieces]
    assert answer.status_code == 200


async def test_an_unreadable_answer_is_complete_but_no_json(visitor: Visitor) -> None:
    await visitor.switch(fault="unreadable")
    answer = await visitor.company()
    assert answer.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        answer.json()


async def test_an_empty_answer_is_a_200_without_body(visitor: Visitor) -> None:
    await visitor.switch(fault="empty")
    answer = await visitor.company()
    assert (answer.status_code, answer.content) == (200, b"")


async def test_a_huge_answer_is_several_mebibytes_of_json_that_nothing_announces(visitor: Visitor) -> None:
    await visitor.switch(fault="huge")
    answer = await visitor.company()
    assert "content-length" not in answer.headers
    assert len(answer.json()["padding"]) == 8 * 1024 * 1024


async def test_who_follows_the_redirect_is_seen_twice(visitor: Visitor) -> None:
    await visitor.switch(fault="redirect", fault_times=1)
    assert (await visitor.company()).status_code == 307
    assert len(await visitor.calls(endpoint="token")) == 1
    await visitor.switch(fault="redirect", fault_times=1)
    visitor.http.follow_redirects = True
    assert (await visitor.company()).status_code == 200
    assert len(await visitor.calls(endpoint="token")) == 3


async def test_a_fault_hits_as_many_requests_as_it_was_given(visitor: Visitor) -> None:
    await visitor.switch(fault="server_error", fault_times=2)
    assert [(await visitor.company()).status_code for _ in range(4)] == [500, 500, 200, 200]
    switches = (await visitor.http.get("/sandbox/switches")).json()
    assert (switches["fault"], switches["fault_times"]) == ("none", None)


async def test_a_new_fault_does_not_inherit_the_count_of_the_last(visitor: Visitor) -> None:
    await visitor.switch(fault="server_error", fault_times=1)
    await visitor.switch(fault="rate_limited")
    assert [(await visitor.company()).status_code for _ in range(3)] == [429] * 3


async def test_a_fault_hits_only_its_users_and_only_they_use_it_up(visitor: Visitor) -> None:
    alice, bob = (await visitor.connect("alice"))["refresh_token"], (await visitor.connect("bob"))["refresh_token"]
    carols_code = await visitor.code("carol")
    await visitor.switch(fault="server_error", fault_times=3, fault_users=["alice", "carol", "@company"])
    assert (await visitor.refresh(bob)).status_code == 200
    assert (await visitor.refresh("unknown")).status_code == 400
    assert (await visitor.refresh(alice)).status_code == 500
    assert (await visitor.redeem(carols_code)).status_code == 500
    assert (await visitor.company()).status_code == 500
    assert (await visitor.refresh(alice)).status_code == 200


async def test_an_acting_fault_spoils_a_refusal_as_well(visitor: Visitor) -> None:
    await visitor.switch(fault="server_error_after")
    assert (await visitor.refresh("unknown")).status_code == 500
    assert (await visitor.last_call())["outcome"] == "invalid_grant"


async def test_revocation_fails_only_by_its_own_fault_and_does_not_act_then(visitor: Visitor) -> None:
    tokens = await visitor.connect()
    await visitor.switch(revocation_fault="server_error")
    assert (await visitor.revoke(tokens["refresh_token"])).status_code == 500
    assert (await visitor.last_call())["outcome"] == "not_acted"
    assert await visitor.works(tokens["access_token"])
    await visitor.switch(revocation_fault="none", fault="server_error")
    assert (await visitor.revoke(tokens["refresh_token"])).status_code == 200
    assert not await visitor.works(tokens["access_token"])


async def test_in_process_a_dropped_connection_is_an_error_of_the_transport() -> None:
    transport = httpx.ASGITransport(create_sandbox(Switches(fault="drop_after")))
    async with httpx.AsyncClient(transport=transport, base_url="http://sandbox") as http:
        with pytest.raises(ConnectionResetError):
            await Visitor(http).company()
