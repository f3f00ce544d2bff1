"""Whether this process should get requests: parts register with whatever they check."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from service.core.clock import Clock
from service.core.singleflight import Flights

PATIENCE = timedelta(milliseconds=500)
KEPT = timedelta(seconds=1)


class Readiness(StrEnum):
    """How well the whole is, or one part of it. `not_ready` only for what another replica would do better."""

    READY = "ready"
    DEGRADED = "degraded"
    NOT_READY = "not_ready"


@dataclass(frozen=True, slots=True)
class PartHealth:
    """One part's state, and a word for people where it is not well."""

    readiness: Readiness
    detail: str | None = None


READY = PartHealth(Readiness.READY)

Check = Callable[[], Awaitable[PartHealth]]


class Health:
    """Asks every part itself, each at most half a second, and keeps the answers for at most one.

    However many want to know at once, each part is asked once: anybody may ask, and the database has other work.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._checks: dict[str, Check] = {}
        self._asked_at: float | None = None
        self._parts: dict[str, PartHealth] = {}
        self._rounds: Flights[None, None] = Flights()

    def register(self, name: str, check: Check) -> None:
        self._checks[name] = check

    @property
    def last_parts(self) -> dict[str, PartHealth]:
        """Every part by name as it was when somebody last asked."""
        return self._parts

    async def parts(self) -> dict[str, PartHealth]:
        """Every part by name."""
        now = self._clock.monotonic()
        if self._asked_at is None or now - self._asked_at >= KEPT.total_seconds():
            asking, _ = self._rounds.join(None, lambda: self._ask_all(now))
            await asyncio.shield(asking)
        return self._parts

    async def _ask_all(self, now: float) -> None:
        answers = await asyncio.gather(*(self._ask(check) for check in self._checks.values()))
        self._parts, self._asked_at = dict(zip(self._checks, answers, strict=True)), now

    @staticmethod
    async def _ask(check: Check) -> PartHealth:
        """Not a timeout around the check: a driver that hangs also hangs in being cancelled."""
        task = asyncio.ensure_future(check())
        done, _ = await asyncio.wait({task}, timeout=PATIENCE.total_seconds())
        if done:
            return task.result()
        task.cancel()
        return PartHealth(Readiness.DEGRADED, "did not answer in time")


def overall(parts: dict[str, PartHealth]) -> Readiness:
    """The worst of the parts."""
    found = {part.readiness for part in parts.values()}
    return next((worst for worst in (Readiness.NOT_READY, Readiness.DEGRADED) if worst in found), Readiness.READY)
