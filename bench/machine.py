"""What the figures were measured on, and which core does what."""

import os
import platform
import resource
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

BUSY = "busy before (load average of a minute)"
PARTS = ("token-broker", "uvicorn", "uvloop", "httptools", "fastapi", "starlette", "sqlalchemy", "psycopg", "redis")


@dataclass(frozen=True)
class Cores:
    """Where processes are put, so that nobody waits for the one who measures."""

    server: frozenset[int]
    load: frozenset[int]
    others: frozenset[int]

    @property
    def fleet(self) -> frozenset[int]:
        """All but the load's."""
        return self.server | self.others


def cores() -> Cores | None:
    """The first core serves, the last one asks, the others are for databases; None where that cannot be had."""
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(usable) < 2:
        return None
    middle = frozenset(usable[1:-1]) or frozenset(usable)
    return Cores(frozenset(usable[:1]), frozenset(usable[-1:]), middle)


def pin(pid: int, to: frozenset[int] | None) -> None:
    """Keep the process, which has just begun, on these cores."""
    if to and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(pid, to)


def raise_limits() -> None:
    """A thousand callers are a thousand sockets."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else 65536, hard))


def facts() -> dict[str, object]:
    """The machine, the interpreter and the versions that matter."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": _cpu(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PARTS},
        BUSY: round(os.getloadavg()[0], 2),
    }


def resident_mib(pid: int) -> float | None:
    """The memory that a process has in RAM; None where nobody tells."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return None
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
