"""The background renews for a fleet: in time, once, and no faster than its pace."""

import asyncio
import logging
import os
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support.fleet import running_fleet
from tests.support.servers import Server

pytestmark = pytest.mark.crash

log = logging.getLogger(__name__)

TRAFFIC_SECONDS = float(os.environ.get("TRAFFIC_SECONDS", "20"))
USERS = int(os.environ.get("USERS", "60"))
LIFE = float(os.environ.get("LIFE", "6"))
PAUSE = float(os.environ.get("PAUSE", "0.5"))


async def test_active_users_cost_one_call_per_renewal_interval_and_hardly_ever_wait(
    tmp_path: Path, postgres: Server, redis: Server
) -> None:
    switches = (f"token_lifetime_seconds={LIFE:g}", "rotation=strict", "refresh_ends_access=true")
    users = [f"user{number}" for number in range(USERS)]
    async with running_fleet(tmp_path, 2, postgres, redis, *switches, BROKER_RENEW_PER_SECOND=500) as fleet:
        await fleet.import_users(users)
        for user in users:
            (await fleet.brokers[0].client.get(f"/tokens/{user}")).raise_for_status()
        ends_at, sources, longest = time.monotonic() + TRAFFIC_SECONDS, Counter[str](), 0.0

        async def traffic(number: int, user: str) -> None:
            nonlocal longest
            await asyncio.sleep(PAUSE * number / USERS)
            while time.monotonic() < ends_at:
                asked_at = time.monotonic()
                answer = await fleet.brokers[number % 2].client.get(f"/tokens/{user}")
                longest = max(longest, time.monotonic() - asked_at)
                assert answer.status_code == 200, answer.text
                sources[_source(answer.headers["Cache-Status"])] += 1
                await asyncio.sleep(PAUSE)

        await asyncio.gather(*(traffic(number, user) for number, user in enumerate(users)))
        refreshes = await fleet.sandbox.calls(endpoint="token", grant_type="refresh_token")
        assert {call["outcome"] for call in refreshes} == {"issued"}
        per_user = Counter(call["user"] for call in refreshes)
        assert max(per_user.values()) <= TRAFFIC_SECONDS / (LIFE * 0.7) + 2, per_user
        flown = sources["stale"] + sources["stale collapsed"]
        assert sources["renewal_failing"] == 0
        assert flown < len(refreshes) * 0.8, f"the background did little: {sources}, {len(refreshes)} renewals"
        log.info("%d renewals, longest answer %.0f ms, %s", len(refreshes), longest * 1000, dict(sources))


def _source(cache_status: str) -> str:
    parts = [part.strip() for part in cache_status.split(";")]
    detail = next((part.removeprefix("detail=") for part in parts if part.startswith("detail=")), None)
    forward = next((part.removeprefix("fwd=") for part in parts if part.startswith("fwd=")), None)
    return f"{detail or forward}{' collapsed' if 'collapsed' in parts else ''}"


async def test_the_pace_holds_for_the_whole_fleet(tmp_path: Path, postgres: Server, redis: Server) -> None:
    """Callers who find a token due renew it themselves, so nobody asks once the tokens are in use."""
    switches = ("token_lifetime_seconds=6", "rotation=strict")
    users = [f"user{number}" for number in range(60)]
    async with running_fleet(tmp_path, 3, postgres, redis, *switches, BROKER_RENEW_PER_SECOND=4) as fleet:
        await fleet.import_users(users)
        await asyncio.gather(*(fleet.brokers[0].client.get(f"/tokens/{user}") for user in users))
        before = len(await fleet.sandbox.calls(endpoint="token", grant_type="refresh_token"))
        began = time.monotonic()
        await asyncio.sleep(12)
        calls = await fleet.sandbox.calls(endpoint="token", grant_type="refresh_token")
        passed = time.monotonic() - began
        assert 0 < len(calls) - before <= 4 * (passed + 1)
        assert {call["outcome"] for call in calls} == {"issued"}
