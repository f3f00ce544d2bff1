"""A server that reads requests and answers with whatever bytes a test wants, over TCP."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

TOKENS = b'{"access_token": "a1", "refresh_token": "r2", "expires_in": 3600}'


@dataclass(frozen=True, slots=True)
class Heard:
    """One request as it came; names of headers in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def form(self) -> dict[str, str]:
        pairs = parse_qsl(self.body.decode(), strict_parsing=True, keep_blank_values=True)
        assert len(dict(pairs)) == len(pairs), "a field came twice"
        return dict(pairs)


class Client:
    """The other end of a connection, for answers."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def say(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self, status: int = 200, body: bytes = TOKENS, **headers: str) -> None:
        """A whole answer; underscores in names of headers are dashes."""
        lines = [f"HTTP/1.1 {status} Any", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.say("\r\n".join([*lines, "", ""]).encode() + body)

    def hang_up(self) -> None:
        self._writer.close()


Answer = Callable[[Client], Awaitable[None]]


@dataclass(slots=True)
class Wire:
    """What such a server has heard."""

    port: int = 0
    requests: list[Heard] = field(default_factory=list)
    connections: int = 0
    open_now: int = 0
    open_at_most: int = 0
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def last(self) -> Heard:
        return self.requests[-1]

    async def until(self, holds: Callable[["Wire"], bool]) -> None:
        """Wait for what a client is about to do."""
        while not holds(self):
            await self._moved.wait()

    def hear(self, request: Heard) -> None:
        self.requests.append(request)
        self._move()

    def open(self) -> int:
        """Count a new connection and number it."""
        self.connections += 1
        self.open_now += 1
        self.open_at_most = max(self.open_at_most, self.open_now)
        return self.connections

    def close(self) -> None:
        self.open_now -= 1
        self._move()

    def _move(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()


@contextlib.asynccontextmanager
async def listening(answer: Answer) -> AsyncIterator[Wire]:
    """Answer every request by *answer*; leaving hangs up on everybody."""
    wire, conversations = Wire(), set[asyncio.Task[None]]()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = wire.open()
        try:
            while (heard := await _hear(reader, number)) is not None:
                wire.hear(heard)
                await answer(Client(writer))
        finally:
            wire.close()
            writer.close()

    def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(converse(reader, writer))
        conversations.add(task)

    server = await asyncio.start_server(welcome, "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        server.close()
        for task in conversations:
            task.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)


async def _hear(reader: asyncio.StreamReader, connection: int) -> Heard | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.rstrip().split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return Heard(method, target, headers, body, connection)
