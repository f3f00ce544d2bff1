"""Escrow in Redis: the second copy, for when the disk of the process that kept an answer is out of reach."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import TypeVar, cast

from redis.exceptions import RedisError, ResponseError

from service.adapters.redis_connection import NO_ANSWER, RedisConnection
from service.core.clock import Clock
from service.core.escrow.envelopes import from_bytes, oldest_first, to_bytes
from service.core.model import GrantId
from service.core.ports import EscrowUnavailable
from service.core.records import EscrowEntry
from service.core.sealing.digests import grant_digest

log = logging.getLogger(__name__)

TIMEOUT = timedelta(milliseconds=250)
TURN_TIMEOUT = timedelta(seconds=2)
"""How long to wait for a connection: when the database goes away, many answers come to be kept at once."""
CONNECTIONS = 10
BATCH = 200

INDEX = "token-broker:escrow"
TRIAL = "token-broker:escrow-trial"
TRIAL_LIFE = timedelta(seconds=1)
# A set of all grants' digests, and per grant a hash of attempts to envelopes. The index is written first and taken
# away last: should a script break off, an index entry without hash is healed, a hash without one would not be found.
_PUT = """
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
"""
_REMOVE = """
if ARGV[2] then redis.call('HDEL', KEYS[2], ARGV[2]) end
if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('SREM', KEYS[1], ARGV[1]) end
"""

T = TypeVar("T")
Found = Mapping[bytes, bytes] | Exception


class RedisEscrow:
    """An `Escrow` in Redis, without expiry. It never tries twice: whoever keeps an answer does.

    A Redis that does not answer is left alone until a probe succeeds: until then everybody is told at once that it
    could not be asked.
    """

    def __init__(self, url: str, *, clock: Clock) -> None:
        self._connection = RedisConnection(
            url, clock=clock, connections=CONNECTIONS, turn=TURN_TIMEOUT, timeout=TIMEOUT
        )
        self._redis, self._bypass = self._connection.client, self._connection.bypass
        self._put = self._redis.register_script(_PUT)
        self._remove = self._redis.register_script(_REMOVE)
        self._complained: frozenset[bytes] = frozenset()

    @property
    def unreadable(self) -> int:
        """Of how many grants something could not be read when all entries were last asked for."""
        return len(self._complained)

    async def put(self, entry: EscrowEntry) -> None:
        try:
            envelope = to_bytes(entry)
        except ValueError:
            raise EscrowUnavailable("the entry cannot be written down") from None
        name = _name(entry.grant)
        arguments = [name, entry.attempt_id.encode(), envelope]
        await self._asked(lambda: self._put(keys=[INDEX, _key(name)], args=arguments))

    async def check(self) -> None:
        """Asked even while Redis is left alone, and no reason to."""
        await _answer(lambda: self._redis.set(TRIAL, b"", px=TRIAL_LIFE))

    async def look(self, grant: GrantId) -> Sequence[EscrowEntry]:
        name = _name(grant)
        found = await self._asked(lambda: cast(Awaitable[Mapping[bytes, bytes]], self._redis.hgetall(_key(name))))
        entries, unreadable = _read(name, found)
        if unreadable:
            raise EscrowUnavailable("an entry in Redis cannot be read")
        return oldest_first(entries)

    async def entries(self) -> Sequence[EscrowEntry]:
        names = await self._asked(self._indexed)
        found: list[EscrowEntry] = []
        unreadable: set[bytes] = set()
        for start in range(0, len(names), BATCH):
            batch = names[start : start + BATCH]
            hashes = await self._asked(partial(self._fetch, batch))
            for name, content in zip(batch, hashes, strict=True):
                if content == {}:
                    await self._settle(name)
                entries, odd = _read(name, content)
                found += entries
                unreadable |= odd
        self._complain(frozenset(unreadable))
        return oldest_first(found)

    async def remove(self, entry: EscrowEntry) -> None:
        attempt = entry.attempt_id.encode("utf-8", "surrogatepass")
        await self._settle(_name(entry.grant), attempt)

    async def close(self) -> None:
        await self._connection.close()

    async def _indexed(self) -> list[bytes]:
        """All digests, in answers each of which is small enough for the timeout, however many wait."""
        return sorted({name async for name in self._redis.sscan_iter(INDEX, count=BATCH)})

    async def _fetch(self, names: Sequence[bytes]) -> Sequence[Found]:
        pipeline = self._redis.pipeline(transaction=False)
        for name in names:
            pipeline.hgetall(_key(name))
        return await pipeline.execute(raise_on_error=False)

    async def _settle(self, name: bytes, *attempts: bytes) -> None:
        """Take *attempts* of one grant away, and its place in the index if nothing remains."""
        await self._asked(lambda: self._remove(keys=[INDEX, _key(name)], args=[name, *attempts]))

    async def _asked(self, operation: Callable[[], Awaitable[T]]) -> T:
        """What Redis answers, to as many at once as it has connections for.

        Raises:
            EscrowUnavailable: as `_answer`; Redis is left alone; or it was nobody's turn for too long.
        """
        if not await self._has_turn():
            raise EscrowUnavailable("Redis failed: too many want it at once")
        try:
            if self._bypass.is_down:
                raise EscrowUnavailable("Redis failed and is left alone")
            return await _answer(operation, self._bypass.failed)
        finally:
            self._connection.slots.release()

    async def _has_turn(self) -> bool:
        try:
            async with asyncio.timeout(TURN_TIMEOUT.total_seconds()):
                return await self._connection.slots.acquire()
        except TimeoutError:
            return False

    def _complain(self, unreadable: frozenset[bytes]) -> None:
        for name in sorted(unreadable - self._complained):
            log.error("an escrow entry in Redis cannot be read", extra={"key": _key(name).decode(errors="replace")})
        self._complained = unreadable


async def _answer(operation: Callable[[], Awaitable[T]], lost: Callable[[], None] = lambda: None) -> T:
    """What Redis answers; *lost* is told when it does not, as opposed to refusing.

    Raises:
        EscrowUnavailable: it does neither or refuses; the message names the kind of failure and nothing else.
    """
    try:
        return await operation()
    except (RedisError, OSError) as failure:
        kind = type(failure).__name__
        if isinstance(failure, NO_ANSWER):
            lost()
    raise EscrowUnavailable(f"Redis failed: {kind}")


def _name(grant: GrantId) -> bytes:
    return grant_digest(grant).encode()


def _key(name: bytes) -> bytes:
    return b"%s:%s" % (INDEX.encode(), name)


def _read(name: bytes, found: Found) -> tuple[list[EscrowEntry], set[bytes]]:
    """The entries of the grant called *name*, and its name again if something lies there that is none."""
    if isinstance(found, Exception):
        if isinstance(found, ResponseError) and str(found).startswith("WRONGTYPE"):
            return [], {name}
        raise EscrowUnavailable(f"Redis failed: {type(found).__name__}")
    read = [_entry(name, attempt, envelope) for attempt, envelope in found.items()]
    return [entry for entry in read if entry is not None], {name} if None in read else set()


def _entry(name: bytes, attempt: bytes, envelope: bytes) -> EscrowEntry | None:
    """The entry, unless it is garbled or somebody else's."""
    try:
        entry = from_bytes(envelope)
    except ValueError:
        return None
    return entry if (_name(entry.grant), entry.attempt_id.encode()) == (name, attempt) else None
