"""The bench's own tools: what a wrong count would make of every figure."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from bench.generator import load
from bench.house import median_ratio
from bench.report import Row, shown

GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\nhello\r\n\r\nyou"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


class Counted:
    """A server that answers each request with *answer* in pieces, and counts them."""

    def __init__(self, answer: bytes, piece: int) -> None:
        self.answer, self.piece, self.asked = answer, piece, list[bytes]()
        self.serving: set[asyncio.Task[None] | None] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.serving.add(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                self.asked.append(await reader.readuntil(b"\r\n\r\n"))
                for start in range(0, len(self.answer), self.piece):
                    writer.write(self.answer[start : start + self.piece])
                    await writer.drain()
                    await asyncio.sleep(0)
        writer.close()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        async with server:
            yield server.sockets[0].getsockname()[1]
        await asyncio.gather(*(task for task in self.serving if task is not None))


@pytest.mark.parametrize("piece", [1, 7, 1000])
async def test_the_generator_counts_whole_answers_and_asks_in_turn(piece: int) -> None:
    counted, requests = Counted(GOOD, piece), [b"GET /%d\r\n\r\n" % number for number in range(3)]
    async with counted.running() as port:
        found = await load(port, 0.2, 3, requests)
    assert found["errors"] == 0
    assert 0 < found["per_second"] * 0.2 <= len(counted.asked)
    assert set(counted.asked) == set(requests)


async def test_the_generator_tells_answers_that_are_none() -> None:
    counted = Counted(BUSY, 1000)
    async with counted.running() as port:
        found = await load(port, 0.1, 2, [b"GET /\r\n\r\n"])
    assert found["errors"] >= len(counted.asked) - 2 > 0


def test_a_ratio_is_the_median_of_neighbours() -> None:
    assert median_ratio([10, 20, 300], [10, 40, 100]) == 1


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (Row("x", 0.85, at_least=0.85), "kept"),
        (Row("x", 0.849, at_least=0.85), "missed"),
        (Row("x", 1.3, at_most=1.3), "kept"),
        (Row("x", 1.31, at_most=1.3), "missed"),
        (Row("x", 5), "told"),
    ],
)
def test_a_budget_is_kept_or_missed_and_nothing_else(row: Row, verdict: str) -> None:
    assert row.verdict == verdict


def test_figures_are_shown_as_people_read_them() -> None:
    assert [shown(value) for value in (0.98765, 12.345, 123456.7, 5, "1.2 s")] == [
        "0.988",
        "12.3",
        "123,457",
        "5",
        "1.2 s",
    ]
