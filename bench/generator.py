"""Load without wrk: `python -m bench.generator PORT SECONDS CONNECTIONS < requests`, one request a line, hex-encoded.

Every connection has one request under way, like wrk's. A response is recognised by its `content-length` alone, which
keeps this several times as fast as what it measures; the report tells how busy it was.
"""

import asyncio
import itertools
import json
import sys
from collections.abc import Iterator

import uvloop

HOST = "127.0.0.1"
_LENGTH, _END = b"content-length: ", b"\r\n\r\n"


class Connection(asyncio.Protocol):
    """Asks again as soon as it is answered."""

    def __init__(self, requests: Iterator[bytes], tally: "Tally") -> None:
        self._requests, self._tally, self._received = requests, tally, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type alone
        self._transport = transport
        transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        received = self._received + data if self._received else data
        head = received.find(_END)
        begin = received.find(_LENGTH, 0, head + 2) + len(_LENGTH)
        if head < 0 or len(received) < head + len(_END) + int(received[begin : received.index(b"\r", begin)]):
            self._received = received
            return
        self._received = b""
        self._tally.answers += 1
        self._tally.errors += not received.startswith(b"HTTP/1.1 200 ")
        self._transport.write(next(self._requests))

    def connection_lost(self, exc: Exception | None) -> None:
        self._tally.errors += not self._tally.over


class Tally:
    """What all connections have counted."""

    answers = errors = 0
    over = False


async def load(port: int, seconds: float, connections: int, requests: list[bytes]) -> dict[str, float]:
    loop, tally = asyncio.get_running_loop(), Tally()
    # Each connection begins elsewhere in the list, so that they do not all ask for the same at once.
    starts = [number * len(requests) // connections for number in range(connections)]
    turns = [itertools.cycle(requests[start:] + requests[:start]) for start in starts]
    opened = [
        await loop.create_connection(lambda turn=turn: Connection(turn, tally), HOST, port)  # type: ignore[misc]
        for turn in turns
    ]
    before, began = tally.answers, loop.time()
    await asyncio.sleep(seconds)
    answered, took = tally.answers - before, loop.time() - began
    tally.over = True
    for transport, _ in opened:
        transport.abort()
    return {"per_second": answered / took, "errors": tally.errors}


def main() -> None:
    port, seconds, connections = sys.argv[1:4]
    requests = [bytes.fromhex(line) for line in sys.stdin.read().split()]
    found = uvloop.run(load(int(port), float(seconds), int(connections), requests))
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
