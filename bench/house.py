"""What every measurement is given: how much to measure, where, and with which servers."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.machine import Cores
from tests.support.servers import Server


@dataclass(frozen=True)
class Size:
    """How much is measured; the quick size only shows that everything works."""

    rounds: int
    rounds_of_the_told: int
    seconds: float
    users_of_the_lane: tuple[int, ...]
    callers_of_the_lane: tuple[int, ...]
    crowd: int
    expired_users: int
    fleet: int
    interval_seconds: float
    many_grants: int
    few_grants: int
    hot_users: int
    starts: int


WHOLE = Size(
    rounds=7,
    rounds_of_the_told=3,
    seconds=2,
    users_of_the_lane=(100, 1000, 10_000),
    callers_of_the_lane=(10, 100),
    crowd=1000,
    expired_users=1000,
    fleet=4,
    interval_seconds=20,
    many_grants=1_000_000,
    few_grants=1000,
    hot_users=10_000,
    starts=5,
)
QUICK = Size(
    rounds=1,
    rounds_of_the_told=1,
    seconds=1,
    users_of_the_lane=(20,),
    callers_of_the_lane=(3,),
    crowd=50,
    expired_users=50,
    fleet=2,
    interval_seconds=4,
    many_grants=3000,
    few_grants=1000,
    hot_users=500,
    starts=1,
)


@dataclass(frozen=True)
class House:
    """The folder is thrown away afterwards."""

    size: Size
    cores: Cores | None
    folder: Path
    postgres: Server
    redis: Server

    def on(self, name: str) -> frozenset[int] | None:
        """The cores for `server`, `load`, `others` or `fleet`."""
        return None if self.cores is None else getattr(self.cores, name)


def median_ratio(ones: Sequence[float], others: Sequence[float]) -> float:
    """Of rounds that alternated: each against its neighbour, so that a slow moment of the machine hits both."""
    return statistics.median(one / other for one, other in zip(ones, others, strict=True))
