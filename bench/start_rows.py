"""From the command to the first `ready`, and the memory that takes."""

import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import AsyncIterator

from bench.house import House
from bench.lane_rows import NOBODY
from bench.machine import resident_mib
from bench.report import Row
from bench.stage import DidNotStart, folder_in
from bench.wire import ask, get
from tests.support.brokers import environment, furnish, settings_from


async def rows(house: House) -> AsyncIterator[Row]:
    variables = environment(folder_in(house.folder, "start"), NOBODY, BROKER_LOG_LEVEL="warning")
    await furnish(settings_from(variables))
    seconds, memory = [], []
    for _ in range(house.size.starts):
        took, resident = await start(variables)
        seconds.append(took)
        memory.append(resident)
    figures = {"slowest": f"{max(seconds):.2f} s"}
    yield Row(
        "from the command to ready, SQLite already migrated",
        statistics.median(seconds),
        " s",
        at_most=2.5,
        figures=figures,
    )
    known = [resident for resident in memory if resident is not None]
    if known:
        yield Row("resident memory when ready", statistics.median(known), " MiB", at_most=150)


async def start(variables: dict[str, str]) -> tuple[float, float | None]:
    """One start: its seconds, and its MiB where the system tells."""
    port, began = int(variables["BROKER_PORT"]), time.monotonic()
    running = await asyncio.create_subprocess_exec(sys.executable, "-m", "service", "serve", env=variables)
    try:
        while time.monotonic() - began < 60:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                if b'"ready"' in (await ask(port, get("/readyz"))).body:
                    return time.monotonic() - began, resident_mib(running.pid)
            await asyncio.sleep(0.005)
        raise DidNotStart("it was not ready within a minute")
    finally:
        running.terminate()
        await running.wait()
