"""How many grants there are, and how they are: counted now and then, remembered in between."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from service.core.clock import Clock
from service.core.model import GrantState

ENDING_WITHIN = (timedelta(days=1), timedelta(days=7), timedelta(days=30))
FRESH = 3
"""For how many periods a count is told. Then it is left out: an old number looks like a new one."""


@dataclass(frozen=True, slots=True)
class Count:
    """The grants of one application in one state.

    `ending` counts, for each of the durations asked for, those whose refresh token ends within it. `active` are those
    that the background keeps renewed because callers ask for them, the oldest of them due at `oldest_due_at`.
    """

    application: str
    state: GrantState
    grants: int
    ending: tuple[int, ...]
    active: int
    oldest_due_at: datetime | None


class CensusStore(Protocol):
    """A count over all grants' rows."""

    async def count(self, now: datetime, ending_within: Sequence[timedelta]) -> Sequence[Count]:
        """Every application and state that has grants. Only connected ones have what ends or falls due.

        Raises:
            StoreUnavailable: the database cannot be asked.
        """
        ...


class Census:
    """The last counts, as long as they are fresh."""

    def __init__(self, store: CensusStore, clock: Clock, period: timedelta) -> None:
        self._store, self._clock, self._period = store, clock, period
        self._counted_at: datetime | None = None
        self._counts: Sequence[Count] = ()

    async def take(self) -> None:
        """Count.

        Raises:
            StoreUnavailable: the last counts stand for a while.
        """
        now = self._clock.now()
        self._counts, self._counted_at = await self._store.count(now, ENDING_WITHIN), now

    @property
    def counts(self) -> Sequence[Count]:
        """What was counted last, or nothing when that is too long ago."""
        return self._counts if self._is_fresh else ()

    def lag(self, count: Count) -> timedelta:
        """For how long the oldest due grant has been waiting for the background."""
        if count.oldest_due_at is None:
            return timedelta(0)
        return max(self._clock.now() - count.oldest_due_at, timedelta(0))

    @property
    def _is_fresh(self) -> bool:
        return self._counted_at is not None and self._clock.now() - self._counted_at <= FRESH * self._period
