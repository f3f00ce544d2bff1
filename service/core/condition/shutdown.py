"""How long this process goes on: for whoever must not begin what could not be finished."""

from datetime import timedelta

from service.core.clock import Clock


class Shutdown:
    """From the moment at which it is asked to end, a process has *within* left."""

    def __init__(self, within: timedelta, clock: Clock) -> None:
        self._within, self._clock = within, clock
        self._ends_at: float | None = None

    def begin(self) -> None:
        """This process is asked to end; asking again grants no further time."""
        if self._ends_at is None:
            self._ends_at = self._clock.monotonic() + self._within.total_seconds()

    @property
    def left(self) -> timedelta:
        """All the time there is, until the process is asked to end; negative once its time is over."""
        return timedelta.max if self._ends_at is None else timedelta(seconds=self._ends_at - self._clock.monotonic())
