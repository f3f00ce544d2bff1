"""A sandbox over real TCP for every test, on a clock that nobody waits for."""

from collections.abc import AsyncIterator

import httpx
import pytest

from sandbox.app import create_sandbox
from sandbox.server import running
from tests.sandbox.visitor import Clock, Visitor


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def visitor(clock: Clock) -> AsyncIterator[Visitor]:
    async with running(create_sandbox(now=clock)) as served, httpx.AsyncClient(base_url=served.base_url) as http:
        yield Visitor(http)
