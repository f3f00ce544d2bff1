"""Connections to Redis that nothing waits for long, and the way around it while it does not answer."""

import asyncio
from datetime import timedelta

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.core.clock import Clock
from service.core.condition.bypass import Bypass

CONNECT_TIMEOUT = timedelta(milliseconds=250)

NO_ANSWER = (RedisConnectionError, RedisTimeoutError, OSError)
"""What is raised by a Redis that does not answer; one that refuses raises another `RedisError`."""


class RedisConnection:
    """A client with *connections* of its own: a free one is waited for at most *turn*, an answer at most *timeout*.

    There are as many `slots`, for whoever would rather queue before the client than inside it.
    """

    def __init__(self, url: str, *, clock: Clock, connections: int, turn: timedelta, timeout: timedelta) -> None:
        self.bypass, self.slots = Bypass(clock, self._answers), asyncio.Semaphore(connections)
        self.client = Redis(
            connection_pool=BlockingConnectionPool.from_url(
                url,
                max_connections=connections,
                timeout=turn.total_seconds(),
                socket_timeout=timeout.total_seconds(),
                socket_connect_timeout=CONNECT_TIMEOUT.total_seconds(),
                retry=Retry(NoBackoff(), 0),  # by itself the client tries again for seconds
            )
        )

    async def close(self) -> None:
        await self.bypass.close()
        await self.client.aclose(close_connection_pool=True)

    async def _answers(self) -> bool:
        try:
            await self.client.ping()
        except (RedisError, OSError):
            return False
        return True
