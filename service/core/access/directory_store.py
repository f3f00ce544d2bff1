"""The port of callers, their keys and applications."""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from service.core.model import Application, Caller, GrantType
from service.core.records import ApiKey, DirectoryRows, KeyAddition


class DirectoryStore(Protocol):
    """Callers, keys and applications. Every change moves the version; every method raises `StoreUnavailable`."""

    async def version(self) -> int: ...

    async def load(self) -> DirectoryRows: ...

    async def add_application(self, application: Application) -> bool:
        """False when the name is taken. Whatever was said of that name before, it begins as nobody's default."""
        ...

    async def change_application(self, name: str, change: Callable[[Application], Application]) -> Application | None:
        """Put *change* of the application in its place and return it, or None when there is no such application.

        No other change comes between reading and writing; what *change* raises leaves everything as it was. The name
        and the place in the order stay.
        """
        ...

    async def remove_application(self, name: str) -> bool: ...

    async def set_default(self, grant_type: GrantType, name: str) -> None: ...

    async def add_caller(self, caller: Caller, key: ApiKey) -> bool:
        """False when the name is taken."""
        ...

    async def change_caller(self, name: str, change: Callable[[Caller], Caller]) -> Caller | None:
        """The same as `change_application`, for callers."""
        ...

    async def remove_caller(self, name: str) -> bool: ...

    async def add_key(self, key: ApiKey, *, now: datetime, most: int) -> KeyAddition:
        """Give the caller one more key, unless it has *most* that have not expired by *now*.

        Keys that have expired are forgotten on this occasion.
        """
        ...

    async def remove_key(self, caller: str, key_id: str) -> bool:
        """False when the caller has no such key."""
        ...

    async def replace_keys(self, caller: str, key: ApiKey) -> bool:
        """Give the caller *key* in place of all its keys. False when there is no such caller."""
        ...
