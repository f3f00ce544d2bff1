"""The core's own world: everything in memory, and a time that jumps instead of passing."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.support.replicas import House, Replica
from tests.support.virtual_time import VirtualClock, VirtualLoop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Virtual time for the tests beside this file; what lies deeper talks to the world and needs its time."""
    if item.path.parent == Path(__file__).parent:
        return {"virtual": VirtualLoop}
    return {"real": asyncio.new_event_loop}


@pytest.fixture
async def clock() -> VirtualClock:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return VirtualClock(loop)


@pytest.fixture
def house(clock: VirtualClock) -> House:
    return House(clock)


@pytest.fixture
def replica(house: House) -> Replica:
    return house.replica()
