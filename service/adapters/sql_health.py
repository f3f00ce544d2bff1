"""How the database is: there, with a schema that this version can work on, and of one time with us."""

from sqlalchemy import text

from service.adapters.sql_database import Database, Forbidden, Incomplete
from service.adapters.sql_migrations import FOREIGN, Schema, schema_of
from service.core.clock import Clock
from service.core.condition.health import READY, PartHealth, Readiness
from service.core.condition.skew import LIMIT, ClockSkew
from service.core.errors import StoreUnavailable

_AWAY = PartHealth(
    Readiness.DEGRADED,
    "the database cannot be asked (is it up, are its address and password right?); cached tokens still flow",
)

_OF_SCHEMAS = {
    Schema.FITS: READY,
    Schema.EARLIER: PartHealth(Readiness.NOT_READY, "the schema is not this version's yet: run token-broker migrate"),
    Schema.FOREIGN: PartHealth(Readiness.NOT_READY, FOREIGN),
}


class DatabaseHealth:
    """Checks for readiness; each asks the database itself."""

    def __init__(self, database: Database, skew: ClockSkew, clock: Clock) -> None:
        self._database, self._skew, self._clock = database, skew, clock

    async def database(self) -> PartHealth:
        if self._database.is_bypassed:
            return _AWAY
        try:
            return _OF_SCHEMAS[await schema_of(self._database)]
        except Forbidden as refusal:
            return PartHealth(Readiness.DEGRADED, refusal.detail)
        except Incomplete:
            return _OF_SCHEMAS[Schema.FOREIGN]
        except StoreUnavailable:
            return _AWAY

    async def durability(self) -> PartHealth:
        """Whether what the database has confirmed survives its crash: everything here relies on it."""
        if self._database.is_sqlite:
            return READY
        if self._database.is_bypassed:
            return _AWAY
        try:
            async with self._database.read() as connection:
                setting = (await connection.execute(text("SHOW synchronous_commit"))).scalar_one()
        except StoreUnavailable:
            return _AWAY
        if setting == "off":
            return PartHealth(Readiness.DEGRADED, "synchronous_commit is off: a crash of PostgreSQL loses grants")
        return READY

    async def clock(self) -> PartHealth:
        if self._database.is_bypassed:
            return _AWAY
        try:
            asked_at = self._clock.now()
            self._skew.note(await self._database.ask_clock(), asked_at, self._clock.now())
        except StoreUnavailable:
            return _AWAY
        if self._skew.is_too_large:
            return PartHealth(Readiness.NOT_READY, f"more than {LIMIT.total_seconds():g} s from the database's clock")
        return READY
