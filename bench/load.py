"""Requests per second: by wrk where it is on PATH, else by our own generator."""

import asyncio
import json
import os
import re
import resource
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.machine import Cores, pin

_SCRIPT = """
local asked, at = {}, 0
for line in io.lines("%s") do
  asked[#asked + 1] = line:gsub("%%x%%x", function(two) return string.char(tonumber(two, 16)) end)
end
request = function()
  at = at %% #asked + 1
  return asked[at]
end
"""


class NotAllAnswered(Exception):
    """Some requests failed, so their number means nothing."""


@dataclass(frozen=True)
class Rate:
    """Answers per second, and how much of its core the one who asked was busy."""

    per_second: float
    busy: float


def tool() -> str:
    """Who asks."""
    return "wrk" if shutil.which("wrk") else "bench.generator"


async def measure(port: int, requests: Sequence[bytes], seconds: float, where: Cores | None, connections: int) -> Rate:
    """The rate at which the server on *port* answers *requests* in turn, all with 200.

    Raises:
        NotAllAnswered: some were not.
    """
    loop, before = asyncio.get_running_loop(), _children()
    began = loop.time()
    per_second = await (_wrk if tool() == "wrk" else _own)(port, requests, seconds, where, connections)
    return Rate(per_second, (_children() - before) / (loop.time() - began))


async def _wrk(port: int, requests: Sequence[bytes], seconds: float, where: Cores | None, connections: int) -> float:
    with tempfile.TemporaryDirectory(prefix="tb-bench-") as folder:
        script = _written(Path(folder), requests)
        long = max(1, round(seconds))  # wrk counts in whole seconds
        options = ["-t1", f"-c{connections}", f"-d{long}", "-s", str(script), f"http://127.0.0.1:{port}"]
        said = (await _run(["wrk", *options], b"", where)).decode()
    if "Non-2xx" in said or "Socket errors" in said:
        raise NotAllAnswered(said)
    found = re.search(r"Requests/sec:\s+([0-9.]+)", said)
    if found is None:
        raise NotAllAnswered(said)
    return float(found[1])


def _written(folder: Path, requests: Sequence[bytes]) -> Path:
    """The script that makes wrk send *requests*."""
    asked, script = folder / "requests", folder / "script.lua"
    asked.write_text("\n".join(request.hex() for request in requests))
    script.write_text(_SCRIPT % asked)
    return script


async def _own(port: int, requests: Sequence[bytes], seconds: float, where: Cores | None, connections: int) -> float:
    lines = "\n".join(request.hex() for request in requests).encode()
    command = [sys.executable, "-m", "bench.generator", str(port), str(seconds), str(connections)]
    said = json.loads(await _run(command, lines, where))
    if said["errors"]:
        raise NotAllAnswered(f"{said['errors']} requests were not answered with 200")
    return float(said["per_second"])


async def _run(command: Sequence[str], given: bytes, where: Cores | None) -> bytes:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, env=dict(os.environ))
    pin(process.pid, where.load if where else None)
    said, _ = await process.communicate(given)
    return said


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
