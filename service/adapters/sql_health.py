"""How the database is: there, of this version's schema, and of one time with us."""

from service.adapters.sql_database import Database
from service.adapters.sql_migrations import schema_is_current
from service.core.clock import Clock
from service.core.errors import StoreUnavailable
from service.core.health import READY, PartHealth, Readiness
from service.core.skew import LIMIT, ClockSkew


class DatabaseHealth:
    """Checks for readiness; each asks the database itself."""

    def __init__(self, database: Database, skew: ClockSkew, clock: Clock) -> None:
        self._database, self._skew, self._clock = database, skew, clock

    async def database(self) -> PartHealth:
        try:
            if await schema_is_current(self._database):
                return READY
        except StoreUnavailable:
            return PartHealth(Readiness.DEGRADED, "the database cannot be asked; cached tokens still flow")
        return PartHealth(Readiness.NOT_READY, "the schema is another version's: run token-broker migrate")

    async def clock(self) -> PartHealth:
        try:
            asked_at = self._clock.now()
            self._skew.note(await self._database.ask_clock(), asked_at, self._clock.now())
        except StoreUnavailable:
            return PartHealth(Readiness.DEGRADED, "the database's clock cannot be asked")
        if self._skew.is_too_large:
            return PartHealth(Readiness.NOT_READY, f"more than {LIMIT.total_seconds():g} s from the database's clock")
        return READY
