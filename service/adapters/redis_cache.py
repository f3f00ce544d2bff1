"""Access tokens in Redis: sealed, by generation, and never in anybody's way."""

import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar, cast

from redis.exceptions import RedisError

from service.adapters.redis_connection import NO_ANSWER, RedisConnection
from service.core.clock import Clock
from service.core.condition.health import READY, PartHealth, Readiness
from service.core.model import GrantId
from service.core.records import CachedToken
from service.core.sealing.digests import grant_digest

log = logging.getLogger(__name__)

TIMEOUT = timedelta(milliseconds=50)
CONNECTIONS = 50
TOMBSTONE_LIFE = timedelta(days=1)

TRIAL = "token-broker:trial"
TRIAL_LIFE = timedelta(seconds=1)
"""What is written to see whether writing works, and for how long."""

# One hash per grant: `g` the generation, `v` the sealed token, empty in a tombstone. A token is written over lower
# generations only; a tombstone also over its own, for an answer on its way to a revoked grant bears the same one. What
# the database says by a newer row is written over anything.
_WRITE = """
local known = ARGV[4] == '0' and redis.call('HGET', KEYS[1], 'g')
if known and tonumber(known) > tonumber(ARGV[1]) then return 0 end
if known and tonumber(known) == tonumber(ARGV[1]) and ARGV[2] ~= '' then return 0 end
redis.call('HSET', KEYS[1], 'g', ARGV[1], 'v', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""

T = TypeVar("T")
Observe = Callable[[str, str], None]
"""Told of every operation and its outcome: `ok`, `failed`, or `bypassed`."""


class RedisTokenCache:
    """A `TokenCache` in Redis. What fails is counted and forgotten; the next second tries again."""

    def __init__(self, url: str, *, clock: Clock, observe: Observe) -> None:
        self._connection = RedisConnection(url, clock=clock, connections=CONNECTIONS, turn=TIMEOUT, timeout=TIMEOUT)
        self._redis, self._bypass = self._connection.client, self._connection.bypass
        self._write, self._observe = self._redis.register_script(_WRITE), observe

    @property
    def is_bypassed(self) -> bool:
        return self._bypass.is_down

    async def get(self, grant: GrantId) -> CachedToken | None:
        found = await self._ask("get", lambda: cast(Awaitable[list[Any]], self._redis.hmget(_key(grant), ["g", "v"])))
        if found is None or found[0] is None:
            return None
        return CachedToken(generation=int(found[0]), sealed=found[1] or None)

    async def put(self, grant: GrantId, generation: int, sealed: bytes, ttl: timedelta) -> None:
        await self._write_entry("put", grant, generation, sealed, ttl)

    async def bury(self, grant: GrantId, generation: int) -> None:
        await self._write_entry("bury", grant, generation, b"", TOMBSTONE_LIFE)

    async def forget(self, grant: GrantId, *, up_to: int) -> None:
        await self._write_entry("forget", grant, up_to, b"", TOMBSTONE_LIFE, over_anything=True)

    async def health(self) -> PartHealth:
        """Asked even while it is bypassed; without Redis the database serves what it would have."""
        try:
            await self._redis.set(TRIAL, b"", px=TRIAL_LIFE)
        except NO_ANSWER:
            return PartHealth(Readiness.DEGRADED, "Redis cannot be asked; the database serves in its place")
        except RedisError:
            return PartHealth(Readiness.DEGRADED, "Redis takes nothing new: is it full, a replica, or closed to us?")
        return READY

    async def close(self) -> None:
        await self._connection.close()

    async def _write_entry(
        self, name: str, grant: GrantId, generation: int, value: bytes, ttl: timedelta, *, over_anything: bool = False
    ) -> None:
        milliseconds = ttl // timedelta(milliseconds=1)
        if milliseconds > 0:
            arguments: list[int | bytes] = [generation, value, milliseconds, int(over_anything)]
            await self._ask(name, lambda: self._write(keys=[_key(grant)], args=arguments))

    async def _ask(self, name: str, operation: Callable[[], Awaitable[T]]) -> T | None:
        """The operation's answer, or None: a Redis that is full or read-only still answers reads."""
        async with self._connection.slots:
            if self._bypass.is_down:
                self._observe(name, "bypassed")
                return None
            return await self._try(name, operation)

    async def _try(self, name: str, operation: Callable[[], Awaitable[T]]) -> T | None:
        try:
            answer = await operation()
        except NO_ANSWER as failure:
            self._bypass.failed()
            self._complain(name, failure)
            return None
        except RedisError as failure:
            self._complain(name, failure)
            return None
        self._observe(name, "ok")
        return answer

    def _complain(self, name: str, failure: Exception) -> None:
        self._observe(name, "failed")
        log.warning("redis failed", extra={"operation": name, "failure": type(failure).__name__})


def _key(grant: GrantId) -> str:
    """Users' names do not show in Redis."""
    return f"token-broker:token:{grant_digest(grant)}"
