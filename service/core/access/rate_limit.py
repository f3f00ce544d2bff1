"""How often each caller may ask: a token bucket of its own for everyone."""

from collections import OrderedDict
from datetime import timedelta

from service.core.clock import Clock
from service.core.errors import RateLimited

MOST_BUCKETS = 10_000
_ALMOST_ONE = 1 - 1e-9
"""Who waits as long as told must not fail by a rounding error."""


class RateLimiter:
    """Admits up to *per_second* requests of each caller on average, and as many at once. 0 admits all.

    Memory is bounded: of more than `MOST_BUCKETS` callers the one that was quiet longest is forgotten.
    """

    def __init__(self, clock: Clock, per_second: float) -> None:
        self._clock, self._rate = clock, per_second
        self._capacity = max(1.0, per_second)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def admit(self, caller: str) -> None:
        """Count one request of *caller*. One that is refused does not count.

        Raises:
            RateLimited: with the time after which the next one is admitted.
        """
        if self._rate <= 0:
            return
        now = self._clock.monotonic()
        level, seen = self._buckets.get(caller, (self._capacity, now))
        level = min(self._capacity, level + (now - seen) * self._rate)
        admitted = level >= _ALMOST_ONE
        self._buckets[caller] = (max(0.0, level - 1) if admitted else level, now)
        self._buckets.move_to_end(caller)
        if len(self._buckets) > MOST_BUCKETS:
            self._buckets.popitem(last=False)
        if not admitted:
            wait = timedelta(seconds=(1 - level) / self._rate)
            raise RateLimited("This caller asks more often than it may.", retry_after=wait)
