"""Flights: at most one running task per key, which outlives everybody who waits for it."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from datetime import timedelta
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Flights(Generic[K, T]):
    """Work in progress by key. A waiter who goes away, or gives up, never cancels the work."""

    def __init__(self) -> None:
        self._tasks: dict[K, asyncio.Task[T]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def running(self, key: K) -> bool:
        return key in self._tasks

    def join(self, key: K, work: Callable[[], Coroutine[Any, Any, T]]) -> tuple[asyncio.Task[T], bool]:
        """The flight for *key* and whether somebody else started it; *work* starts one when there is none."""
        if (task := self._tasks.get(key)) is not None:
            return task, True
        task = asyncio.create_task(work())
        self._tasks[key] = task
        task.add_done_callback(lambda done: self._land(key, done))
        return task, False

    def _land(self, key: K, task: asyncio.Task[T]) -> None:
        del self._tasks[key]
        if not task.cancelled():
            task.exception()  # marks it as seen: a flight without waiters is no programming error

    async def drain(self, timeout: timedelta) -> int:
        """Wait for every flight, at most *timeout*; returns how many are still in the air."""
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=timeout.total_seconds())
        return len(self._tasks)


async def wait_for_flight(task: asyncio.Task[T], timeout: timedelta) -> T:
    """The flight's result, or TimeoutError after *timeout*; the flight goes on either way."""
    done, _ = await asyncio.wait({task}, timeout=timeout.total_seconds())
    if not done:
        raise TimeoutError
    return task.result()
