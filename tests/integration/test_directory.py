"""A process learns of callers and applications by itself, even if no request of its own makes it ask."""

import asyncio

import pytest

from service.container import build
from service.telemetry import Metrics
from tests.support.brokers import furnish, settings_from
from tests.support.world import World


@pytest.mark.parametrize("seconds", ["0", "1"])
async def test_a_process_that_serves_only_browsers_learns_of_an_application(world: World, seconds: str) -> None:
    own = {"BROKER_DATABASE_URL": f"sqlite+aiosqlite:///{world.folder / 'new.db'}", "BROKER_ROUTES": "public"}
    settings = settings_from({**world.variables, **own, "BROKER_LOCAL_CACHE_SECONDS": seconds})
    pages = build(settings, Metrics())
    try:
        await pages.start()
        directory = pages.services.directory
        assert [application.name for application in directory.applications] == ["default"]
        await furnish(settings)
        for _ in range(600):
            if len(directory.applications) > 1:
                break
            await asyncio.sleep(0.05)
        assert [application.name for application in directory.applications] == ["default", "company"]
    finally:
        await pages.close()
