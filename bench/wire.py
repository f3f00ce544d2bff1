"""One HTTP request on a connection of its own: no client library between the clock and the socket."""

import asyncio
from dataclasses import dataclass

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Answer:
    """What came back, and after how many seconds."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    seconds: float


def get(path: str, key: str | None = None) -> bytes:
    """The bytes of a GET, on a connection that stays open."""
    credentials = f"Authorization: Bearer {key}\r\n" if key else ""
    return f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{credentials}\r\n".encode()


def post(path: str, form: str) -> bytes:
    """The bytes of a posted form."""
    kind = "Content-Type: application/x-www-form-urlencoded"
    return f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\n{kind}\r\nContent-Length: {len(form)}\r\n\r\n{form}".encode()


async def ask(port: int, request: bytes) -> Answer:
    """Send *request* and read its one answer.

    Raises:
        OSError: nobody is there.
        asyncio.IncompleteReadError: the answer broke off.
    """
    began = asyncio.get_running_loop().time()
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(request)
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
        headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        length = int(next(value for name, value in headers if name == "content-length"))
        body = await reader.readexactly(length)
    finally:
        writer.close()
    return Answer(int(status.split()[1]), headers, body, asyncio.get_running_loop().time() - began)
