"""A process starts, whatever an earlier one left behind, and ends, whatever is under way."""

import asyncio
import contextlib
import signal
from collections.abc import MutableMapping, Sequence
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from service.cli.serving import _Server, server_config
from service.core.condition.health import READY, PartHealth
from service.core.condition.shutdown import Shutdown
from service.core.errors import StoreUnavailable
from service.core.records import EscrowEntry
from service.lifecycle import Container
from service.main import create_app
from tests.support.brokers import SEALING_KEY, settings_from
from tests.support.clock import FakeClock
from tests.support.memory_ports import MemoryEscrow
from tests.support.replicas import HOUR, VERSATURE, House, Replica


class Broken(MemoryEscrow):
    """Fails in a way that nobody thought of."""

    async def entries(self) -> Sequence[EscrowEntry]:
        raise RuntimeError("nobody thought of this")


async def durable() -> PartHealth:
    return READY


def container(replica: Replica) -> Container:
    """As much of one as its start needs."""
    parts: dict[str, Any] = dict.fromkeys(Container.__dataclass_fields__)
    parts |= {
        "database": SimpleNamespace(is_sqlite=False),
        "services": SimpleNamespace(directory=replica.directory),
        "core": replica,
        "durability": durable,
        "_works_alone": False,
        "_tasks": [],
    }
    return Container(**parts)


async def test_an_escrow_that_cannot_be_replayed_does_not_keep_a_process_from_starting(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    replica = house.replica(settings=VERSATURE, spool=Broken())
    await container(replica).start()
    assert "escrow could not be replayed" in caplog.messages
    await house.import_(replica)
    assert (await replica.ask()).token.generation == 1


async def test_a_database_that_hangs_does_not_keep_a_process_from_starting(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.rows.held["version"] = asyncio.Event()
    replica = house.replica(settings=VERSATURE)
    await container(replica).start()
    assert "the database cannot be asked yet; starting without it" in caplog.messages
    house.rows.held["version"].set()
    await replica.directory.check()
    assert replica.directory.is_loaded


async def test_a_start_that_fails_closes_what_it_had_begun() -> None:
    closed: list[bool] = []

    class Failing:
        async def start(self) -> None:
            raise RuntimeError("nobody thought of this")

        async def close(self) -> None:
            closed.append(True)

    async def begin() -> dict[str, str]:
        return {"type": "lifespan.startup"}

    async def hear(message: MutableMapping[str, Any]) -> None:
        assert message["type"] == "lifespan.startup.failed"

    settings = settings_from({"BROKER_ENCRYPTION_KEYS": SEALING_KEY})
    app = create_app(settings, make=lambda _settings, _metrics: cast("Container", Failing()))
    with pytest.raises(RuntimeError, match="nobody thought of this"):
        await app({"type": "lifespan", "state": {}}, begin, hear)
    assert closed == [True]


async def test_a_database_that_does_not_take_what_waits_does_not_keep_a_process_from_starting(house: House) -> None:
    dead = house.replica()
    await house.import_(dead)
    await dead.custody.keep(house.answer())
    house.grants.away_for = {"save"}
    replica = house.replica(settings=VERSATURE, spool=dead.spool)
    await container(replica).start()
    with pytest.raises(StoreUnavailable):
        await replica.recovery.replay()
    house.grants.away_for = set()
    await replica.recovery.replay()
    assert (await house.row()).generation == 2


async def test_a_driver_that_swallows_a_cancellation_does_not_keep_a_process_from_ending(house: House) -> None:
    swallowed = asyncio.Event()

    async def duty() -> None:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if swallowed.is_set():
                    raise
                swallowed.set()

    ending = container(house.replica())
    ending._drains, ending._closes, ending._shutdown = (), (), Shutdown(timedelta(0), house.clock)
    task = asyncio.create_task(duty())
    await asyncio.sleep(0)
    ending._tasks.append(task)
    async with asyncio.timeout(10):
        await ending.close()
    assert swallowed.is_set()
    assert task.cancelled()


async def test_work_that_never_stops_does_not_keep_a_process_from_ending(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    enough = False

    async def duty() -> None:
        while not enough:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)

    ending = container(house.replica())
    ending._drains, ending._closes, ending._shutdown = (), (), Shutdown(timedelta(0), house.clock)
    task = asyncio.create_task(duty())
    await asyncio.sleep(0)
    ending._tasks.append(task)
    async with asyncio.timeout(60):
        await ending.close()
    assert "closing though some work did not stop" in caplog.messages
    enough = True
    task.cancel()
    await task


async def test_a_process_stops_its_own_work_then_waits_for_what_is_under_way_and_only_then_closes(house: House) -> None:
    happened: list[str] = []

    class Part:
        async def drain(self, timeout: timedelta) -> int:
            happened.append(f"waited for at most {timeout.total_seconds():g} s")
            house.clock.advance(timedelta(seconds=5))
            return 0

        async def close(self) -> None:
            happened.append("closed")

    async def duty() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            happened.append("stopped")

    ending = container(house.replica())
    ending._drains, ending._closes, ending._shutdown = (Part(), Part()), (Part(),), Shutdown(HOUR / 900, house.clock)
    ending._tasks.append(asyncio.create_task(duty()))
    await asyncio.sleep(0)
    await ending.close()
    assert happened == ["stopped", "waited for at most 4 s", "waited for at most 0.1 s", "closed"]


def test_a_process_that_is_told_to_end_counts_its_time_from_then_on() -> None:
    settings = settings_from({"BROKER_ENCRYPTION_KEYS": SEALING_KEY, "BROKER_DRAIN_SECONDS": "7"})
    config, shutdown = server_config(create_app(settings), settings), Shutdown(settings.drain, FakeClock())
    assert config.timeout_graceful_shutdown == 7
    _Server(config, shutdown).handle_exit(signal.SIGTERM, None)
    assert shutdown.left == timedelta(seconds=7)
