import gc
from collections.abc import Generator, Iterator

import pytest
from fastapi.dependencies import models

from tests.support.canary import MARK
from tests.support.servers import Server, postgres_server, redis_server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Whatever a test is about: it fails when what it logged or printed holds a token of the provider."""
    report = yield
    places = [place for place, content in report.sections if MARK in content]
    if report.passed and places:
        report.outcome = "failed"
        report.longrepr = f"a token or code of the provider is in: {', '.join(places)}"
    return report


@pytest.fixture(scope="module", autouse=True)
def _quick_garbage_collections() -> Iterator[None]:
    """FastAPI's caches keep the last thousands of endpoints alive, each with its whole application.

    A service has one application, tests have hundreds: looking through all of them stops a test for seconds.
    """
    yield
    for cached in vars(models).values():
        if hasattr(cached, "cache_clear"):
            cached.cache_clear()
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def redis() -> Iterator[Server]:
    with redis_server() as server:
        yield server
