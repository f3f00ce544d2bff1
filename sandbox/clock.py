"""The sandbox's time, which can be moved on so that nobody sleeps until something expires."""

from collections.abc import Callable


class SandboxClock:
    """Seconds since the epoch as *now* tells them, plus what it was advanced by. It never goes back."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._advanced = 0.0

    def __call__(self) -> float:
        """The time now."""
        return self._now() + self._advanced

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass at once; they must not be negative."""
        if seconds < 0:
            raise ValueError("time does not go back")
        self._advanced += seconds
