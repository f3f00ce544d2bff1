"""Rule 2 to its end: a process that is asked to end waits for what it has sent, and closes nothing before."""

import asyncio
import contextlib
import sqlite3
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.container import build
from service.core.model import TokenAnswer
from service.telemetry import Metrics
from tests.api.front import front_in
from tests.support.brokers import environment, settings_from

ANSWER_SECONDS = 0.5


async def test_a_process_that_ends_waits_for_a_renewal_that_nobody_waits_for_and_saves_its_answer(
    tmp_path: Path,
) -> None:
    async with front_in(tmp_path) as front:
        await front.hold("alice")
        front.clock.advance(timedelta(hours=1))
        await front.versature.switch(fault="delay", delay_seconds=ANSWER_SECONDS)
        asking = asyncio.create_task(front.client.get("/tokens/alice"))
        async with asyncio.timeout(10):
            while not await front.versature.redemptions("alice"):  # noqa: ASYNC110 - there is only HTTP to watch it by
                await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.wait({asking})
    with contextlib.closing(sqlite3.connect(front.database)) as connection:
        row = connection.execute("SELECT generation, attempt_id FROM grants WHERE user = 'alice'").fetchone()
    assert row == (2, None)


def test_every_part_with_work_under_way_is_drained_and_the_audit_last(tmp_path: Path) -> None:
    built = build(settings_from(environment(tmp_path, "http://unset")), Metrics(), works_alone=False)
    parts = [getattr(built.core, part.name) for part in fields(built.core)] + [built.services.audit]
    busy = {type(part).__name__ for part in parts if hasattr(part, "drain")}
    drained = [type(part).__name__ for part in built._drains]
    assert set(drained) == busy
    assert drained[-1] == "Audit"


def test_what_a_process_does_by_itself_it_does_as_often_as_promised(tmp_path: Path) -> None:
    built = build(settings_from(environment(tmp_path, "http://unset")), Metrics(), works_alone=False)
    periods = {duty.what: duty.period.total_seconds() for duty in built._duties}
    assert periods == {
        "confirming cached tokens": pytest.approx(5 / 3),
        "replaying escrow": 2,
        "background renewal": 0.25,
        "revoking upstream": 10,
        "asking all parts how they are": 10,
        "counting grants": 60,
        "looking whether a missing key is still needed": 60,
        "writing the audit": 3,
        "forgetting the audit": 600,
    }


def test_renewals_of_a_real_process_do_not_fall_due_all_at_once(tmp_path: Path) -> None:
    vault = build(settings_from(environment(tmp_path, "http://unset")), Metrics(), works_alone=False).core.vault
    answer = TokenAnswer("a", None, None, timedelta(hours=1), sent_at=datetime(2026, 1, 1, tzinfo=UTC))
    assert len({vault.date(answer, generation=1, scope=None).due_at for _ in range(20)}) > 1
