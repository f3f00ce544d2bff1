"""Secrets that can be recognised wherever they get to, in every spelling, and a provider that throws them back."""

import asyncio
import base64
import contextlib
import gc
import io
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import psycopg
from psycopg import sql
from redis import Redis
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.logs import configure_logging

MARK = "q7Canary9Zk"
"""In every secret that somebody chose: unlike anything that is meant to be seen."""


def spellings(secret: str | bytes) -> Iterator[bytes]:
    """How *secret* might lie somewhere: as it is or encoded, also as a part of something longer."""
    raw = secret.encode() if isinstance(secret, str) else secret
    yield raw
    yield raw.hex().encode()
    yield raw.hex().upper().encode()
    yield raw[::-1]
    yield "".join(chr(byte) for byte in raw).encode("utf-16-le")
    for form in ("%{:02X}", "%{:02x}"):
        yield "".join(form.format(byte) for byte in raw).encode()
        # What is written as itself in URLs, and only the rest escaped.
        yield b"".join(bytes([byte]) if chr(byte).isalnum() else form.format(byte).encode() for byte in raw)
    for skipped in range(3):
        # The characters of base64 that depend on nothing but the secret, wherever in a longer text it begins.
        encoded = base64.b64encode(b"\0" * skipped + raw)
        certain = encoded[(4 * skipped + 2) // 3 : len(encoded) - (4 if (skipped + len(raw)) % 3 else 0)]
        yield certain
        yield certain.translate(bytes.maketrans(b"+/", b"-_"))


@dataclass
class Canary:
    """Knows every secret of a run and remembers where one was found that had no business there."""

    found: list[tuple[str, str]] = field(default_factory=list)
    _known: dict[bytes, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.know("a marked secret", MARK)

    def know(self, what: str, secret: str | bytes) -> None:
        """*secret* must be found nowhere from now on."""
        assert len(secret) >= 8, f"{what} is too short to be told from anything else"
        for spelling in spellings(secret):
            self._known.setdefault(spelling, what)

    def look(self, place: str, content: str | bytes) -> None:
        """Remember each secret in *content*."""
        raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        for spelling, what in self._known.items():
            if spelling in raw:
                self.found.append((place, what))

    def look_at_files(self, folder: Path) -> int:
        """All files below *folder*, their names too; returns how many there were."""
        files = [path for path in folder.rglob("*") if path.is_file()]
        for path in files:
            self.look(f"the name of {path.name}", path.name)
            self.look(path.name, path.read_bytes())
        return len(files)

    def look_at_postgres(self, url: str) -> set[str]:
        """Every row of every table, as text; returns the tables that were not empty."""
        seen = set()
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            for (table,) in tables:
                with connection.cursor().copy(sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(table))) as copy:
                    content = b"".join(bytes(piece) for piece in copy)
                if content:
                    seen.add(table)
                # COPY writes bytea in hex after a backslash; what it holds is looked at as bytes as well.
                self.look(f"table {table}", content)
                for word in content.replace(b"\n", b"\t").split(b"\t"):
                    if word.startswith(b"\\\\x"):
                        self.look(f"table {table}", bytes.fromhex(word[3:].decode()))
        return seen

    def look_at_redis(self, url: str) -> int:
        """Every key and value; returns how many there were. Those that have a lifetime keep no more of it."""
        client: Any = Redis.from_url(url)
        # Read one by one: a key that is not kept may run out between its name and its value.
        keys = [key for key in client.scan_iter() if client.persist(key) or client.exists(key)]
        readers: dict[bytes, Callable[[bytes], Any]] = {
            b"string": client.get,
            b"hash": client.hgetall,
            b"set": client.smembers,
            b"list": lambda key: client.lrange(key, 0, -1),
            b"zset": lambda key: client.zrange(key, 0, -1),
        }
        for key in keys:
            self.look("a Redis key", key)
            value = readers[client.type(key)](key)
            parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
            for part in [parts] if isinstance(parts, bytes) else parts:
                self.look(f"the Redis value of {key!r}", part)
        client.close()
        return len(keys)

    def look_at_objects(self) -> int:
        """`repr` and `str` of every living object of the product; returns how many there were."""
        seen = 0
        for thing in gc.get_objects():
            kind = type(thing)
            if str(kind.__module__).startswith("service."):
                seen += 1
                self.look(f"repr of {kind.__qualname__}", f"{thing!r} {thing}")
        return seen


Permitted = Callable[[httpx.Response], list[str]]
PERMITTED: dict[str, Permitted] = {
    "GET /tokens/": lambda answer: [answer.json()["access_token"]],
    "POST /tokens/": lambda answer: [answer.json()["access_token"]],
    "POST /grants/": lambda answer: [answer.json()["connect_url"].rpartition("/")[2]],
    "POST /callers/": lambda answer: [answer.json()["key"]],
    "POST /callers": lambda answer: [answer.json()["key"]["key"]],
    "POST /connect/": lambda answer: [
        httpx.URL(answer.headers["Location"]).params["state"],
        answer.headers["Set-Cookie"].partition("=")[2].partition(";")[0],
    ],
}
"""The short list of places where a secret of ours may be: each answer its own, and the provider's requests."""


@dataclass
class Counter:
    """Looks at every answer of the broker that passes it."""

    canary: Canary
    seen: dict[str, int] = field(default_factory=dict)

    async def __call__(self, answer: httpx.Response) -> None:
        await answer.aread()
        request = answer.request
        place = f"{request.method} {request.url.path}"
        told = f"{answer.headers.multi_items()!r}\n".encode() + answer.content
        if answer.status_code < 400:
            permitted = [rule for begin, rule in PERMITTED.items() if place.startswith(begin)][:1]
            for secret in [secret for rule in permitted for secret in rule(answer)]:
                self.canary.know(f"what {place.split('/')[1]} answered", secret)
                told = told.replace(secret.encode(), b"...")
        key = f"{answer.status_code}"
        self.seen[key] = self.seen.get(key, 0) + 1
        self.canary.look(f"the answer of {place} ({answer.status_code})", told)


@contextlib.contextmanager
def every_log_line() -> Iterator[io.StringIO]:
    """All that is logged meanwhile, as the product writes it at its most talkative, in both forms."""
    root, told = logging.getLogger(), io.StringIO()
    before, level = root.handlers[:], root.level
    handlers = []
    for form in ("json", "human"):
        configure_logging("debug", form)
        [handler] = root.handlers
        assert isinstance(handler, logging.StreamHandler)
        handler.setStream(told)
        handlers.append(handler)
    root.handlers[:] = handlers
    try:
        yield told
    finally:
        root.handlers[:] = before
        root.setLevel(level)


Echo = Callable[[str, dict[str, str]], Response]


def _with_headers(answer: Response, body: str) -> Response:
    for name in ("X-Echo", "Server", "Set-Cookie", "Retry-After", "WWW-Authenticate", "Date"):
        answer.headers[name] = body
    return answer


ECHOES: dict[str, Echo] = {
    "refusal with a description": lambda body, _: JSONResponse({"error": "odd", "error_description": body}, 400),
    "refusal whose code is the request": lambda body, form: JSONResponse({"error": body[:200], **form}, 400),
    "refusal whose code is the token": lambda _, form: JSONResponse({"error": form.get("refresh_token", "x")}, 400),
    "unknown client": lambda body, _: _with_headers(JSONResponse({"error": "invalid_client", "hint": body}, 401), body),
    "plain refusal": lambda body, _: _with_headers(PlainTextResponse(body, 403), body),
    "crash page": lambda body, _: _with_headers(PlainTextResponse(f"<pre>{body}</pre>", 500), body),
    "not JSON": lambda body, _: _with_headers(PlainTextResponse(body), body),
    "cut JSON": lambda body, _: PlainTextResponse('{"access_token": "' + body, media_type="application/json"),
    "other types": lambda body, form: JSONResponse({"access_token": [body], "refresh_token": form}),
    "other token type": lambda body, form: JSONResponse({"access_token": body, "token_type": body, **form}),
    "limit": lambda body, _: _with_headers(PlainTextResponse(body, 429), body),
    "redirect": lambda body, _: RedirectResponse(f"http://127.0.0.1:9/?{body}", 307),
}


class Parrot:
    """A sandbox that one listens to; while `echo` is set, the token endpoint throws the request back."""

    def __init__(self, app: ASGIApp, canary: Canary) -> None:
        self._app, self._canary = app, canary
        self.echo: str | None = None
        self.before: Callable[[], Awaitable[None]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/api/oauth/"):
            await self._app(scope, receive, send)
            return
        body = (await Request(scope, receive).body()).decode()
        form = {name: values[0] for name, values in parse_qs(body).items()}
        for name in ("code", "code_verifier", "refresh_token", "client_secret", "token"):
            if name in form:
                self._canary.know(f"{name} at the provider", form[name])
        if self.before is not None and scope["path"].endswith("/token/"):
            await self.before()
        if self.echo is not None and scope["path"].endswith("/token/"):
            await ECHOES[self.echo](body, form)(scope, receive, send)
            return

        async def again() -> dict[str, object]:
            return {"type": "http.request", "body": body.encode(), "more_body": False}

        await self._app(scope, again, send)


RAW_ECHOES = (
    b"HTTP/1.1 200 OK\r\n%s\r\n\r\n",
    b"HTTP/9.9 %s\r\n\r\n",
    b"%s\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n%s",
)


@contextlib.asynccontextmanager
async def babbling_server(answer: bytes) -> AsyncIterator[str]:
    """An HTTP server that breaks the protocol with the request's own body; its URL."""

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        [length] = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        body = await reader.readexactly(int(length.partition(b":")[2]))
        writer.write(answer % body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def json_with(secret: str) -> list[Any]:
    """Bodies of which none is right, with *secret* as every kind of value."""
    return [
        secret,
        [secret],
        {"access_token": [secret], "refresh_token": {"a": secret}, "expires_in": secret},
        {"access_token": secret + "\n", "refresh_token": secret + "\u0000"},
        {"client_secret": [secret], "name": secret, "client_id": 1},
        json.dumps({"refresh_token": secret}),
    ]
