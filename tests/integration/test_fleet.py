import asyncio
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support.fleet import running_fleet
from tests.support.servers import Server

pytestmark = pytest.mark.crash

TRAFFIC_SECONDS = float(os.environ.get("TRAFFIC_SECONDS", "20"))
USERS = 40
LIFE = 5


async def test_random_traffic_over_three_replicas_gets_only_tokens_that_work(
    tmp_path: Path, postgres: Server, redis: Server
) -> None:
    switches = (f"token_lifetime_seconds={LIFE}", "rotation=strict", "refresh_ends_access=true")
    users = [f"user{number}" for number in range(USERS)]
    async with running_fleet(tmp_path, 3, postgres, redis, *switches) as fleet:
        await fleet.import_users(users)
        ends_at, answers, works = time.monotonic() + TRAFFIC_SECONDS, Counter[int](), Counter[int]()
        reported = Counter[str]()

        async def replace_rejected(user: str, token: str) -> None:
            """The background renewed it just after it was handed out, and this provider ends the old one at once."""
            for _ in range(3):  # on a machine that stalls for seconds the next renewal can be due by then
                reported[user] += 1
                client = random.choice(fleet.brokers).client
                newer = await client.post(f"/tokens/{user}/rejected", json={"access_token": token})
                if newer.status_code == 429:  # reported twice within the interval
                    return
                assert newer.status_code == 200, newer.text
                assert newer.json()["access_token"] != token, "the rejected token was handed out again"
                token = newer.json()["access_token"]
                bearer = {"Authorization": f"Bearer {token}"}
                if (await fleet.sandbox.client.get("/api/whoami/", headers=bearer)).status_code == 200:
                    return
            raise AssertionError(f"three reports brought {user} no token that works")

        async def traffic(user: str) -> None:
            while time.monotonic() < ends_at:
                answer = await random.choice(fleet.brokers).client.get(f"/tokens/{user}")
                answers[answer.status_code] += 1
                if answer.status_code == 200:
                    bearer = {"Authorization": f"Bearer {answer.json()['access_token']}"}
                    whoami = await fleet.sandbox.client.get("/api/whoami/", headers=bearer)
                    works[whoami.status_code] += 1
                    if whoami.status_code == 401:
                        await replace_rejected(user, answer.json()["access_token"])
                await asyncio.sleep(random.uniform(0.02, 0.6))

        await asyncio.gather(*(traffic(user) for user in users))
        assert set(answers) == {200}, answers
        # On a crowded machine this test itself comes late with many a token of these short lives.
        assert works[200] > 0.75 * sum(works.values()), works
        refreshes = await fleet.sandbox.calls(endpoint="token", grant_type="refresh_token")
        assert {call["outcome"] for call in refreshes} == {"issued"}
        digests = Counter(call["refresh_token_digest"] for call in refreshes)
        assert max(digests.values()) == 1, "a refresh token was redeemed twice"
        most = TRAFFIC_SECONDS / (LIFE * 0.7) + 1
        per_user = Counter(call["user"] for call in refreshes)
        assert all(calls <= most + reported[user] for user, calls in per_user.items()), (per_user, reported)


async def test_a_thousand_callers_on_one_expired_token_cost_one_redemption(
    tmp_path: Path, postgres: Server, redis: Server
) -> None:
    async with running_fleet(tmp_path, 4, postgres, redis, "rotation=strict", "fault=delay") as fleet:
        await fleet.import_users(["alice"])
        answers = await asyncio.gather(
            *(fleet.brokers[number % 4].client.get("/tokens/alice") for number in range(1000))
        )
        assert Counter(answer.status_code for answer in answers) == {200: 1000}
        assert len({answer.json()["access_token"] for answer in answers}) == 1
        assert len(await fleet.sandbox.calls(endpoint="token", grant_type="refresh_token")) == 1
