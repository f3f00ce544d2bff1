import functools
import ssl
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from service.core.condition import health
from tests.api.front import Front, front_in


@pytest.fixture(scope="package", autouse=True)
def one_tls_context() -> Iterator[None]:
    """Nobody here speaks TLS, and every HTTP client makes a context of its own, which takes longer than most tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", functools.cache(ssl.create_default_context))
        yield


@pytest.fixture(autouse=True)
def patient_health(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that is merely slow in a crowd of tests is not degraded; what hangs is a matter for tests of its own."""
    monkeypatch.setattr(health, "PATIENCE", timedelta(seconds=20))


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with front_in(tmp_path) as found:
        yield found
