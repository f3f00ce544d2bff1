"""What every `TokenCache` promises, the fake as well as Redis."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from redis import Redis

from service.adapters.redis_cache import RedisTokenCache
from service.core.clock import SystemClock
from service.core.condition.health import Readiness
from service.core.model import GrantId
from service.core.ports import TokenCache
from service.core.records import CachedToken
from tests.support.memory_ports import MemoryTokenCache
from tests.support.servers import Server, redis_server

ALICE = GrantId("default", "alice")
MINUTE = timedelta(minutes=1)


@pytest.fixture(params=["memory", "redis"])
async def cache(request: pytest.FixtureRequest) -> AsyncIterator[TokenCache]:
    if request.param == "memory":
        yield MemoryTokenCache(SystemClock())
        return
    server: Server = request.getfixturevalue("redis")
    Redis.from_url(server.url).flushall()
    found = RedisTokenCache(server.url, clock=SystemClock(), observe=lambda _operation, _outcome: None)
    yield found
    await found.close()


async def test_what_was_put_is_found_with_its_generation(cache: TokenCache) -> None:
    assert await cache.get(ALICE) is None
    await cache.put(ALICE, 3, b"sealed", MINUTE)
    assert await cache.get(ALICE) == CachedToken(3, b"sealed")
    assert await cache.get(GrantId("other", "alice")) is None


@pytest.mark.parametrize("generation", [2, 3])
async def test_an_equal_or_lower_generation_never_overwrites(cache: TokenCache, generation: int) -> None:
    await cache.put(ALICE, 3, b"sealed", MINUTE)
    await cache.put(ALICE, generation, b"late", MINUTE)
    assert await cache.get(ALICE) == CachedToken(3, b"sealed")
    await cache.put(ALICE, 4, b"newer", MINUTE)
    assert await cache.get(ALICE) == CachedToken(4, b"newer")


async def test_a_tombstone_keeps_late_tokens_out_and_lets_a_newer_generation_in(cache: TokenCache) -> None:
    await cache.put(ALICE, 3, b"sealed", MINUTE)
    await cache.bury(ALICE, 4)
    assert await cache.get(ALICE) == CachedToken(4, None)
    await cache.put(ALICE, 4, b"late", MINUTE)
    assert await cache.get(ALICE) == CachedToken(4, None)
    await cache.put(ALICE, 5, b"reconnected", MINUTE)
    assert await cache.get(ALICE) == CachedToken(5, b"reconnected")


async def test_a_tombstone_is_laid_over_a_token_of_its_own_generation(cache: TokenCache) -> None:
    await cache.put(ALICE, 4, b"an answer on its way to a grant that was revoked meanwhile", MINUTE)
    await cache.bury(ALICE, 4)
    assert await cache.get(ALICE) == CachedToken(4, None)
    await cache.put(ALICE, 5, b"newer", MINUTE)
    await cache.bury(ALICE, 4)
    assert await cache.get(ALICE) == CachedToken(5, b"newer")


async def test_a_token_without_life_is_not_kept(cache: TokenCache) -> None:
    await cache.put(ALICE, 3, b"sealed", timedelta(0))
    assert await cache.get(ALICE) is None


async def test_what_is_forgotten_is_gone_whatever_its_generation_and_only_something_newer_comes_in(
    cache: TokenCache,
) -> None:
    await cache.put(ALICE, 3, b"sealed", MINUTE)
    await cache.forget(ALICE, up_to=1)
    assert await cache.get(ALICE) == CachedToken(1, None)
    await cache.put(ALICE, 1, b"late", MINUTE)
    assert await cache.get(ALICE) == CachedToken(1, None)
    await cache.put(ALICE, 2, b"other", MINUTE)
    assert await cache.get(ALICE) == CachedToken(2, b"other")


async def test_redis_keys_hide_users_and_live_no_longer_than_told(redis: Server) -> None:
    client = Redis.from_url(redis.url, decode_responses=True)
    client.flushall()
    cache = RedisTokenCache(redis.url, clock=SystemClock(), observe=lambda _operation, _outcome: None)
    await cache.put(ALICE, 1, b"sealed", MINUTE)
    await cache.close()
    (key,) = client.keys()
    assert re.fullmatch(r"token-broker:token:[0-9a-f]{40}", str(key))
    assert 0 < client.pttl(key) <= 60_000


def bypassed(cache: RedisTokenCache) -> bool:
    return cache.is_bypassed


async def test_a_dead_redis_is_asked_once_and_then_bypassed_until_it_is_back() -> None:
    told: list[tuple[str, str]] = []
    with redis_server() as server:
        cache = RedisTokenCache(
            server.url, clock=SystemClock(), observe=lambda operation, outcome: told.append((operation, outcome))
        )
        await cache.put(ALICE, 1, b"sealed", MINUTE)
        server.kill()
        for _ in range(5):
            assert await cache.get(ALICE) is None
        assert told == [("put", "ok"), ("get", "failed"), *[("get", "bypassed")] * 4]
        assert bypassed(cache)
        assert (await cache.health()).readiness is Readiness.DEGRADED
        server.start()
        for _ in range(100):
            if not bypassed(cache):
                break
            await asyncio.sleep(0.05)
        await cache.put(ALICE, 2, b"again", MINUTE)
        assert await cache.get(ALICE) == CachedToken(2, b"again")
        assert (await cache.health()).readiness is Readiness.READY
        await cache.close()


async def test_a_full_or_read_only_redis_still_answers_reads(redis: Server) -> None:
    client = Redis.from_url(redis.url)
    client.flushall()
    cache = RedisTokenCache(redis.url, clock=SystemClock(), observe=lambda _operation, _outcome: None)
    await cache.put(ALICE, 1, b"sealed", MINUTE)
    client.config_set("maxmemory", "1")
    client.config_set("maxmemory-policy", "noeviction")
    try:
        await cache.put(ALICE, 2, b"newer", MINUTE)
        assert await cache.get(ALICE) == CachedToken(1, b"sealed")
        assert not cache.is_bypassed
        assert (await cache.health()).readiness is Readiness.DEGRADED
        client.config_set("maxmemory", "0")
        assert (await cache.health()).readiness is Readiness.READY
        client.replicaof("127.0.0.1", "1")
        assert (await cache.health()).readiness is Readiness.DEGRADED
    finally:
        client.replicaof("NO", "ONE")
        client.config_set("maxmemory", "0")
        await cache.close()
