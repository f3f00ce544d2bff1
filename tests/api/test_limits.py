"""What one request, one caller and one process may ask for: bodies, pace, crowds."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from service.api.deps import MAX_BODY_BYTES
from service.api.middleware import Crowd, RequestContext
from service.core.model import Scope as CallerScope
from service.main import REQUESTS_AT_ONCE
from service.telemetry import Metrics
from tests.api.front import Front, bearer, code_of, front_in

DOCUMENT = json.loads((Path(__file__).parents[2] / "openapi.json").read_text())
KEYED = [
    (method.upper(), path)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
    if "security" in operation
]
WITH_BODY = [
    (method.upper(), path)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
    if "requestBody" in operation
]
PATIENCE_SECONDS = 120
TOO_LARGE = (413, "payload_too_large")
JSON = {"Content-Type": "application/json"}


def address(template: str) -> str:
    return template.format(user="alice", name="crm", key_id="first")


async def in_chunks(size: int, count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b" " * size


@pytest.mark.parametrize(("method", "path"), WITH_BODY)
async def test_a_body_that_is_too_large_is_refused_announced_or_not(front: Front, method: str, path: str) -> None:
    everything = await front.admit("everything", *CallerScope)
    headers, where = {**everything, **JSON}, address(path)
    announced = await front.bare(method, where, headers, content=b" " * (MAX_BODY_BYTES + 1))
    assert code_of(announced) == TOO_LARGE
    chunked = await front.bare(method, where, headers, content=in_chunks(1024, 65))
    assert chunked.request.headers["Transfer-Encoding"] == "chunked"
    assert code_of(chunked) == TOO_LARGE
    fits = await front.bare(method, where, headers, content=in_chunks(1024, 64))
    assert code_of(fits) == (422, "invalid_request")


async def raw(front: Front, *pieces: bytes, pause: float = 0.0) -> bytes:
    """Send *pieces* as they are and return all that comes back until the broker says no more."""
    url = httpx.URL(front.broker.base_url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(pause)
        found = b""
        while b"\r\n\r\n" not in found and (more := await asyncio.wait_for(reader.read(65_536), 5)):
            found += more
        return found
    finally:
        writer.close()


def head(front: Front, *lines: str) -> bytes:
    first = ("PUT /grants/alice HTTP/1.1", "Host: x", f"Authorization: {front.client.headers['Authorization']}")
    return "\r\n".join([*first, "Content-Type: application/json", *lines, "", ""]).encode()


def status_of(answer: bytes) -> int:
    return int(answer.split()[1]) if answer else 0


async def test_who_announces_too_much_is_refused_before_any_of_it_is_sent(front: Front) -> None:
    for length in (str(MAX_BODY_BYTES + 1), "9" * 18):
        assert status_of(await raw(front, head(front, f"Content-Length: {length}"))) == 413


async def test_a_body_without_end_is_refused_as_soon_as_it_is_too_large(front: Front) -> None:
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    answer = await raw(front, head(front, "Transfer-Encoding: chunked"), *[chunk] * 5, pause=0.01)
    assert status_of(answer) == 413


LIES = {
    "shorter than the body": (["Content-Length: 2"], b"{}" + b"x" * 100),
    "negative": (["Content-Length: -1"], b"{}"),
    "no number": (["Content-Length: two"], b"{}"),
    "a fraction": (["Content-Length: 2.0"], b"{}"),
    "two lengths": (["Content-Length: 2", "Content-Length: 100000"], b"{}"),
    "a length and chunks": (["Content-Length: 2", "Transfer-Encoding: chunked"], b"2\r\n{}\r\n0\r\n\r\n"),
    "chunks that are none": (["Transfer-Encoding: chunked"], b"zz\r\n{}\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("lie", LIES)
async def test_no_lie_about_the_length_gets_anything_stored_or_anybody_hurt(front: Front, lie: str) -> None:
    lines, content = LIES[lie]
    assert 400 <= status_of(await raw(front, head(front, *lines) + content)) < 500
    assert code_of(await front.client.get("/grants/alice")) == (404, "grant_not_found")


async def test_the_pace_holds_for_every_call_that_wants_a_key(tmp_path: Path) -> None:
    async with front_in(tmp_path, BROKER_CALLER_REQUESTS_PER_SECOND="1") as front:
        await front.client.get("/me")
        for number, (method, path) in enumerate(KEYED):
            headers = await front.admit(f"caller-{number}", CallerScope.TOKENS, users=("nobody",))
            first = await front.bare(method, address(path), headers)
            assert first.status_code not in {401, 429}, path
            second = await front.bare(method, address(path), headers)
            assert code_of(second) == (429, "rate_limited"), path
            assert second.headers["Retry-After"] == "1"
            front.clock.advance(1)
            third = await front.bare(method, address(path), headers)
            assert third.status_code == first.status_code, path


async def test_the_pace_is_the_callers_not_the_keys_and_without_a_key_there_is_none(tmp_path: Path) -> None:
    async with front_in(tmp_path, BROKER_CALLER_REQUESTS_PER_SECOND="2") as front:
        one = await front.admit("twice", CallerScope.GRANTS)
        two = bearer((await front.container.services.administration.add_key("twice")).secret)
        codes = [code_of(await front.client.get("/me", headers=headers))[0] for headers in (one, two, one, two)]
        assert codes == [200, 200, 429, 429]
        for _ in range(10):
            assert (await front.bare("GET", "/healthz")).status_code == 200
            assert code_of(await front.bare("GET", "/me")) == (401, "invalid_api_key")


async def test_unless_it_is_set_nobody_has_a_pace(front: Front) -> None:
    answers = [(await front.client.get("/me")).status_code for _ in range(100)]
    assert answers == [200] * 100


class Hall:
    """An application where requests to `/wait` stay until they are let go; `/crash` fails."""

    def __init__(self) -> None:
        self.go, self.entered = asyncio.Event(), asyncio.Semaphore(0)

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["path"] == "/crash":
            raise RuntimeError
        if scope["path"] == "/wait":
            self.entered.release()
            await self.go.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def test_more_requests_than_a_process_takes_are_told_to_come_back() -> None:
    hall = Hall()
    transport = httpx.ASGITransport(RequestContext(Crowd(hall, 2), Metrics()), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://broker") as client:
        waiting = [asyncio.create_task(client.get("/wait")) for _ in range(2)]
        for _ in waiting:
            await hall.entered.acquire()
        refused = await client.get("/tokens/alice")
        assert code_of(refused) == (503, "overloaded")
        assert refused.headers["Retry-After"] == "1"
        assert refused.json()["request_id"] == refused.headers["X-Request-ID"]
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (await client.get(path)).status_code == 204, path
        hall.go.set()
        assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [204, 204]
        for path in ("/crash", "/crash", "/crash", "/wait"):
            await client.get(path)
        assert (await client.get("/tokens/alice")).status_code == 204


async def test_who_hangs_up_leaves_room_for_others() -> None:
    hall = Hall()
    crowd = Crowd(hall, 1)
    scope: dict[str, Any] = {"type": "http", "path": "/wait", "state": {"request_id": "x"}}
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nobody reads here")

    gone = asyncio.create_task(crowd(scope, receive, send))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    hall.go.set()
    await crowd(scope, receive, send)
    assert sent[0]["status"] == 204


async def test_the_product_has_such_a_limit(front: Front) -> None:
    head_of_each = {
        "type": "http",
        "http_version": "1.1",
        "method": "PUT",
        "path": "/grants/alice",
        "raw_path": b"/grants/alice",
        "query_string": b"",
        "headers": [
            (b"authorization", front.client.headers["Authorization"].encode()),
            (b"content-type", b"application/json"),
        ],
        "client": ("127.0.0.1", 1),
    }
    begun, ended = asyncio.Semaphore(0), asyncio.Event()

    async def receive() -> Message:
        begun.release()
        await ended.wait()
        return {"type": "http.disconnect"}

    async def send(_message: Message) -> None: ...

    waiting = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        for _ in range(REQUESTS_AT_ONCE):  # one after the other: a thousand at once keep each other from the database
            waiting.append(asyncio.create_task(_ask(front, dict(head_of_each), receive, send)))
            await begun.acquire()
    assert code_of(await front.client.get("/me")) == (503, "overloaded")
    assert (await front.client.get("/healthz")).status_code == 200
    ended.set()
    await asyncio.gather(*waiting)
    assert code_of(await front.client.get("/me")) == (200, None)


async def _ask(front: Front, scope: Scope, receive: Receive, send: Send) -> None:
    await front.app(scope, receive, send)
