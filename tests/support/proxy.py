"""deploy/nginx/nginx.conf in front of brokers, with a resolver that knows their addresses as Docker's would."""

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tests.house.tree import ROOT
from tests.support.ports import free_port
from tests.support.programs import NGINX

CONF = ROOT / "deploy" / "nginx" / "nginx.conf"
PATIENCE_SECONDS = 10
_LISTED = (("# upstream broker", "upstream broker"), ("http://broker:8000", "http://broker"))
_A, _IN = 1, 1


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where the two sides of it listen."""

    public_url: str
    internal_url: str


class _Resolver(asyncio.DatagramProtocol):
    """Answers questions for addresses; of every other kind there are none."""

    def __init__(self, hosts: Mapping[str, Sequence[str]]) -> None:
        self._hosts = hosts

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        end = data.index(b"\0", 12) + 5
        question = data[12:end]
        labels, rest = [], question
        while rest[0]:
            labels.append(rest[1 : 1 + rest[0]].decode())
            rest = rest[1 + rest[0] :]
        (kind,) = struct.unpack("!H", rest[1:3])
        found = self._hosts.get(".".join(labels), ()) if kind == _A else ()
        answers = b"".join(
            struct.pack("!HHHIH", 0xC00C, _A, _IN, 1, 4) + socket.inet_aton(address) for address in found
        )
        head = data[:2] + struct.pack("!HHHHH", 0x8180, 1, len(found), 0, 0)
        self._transport.sendto(head + question + answers, addr)


@contextlib.asynccontextmanager
async def proxy_before(
    folder: Path, hosts: Mapping[str, Sequence[str]], port: int, *, listed: bool = False
) -> AsyncIterator[Proxy]:
    """nginx with our own configuration; *hosts* are the addresses of `broker` and `pages`, which listen on *port*.

    With *listed* the two of `broker` stand in the configuration, as it says for those who have no resolver.
    """
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Resolver(hosts), local_addr=("127.0.0.1", 0))
    resolver = transport.get_extra_info("sockname")[1]
    public, internal = free_port(), free_port()
    conf = CONF.read_text()
    for written, here in _LISTED if listed else ():
        assert written in conf, f"{CONF} has no {written} any more"
        conf = conf.replace(written, here)
    for name, address in zip(("10.0.0.1", "10.0.0.2"), hosts.get("broker", ()), strict=False):
        conf = conf.replace(f"{name}:8000", f"{address}:{port}")
    for written, here in (
        ("pid /tmp/nginx.pid;", f"pid {folder / 'nginx.pid'};"),
        (r"resolver 127\.0\.0\.11 ", f"resolver 127.0.0.1:{resolver} "),
        ("listen 8080;", f"listen 127.0.0.1:{public};"),
        ("listen 8081;", f"listen 127.0.0.1:{internal};"),
        (r"http://(broker|pages):8000", rf"http://\1:{port}"),
    ):
        conf, times = re.subn(written, here, conf)
        assert times, f"{CONF} has no {written} any more"
    (folder / "nginx.conf").write_text(conf)
    assert NGINX
    process = await asyncio.create_subprocess_exec(
        *(NGINX, "-c", folder / "nginx.conf", "-p", folder, "-g", "daemon off;"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", internal)
                    writer.close()
                    break
                assert process.returncode is None, "nginx ended"
                await asyncio.sleep(0.02)
        yield Proxy(f"http://127.0.0.1:{public}", f"http://127.0.0.1:{internal}")
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        transport.close()
