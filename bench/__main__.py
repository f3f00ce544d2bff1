"""`python -m bench`: measure everything and print it; `--quick` only shows that it all works."""

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from bench import crowd_rows, interval_rows, lane_rows, load, scale_rows, start_rows
from bench.house import QUICK, WHOLE, House, Size
from bench.load import NotAllAnswered
from bench.machine import cores, facts, pin, raise_limits
from bench.report import Row, lines, write
from bench.stage import DidNotStart, DidNotWork
from tests.support.servers import ServerMissing, postgres_server, redis_server

REPORT = Path(__file__).parents[1] / ".artefacts" / "bench.json"
PARTS: dict[str, Callable[[House], AsyncIterator[Row]]] = {
    "lane": lane_rows.rows,
    "crowd": crowd_rows.rows,
    "interval": interval_rows.rows,
    "scale": scale_rows.rows,
    "start": start_rows.rows,
}


async def run(house: House, parts: list[str]) -> list[Row]:
    """The rows of *parts*, each printed as soon as it is known."""
    found = []
    for part in parts:
        began = time.monotonic()
        async for row in PARTS[part](house):
            found.append(row)
            say(*lines([row]))
        say(f"        ({part}: {time.monotonic() - began:.0f} s)")
    return found


def say(*told: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in told))
    sys.stdout.flush()


def main() -> int:
    """The exit code tells whether everything worked, never how fast it was."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute's worth: whether it works, not how fast")
    parser.add_argument("--report", type=Path, default=REPORT, help="where the JSON goes (default: %(default)s)")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; omitted: all")
    chosen = parser.parse_args()
    if unknown := set(chosen.parts) - PARTS.keys():
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    try:
        machine, rows = measured(QUICK if chosen.quick else WHOLE, chosen.parts or list(PARTS))
    except (ServerMissing, DidNotStart, DidNotWork, NotAllAnswered) as failure:
        sys.stderr.write(f"bench: {failure}\n")
        return 1
    write(chosen.report, machine, load.tool(), rows, whole=not chosen.quick and not chosen.parts)
    missed = [row.what for row in rows if row.verdict == "missed"]
    say("", f"{len(missed)} budgets missed{': ' if missed else ''}{'; '.join(missed)}", f"report: {chosen.report}")
    return 0


def measured(size: Size, parts: list[str]) -> tuple[dict[str, object], list[Row]]:
    """The facts of the machine and the rows, on servers that live no longer than this."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tb-bench-")))
        machine, where = facts(), cores()
        say(*(f"{name}: {value}" for name, value in machine.items()), f"load by {load.tool()}", "")
        servers = stack.enter_context(postgres_server()), stack.enter_context(redis_server())
        for server in servers:
            pin(server.process.pid, where.others if where else None)
        raise_limits()
        return machine, asyncio.run(run(House(size, where, folder, *servers), parts))


if __name__ == "__main__":
    sys.exit(main())
