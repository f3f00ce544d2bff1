"""Answers that go wrong on their way out. Each is an ASGI application, so one can be wrapped around another."""

import asyncio
from collections.abc import AsyncIterator

from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from sandbox.connection import hang_up


def late(answer: ASGIApp, seconds: float) -> ASGIApp:
    """*answer*, whole, but only after some time."""

    async def send_late(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(seconds)
        await answer(scope, receive, send)

    return send_late


def dripping(answer: Response, pause: float) -> ASGIApp:
    """The head of *answer* at once, its body byte by byte with a pause before each."""

    async def drops() -> AsyncIterator[bytes]:
        for byte in bytes(answer.body):
            await asyncio.sleep(pause)
            yield bytes([byte])

    # Unlike a loop of our own this one ends when the client hangs up.
    return StreamingResponse(drops(), answer.status_code, headers=answer.headers)


async def dropped(scope: Scope, receive: Receive, _send: Send) -> None:
    """No answer at all: the connection is reset."""
    await hang_up(scope, receive, reset=True)


def truncated(answer: Response) -> ASGIApp:
    """The head of *answer* with its true length and half of its body, then the end of the connection."""

    async def send_half(scope: Scope, receive: Receive, send: Send) -> None:
        body = bytes(answer.body)
        await send({"type": "http.response.start", "status": answer.status_code, "headers": answer.raw_headers})
        await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
        await hang_up(scope, receive, reset=False)

    return send_half


def unreadable(answer: Response) -> Response:
    """*answer* without its last byte, its length set to match: complete for HTTP, broken as JSON."""
    return Response(bytes(answer.body)[:-1], answer.status_code, media_type="application/json")


def padded(mebibytes: int) -> ASGIApp:
    """A JSON answer of that size, its length not announced."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"padding": "'
        for _ in range(16 * mebibytes):
            yield b"x" * 65536
        yield b'"}'

    return StreamingResponse(chunks(), media_type="application/json")
