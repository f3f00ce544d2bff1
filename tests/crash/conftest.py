from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.crash.stage import Stage, stage_in
from tests.support.servers import Server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """An operation that a hung database keeps is abandoned on purpose, and its connection left to the collector."""
    abandoned = "ignore:.*BaseConnection.__del__:pytest.PytestUnraisableExceptionWarning"
    for item in items:
        if item.get_closest_marker("crash"):
            item.add_marker(pytest.mark.filterwarnings(abandoned))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def servers(tmp_path_factory: pytest.TempPathFactory, postgres: Server, redis: Server) -> AsyncIterator[Stage]:
    async with stage_in(tmp_path_factory.mktemp("crash"), postgres, redis) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="session")
async def stage(servers: Stage) -> AsyncIterator[Stage]:
    """The stage, whose servers run again when the cell is over, however it ended."""
    yield servers
    for server in (servers.postgres, servers.redis):
        server.go_on()
        if server.process.poll() is not None:
            server.start()
