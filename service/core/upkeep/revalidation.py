"""Keeps promises about age: what is cached here is asked for in batches, not one by one."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime

from service.core.clock import Clock
from service.core.directory import Directory
from service.core.lane import Lane
from service.core.local_cache import LocalCache
from service.core.model import GrantId, GrantState
from service.core.ports import GrantStore
from service.core.records import Standing

BATCH = 1000


class Confirmer:
    """Asks the database how grants stand; whoever asks while a query runs shares the next one."""

    def __init__(self, grants: GrantStore, clock: Clock) -> None:
        self._grants, self._clock = grants, clock
        self._waiting: dict[GrantId, asyncio.Future[tuple[datetime, Standing | None]]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def confirm(self, grant: GrantId) -> tuple[datetime, Standing | None]:
        """How *grant* stands, None if it does not exist, and the instant from which that is known.

        Raises:
            StoreUnavailable: the database cannot be asked.
        """
        future = self._waiting.get(grant)
        if future is None:
            future = self._waiting[grant] = asyncio.get_running_loop().create_future()
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        return await asyncio.shield(future)

    async def _ask(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, {}
            asked_at = self._clock.now()
            try:
                standings = await self._standings(list(batch))
            except Exception as failure:  # whatever it is, nobody may wait for ever
                for future in batch.values():
                    future.set_exception(failure)
                    future.exception()  # marks it as seen, should every waiter have gone
            else:
                for grant, future in batch.items():
                    future.set_result((asked_at, standings.get(grant)))
        self._asking = None

    async def _standings(self, grants: Sequence[GrantId]) -> Mapping[GrantId, Standing]:
        found: dict[GrantId, Standing] = {}
        for start in range(0, len(grants), BATCH):
            found |= await self._grants.standings(grants[start : start + BATCH])
        return found


class Revalidator:
    """Confirms, a few times within the promised age, every entry that is in use and the directory's version."""

    def __init__(self, grants: GrantStore, directory: Directory, local: LocalCache, lane: Lane, clock: Clock) -> None:
        self._grants, self._directory, self._local, self._clock = grants, directory, local, clock
        self._lane = lane

    async def tick(self) -> None:
        """Ask once for everything that is in use.

        An entry that somebody is about to renew is not confirmed: its next caller takes the long way and waits.

        Raises:
            StoreUnavailable: nothing could be confirmed.
        """
        self._lane.collect()
        await self._directory.check()
        in_use = self._local.in_use()
        for start in range(0, len(in_use), BATCH):
            await self._confirm(in_use[start : start + BATCH])

    async def _confirm(self, grants: Sequence[GrantId]) -> None:
        asked_at = self._clock.now()
        standings = await self._grants.standings(grants)
        for grant in grants:
            standing = standings.get(grant)
            if standing is None or standing.state is not GrantState.CONNECTED:
                self._local.drop(grant)
            elif not standing.claimed:
                self._local.confirm(grant, standing, asked_at)
