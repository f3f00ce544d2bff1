"""Which grants callers ask for, so that the background renews them before anybody has to wait."""

from datetime import timedelta

from service.core.clock import Clock
from service.core.model import GrantId
from service.core.policy import Policy
from service.core.ports import RenewalQueue

NOTED_EVERY = timedelta(hours=1)


class Interest:
    """Collects who was asked for in memory, and writes it down now and then: once or twice a `renew_active` / 24."""

    def __init__(self, queue: RenewalQueue, clock: Clock, policy: Policy) -> None:
        self._queue, self._clock = queue, clock
        self._matters = policy.renew_active > timedelta(0)
        self._period = min(NOTED_EVERY, policy.renew_active / 24)
        self._asked: set[GrantId] = set()
        self._noted: set[GrantId] = set()
        self._noted_before: set[GrantId] = set()
        self._turned_at = clock.monotonic()

    def note(self, grant: GrantId) -> None:
        """A caller got a token of *grant*."""
        if self._matters:
            self._asked.add(grant)

    async def flush(self) -> None:
        """Write down what is new.

        Raises:
            StoreUnavailable: nothing is lost; the next call tries again.
        """
        if self._clock.monotonic() - self._turned_at >= self._period.total_seconds():
            self._noted_before, self._noted = self._noted, set()
            self._turned_at = self._clock.monotonic()
        asked, self._asked = self._asked, set()
        new = asked - self._noted - self._noted_before
        if not new:
            return
        try:
            await self._queue.note_asked(list(new), at=self._clock.now())
        except BaseException:
            self._asked |= new
            raise
        self._noted |= new
