"""A memory of so many entries and bytes that forgets what was used longest ago."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class Weighed(Protocol):
    """Something that knows about how many bytes it takes."""

    @property
    def size(self) -> int: ...


K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Weighed)


class Bounded(Generic[K, V]):
    """Values by key, never more of them than *max_entries* and never heavier together than *max_bytes*."""

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._values: OrderedDict[K, V] = OrderedDict()
        self._max_entries, self._max_bytes = max_entries, max_bytes
        self._bytes = 0
        self.get = self._values.get
        """The value of a key, without counting as a use of it: the dictionary's own method, for the sake of speed."""

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: K) -> bool:
        return key in self._values

    def use(self, key: K) -> None:
        """The value of *key*, which must be there, is the one to be forgotten last."""
        self._values.move_to_end(key)

    def put(self, key: K, value: V) -> list[V]:
        """Keep *value*, as just used; returns what had to go for it, which may be *value* itself."""
        self.pop(key)
        self._values[key] = value
        self._bytes += value.size
        forgotten = []
        while len(self._values) > self._max_entries or self._bytes > self._max_bytes:
            _, oldest = self._values.popitem(last=False)
            self._bytes -= oldest.size
            forgotten.append(oldest)
        return forgotten

    def pop(self, key: K) -> V | None:
        """Forget *key*; returns its value, if there was one."""
        value = self._values.pop(key, None)
        if value is not None:
            self._bytes -= value.size
        return value
