"""What is counted by the minute, to be written down and told later, piece by piece."""

from collections.abc import Hashable, Iterator
from datetime import datetime
from itertools import islice
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Minute(Generic[K]):
    """Counts by key in the minute of *at*. Every key has a number of *numbers*, taken when it is first written down."""

    def __init__(self, at: datetime, numbers: Iterator[int]) -> None:
        self.at, self._numbers = at.replace(second=0, microsecond=0), numbers
        self.counts: dict[K, int] = {}
        self.changed: set[K] = set()
        self._number_of: dict[K, int] = {}
        self._untold: Iterator[K] | None = None

    def count(self, key: K, times: int) -> None:
        self.counts[key] = self.counts.get(key, 0) + times
        self.changed.add(key)

    def number(self, key: K) -> int:
        found = self._number_of.get(key)
        if found is None:
            found = self._number_of[key] = next(self._numbers)
        return found

    def untold(self, most: int) -> list[K]:
        """Up to *most* keys that this has not returned yet. The minute must be over: nothing is counted any more."""
        if self._untold is None:
            self._untold = iter(self.counts)
        return list(islice(self._untold, most))
