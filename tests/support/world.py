"""A whole world in one event loop: a sandbox and brokers over TCP, one database file, and one time for all."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from service.container import build
from service.lifecycle import Container
from service.telemetry import Metrics
from tests.support.brokers import Broker, broker_here, environment, furnish, settings_from
from tests.support.clock import FakeClock
from tests.support.versatures import Versature, versature_here


@dataclass(frozen=True, slots=True)
class World:
    """What brokers come and go in; `variables` are the settings that they start from."""

    folder: Path
    clock: FakeClock
    versature: Versature
    variables: dict[str, str]

    @property
    def database(self) -> Path:
        return self.folder / "broker.db"

    @property
    def redirect_uri(self) -> str:
        return _redirect_uri(self.variables)

    def broker(self, **overrides: str) -> contextlib.AbstractAsyncContextManager[Broker]:
        """A broker with *overrides* over the settings of this world."""
        return broker_here(settings_from({**self.variables, **overrides}), clock=self.clock)

    @contextlib.asynccontextmanager
    async def container(self) -> AsyncIterator[Container]:
        """The product without its HTTP, as its command line uses it."""
        container = build(settings_from(self.variables), Metrics(), clock=self.clock, works_alone=False)
        try:
            await container.start()
            yield container
        finally:
            await container.close()


@contextlib.asynccontextmanager
async def world_in(folder: Path) -> AsyncIterator[World]:
    """A world whose database, in *folder*, knows the caller `crm` and the company's application."""
    clock, variables = FakeClock(), environment(folder, "http://unset")
    async with versature_here(clock, [_redirect_uri(variables)]) as versature:
        variables |= {
            "VERSATURE_BASE_URL": f"{versature.base_url}/api",
            "VERSATURE_REVOCATION_URL": f"{versature.base_url}/api/oauth/revoke/",
        }
        await furnish(settings_from(variables))
        yield World(folder, clock, versature, variables)


def _redirect_uri(variables: dict[str, str]) -> str:
    return f"http://127.0.0.1:{variables['BROKER_PORT']}/oauth/callback"
