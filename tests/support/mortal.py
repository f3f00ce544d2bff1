"""What a process holds on to the world with, so that a test can let it die in the midst of anything."""

import asyncio
import inspect
from typing import Any, TypeVar, cast

T = TypeVar("T")


class Life:
    """Shared by everything that one process uses."""

    def __init__(self) -> None:
        self.over = False

    def line_to(self, part: T) -> T:
        """*part*, as this process reaches it: once the process is dead no call of it begins or returns."""
        return cast(T, _Line(part, self))


class _Line:
    def __init__(self, part: object, life: Life) -> None:
        self._part, self._life = part, life

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def call(*args: Any, **kwargs: Any) -> Any:
            await self._unless_dead()
            answer = await found(*args, **kwargs)
            await self._unless_dead()
            return answer

        return call

    async def _unless_dead(self) -> None:
        if self._life.over:
            await asyncio.get_running_loop().create_future()
