"""The register of drills: which alerts each of them brings about and ends again."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.drills.scene import Scene

Play = Callable[[Scene], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Drill:
    """Makes the trouble that *alerts* speak of, and follows their runbooks until it is over."""

    play: Play
    alerts: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.play.__name__


DRILLS: list[Drill] = []


def drill(*alerts: str) -> Callable[[Play], Play]:
    """Register what is decorated as the drill of *alerts*."""

    def register(play: Play) -> Play:
        DRILLS.append(Drill(play, alerts))
        return play

    return register
