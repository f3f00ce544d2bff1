"""Broker processes that die or stop at an appointed step, loaded ahead so that a restart takes no time."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.brokers import Broker, client_of, until_healthy
from tests.support.crashing_broker import Deed, order

PATIENCE_SECONDS = 20


class Spare:
    """A process that has loaded the product and waits to be told which broker it is."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._stack = contextlib.AsyncExitStack()

    async def become(self, variables: Mapping[str, str], deeds: Sequence[Deed] = ()) -> Broker:
        """The broker that *variables* describe, once it answers."""
        assert self._process.stdin is not None
        self._process.stdin.write(order(variables, deeds))
        await self._process.stdin.drain()
        base_url = f"http://127.0.0.1:{variables['BROKER_PORT']}"
        client = await self._stack.enter_async_context(client_of(base_url))
        await until_healthy(client, self._process)
        return Broker(base_url, client, self._process)

    async def end(self) -> None:
        """Be gone, whatever became of the process."""
        await self._stack.aclose()
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


class Spares:
    """Hands out spares, and has the next one load meanwhile."""

    def __init__(self) -> None:
        self._next: asyncio.Task[Spare] | None = None
        self._taken: list[Spare] = []

    async def take(self) -> Spare:
        """A spare, which ends with all others at the latest."""
        ready = self._next or asyncio.create_task(_load())
        self._next = None
        spare = await ready
        self._next = asyncio.create_task(_load())
        self._taken.append(spare)
        return spare

    async def end(self) -> None:
        if self._next is not None:
            self._taken.append(await self._next)
        for spare in self._taken:
            await spare.end()


async def _load() -> Spare:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("BROKER_", "VERSATURE_"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.crashing_broker",
        env=clean,
        stdin=asyncio.subprocess.PIPE,
        stderr=None if os.environ.get("CRASH_LOGS") else asyncio.subprocess.DEVNULL,
    )
    return Spare(process)


async def until_stopped(broker: Broker) -> None:
    """Return once the process has stopped itself."""
    assert broker.process is not None
    async with asyncio.timeout(PATIENCE_SECONDS):
        while _state(broker.process.pid) != "T":
            assert broker.process.returncode is None, "the process ended where it should have stopped"
            await asyncio.sleep(0.01)


async def until_dead(broker: Broker) -> None:
    """Return once the process has killed itself."""
    assert broker.process is not None
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await broker.process.wait() == -signal.SIGKILL


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
