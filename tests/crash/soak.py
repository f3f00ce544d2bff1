"""Many users on a fleet that is killed all the time. `python -m tests.crash.soak --minutes 4` prints what came of it.

A loss is allowed only where the provider answered a process that was killed before it could save: the sandbox's log and
the times of the kills must show it.
"""

import argparse
import asyncio
import contextlib
import random
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from redis import Redis

from tests.support.brokers import Broker, environment
from tests.support.crashing import Spares
from tests.support.fleet import prepare
from tests.support.ports import free_port
from tests.support.servers import Server, new_database, postgres_server, redis_server
from tests.support.versatures import Versature, versature_process

USERS, LIFE_SECONDS, REPLICAS = 200, 6, 3
DEADLINE, LEASE, TAKEOVER, WAIT = 3, 6, 3, 3
ROUND_SECONDS = 1.0
ANSWER_ON_ITS_WAY_SECONDS = float(DEADLINE)
"""At most so long before the kill the provider acted: no request takes longer than the deadline."""
SENT_BEFORE_READ_AFTER_SECONDS = 1.0
"""At most so long after it: what a process has sent is still read when that process is gone."""
SETTLING_SECONDS = 60


@dataclass
class Replica:
    """One place of the fleet: settings and a disk, whoever runs there now."""

    variables: dict[str, str]
    broker: Broker


@dataclass
class Summary:
    """What happened."""

    began_at: float = field(default_factory=time.time)
    kills: list[float] = field(default_factory=list)
    server_kills: list[tuple[str, float]] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    not_working: int = 0
    redemptions: int = 0
    served: int = 0
    lost: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        return [
            f"brokers killed:         {len(self.kills)}, at {self._times(self.kills)}",
            f"servers killed:         {[(name, *self._times([at])) for name, at in self.server_kills]}",
            f"redemptions:            {self.redemptions}",
            f"answers:                {dict(self.answers.most_common())}",
            f"tokens that fail:       {self.not_working}",
            f"users with a token:     {self.served} of {USERS}",
            f"lost with a kill:       {len(self.lost) - len(self.unexplained)}",
            f"lost without a kill:    {len(self.unexplained)} {self.unexplained[:40]}",
        ]

    def _times(self, instants: list[float]) -> list[float]:
        return [round(at - self.began_at, 2) for at in instants]


@dataclass
class Soak:
    """A fleet, its servers and its load."""

    postgres: Server
    redis: Server
    versature: Versature
    replicas: list[Replica]
    spares: Spares
    summary: Summary = field(default_factory=Summary)
    users: list[str] = field(default_factory=lambda: [f"user{number}" for number in range(USERS)])
    over: bool = False

    async def load(self) -> None:
        """Everybody's token asked for once a round, from any replica, spread over the round."""
        async with asyncio.TaskGroup() as group:
            for user in self.users:
                group.create_task(self._keep_asking(user))

    async def _keep_asking(self, user: str) -> None:
        while not self.over:
            await asyncio.sleep(random.uniform(0.5, 1.5) * ROUND_SECONDS)
            await self.ask(user, random.choice(self.replicas))

    async def ask(self, user: str, replica: Replica) -> str:
        """The outcome: `served`, the problem's code, or `no answer`."""
        outcome = "no answer"
        with contextlib.suppress(httpx.TransportError):
            answer = await replica.broker.client.get(f"/tokens/{user}")
            body = answer.json()
            outcome = "served" if answer.is_success else str(body.get("reason") or body["code"])
            if answer.is_success:
                asked_at = time.time()
                works = await self.versature.whose(body["access_token"]) is not None
                self.summary.not_working += not works and time.time() - asked_at < 0.5
        self.summary.answers[outcome] += 1
        return outcome

    async def kill_brokers(self, every: float) -> None:
        while not self.over:
            await asyncio.sleep(every)
            await self._kill(random.choice(self.replicas))

    async def _kill(self, replica: Replica) -> None:
        assert replica.broker.process is not None
        self.summary.kills.append(time.time())
        replica.broker.process.kill()
        await replica.broker.process.wait()
        spare = await self.spares.take()
        replica.broker = await spare.become(replica.variables)

    async def restart(self, name: str, server: Server, at: list[float]) -> None:
        began = time.monotonic()
        for moment in at:
            await asyncio.sleep(max(began + moment - time.monotonic(), 0))
            self.summary.server_kills.append((name, time.time()))
            server.kill()
            await asyncio.sleep(1)
            await asyncio.to_thread(server.start)

    async def judge(self) -> None:
        """Ask for everybody until everybody has a token or is lost, then look for the reason of each loss."""
        waiting, until = set(self.users), time.monotonic() + SETTLING_SECONDS
        while waiting and time.monotonic() < until:
            for user in sorted(waiting):
                outcome = await self.ask(user, self.replicas[0])
                if outcome in {"served", "lost_in_transit"}:
                    waiting.discard(user)
                    self.summary.served += outcome == "served"
                    self.summary.lost += [user] * (outcome == "lost_in_transit")
            await asyncio.sleep(0.2)
        self.summary.redemptions = len(await self.versature.redemptions())
        for user in self.summary.lost:
            if not await self._was_killed_for(user):
                self.summary.unexplained.append(f"{user}: {await self._history(user)}")
        assert not waiting, f"neither a token nor a loss: {sorted(waiting)[:5]}"

    async def _was_killed_for(self, user: str) -> bool:
        """Whether a kill came between the last request for *user* and the moment its answer could be saved."""
        issued = [call["at"] for call in await self.versature.redemptions(user) if call["outcome"] == "issued"]
        return bool(issued) and any(
            -SENT_BEFORE_READ_AFTER_SECONDS <= kill - max(issued) <= ANSWER_ON_ITS_WAY_SECONDS
            for kill in self.summary.kills
        )

    async def _history(self, user: str) -> list[str]:
        calls = (await self.versature.redemptions(user))[-3:]
        return [f"{call['at'] - self.summary.began_at:.2f} {call['outcome']}" for call in calls]


@contextlib.asynccontextmanager
async def _soak_in(folder: Path, postgres: Server, redis: Server) -> AsyncIterator[Soak]:
    spares = Spares()
    async with versature_process(rotation="strict", token_lifetime_seconds=LIFE_SECONDS) as versature:
        Redis.from_url(redis.url).flushall()
        shared = environment(
            folder,
            versature.base_url,
            BROKER_DATABASE_URL=new_database(postgres, f"s{secrets.token_hex(6)}"),
            BROKER_REDIS_URL=redis.url,
            BROKER_UPSTREAM_DEADLINE_SECONDS=DEADLINE,
            BROKER_LEASE_SECONDS=LEASE,
            BROKER_TAKEOVER_SECONDS=TAKEOVER,
            BROKER_WAIT_SECONDS=WAIT,
            BROKER_RENEW_PER_SECOND=100,
        )
        await prepare(shared)
        replicas = []
        try:
            for number in range(REPLICAS):
                own = {"BROKER_PORT": str(free_port()), "BROKER_ESCROW_DIR": str(folder / f"disk{number}")}
                spare = await spares.take()
                replicas.append(Replica({**shared, **own}, await spare.become({**shared, **own})))
            yield Soak(postgres, redis, versature, replicas, spares)
        finally:
            await spares.end()


async def soak(seconds: float, *, kill_every: float = 10) -> Summary:
    """Run it for *seconds*; the summary is complete when this returns."""
    with tempfile.TemporaryDirectory(prefix="tb-soak-") as name, postgres_server() as postgres, redis_server() as redis:
        async with _soak_in(Path(name), postgres, redis) as run:
            for user, token in [(item["user"], item["refresh_token"]) for item in await run.versature.mint(*run.users)]:
                await run.replicas[0].broker.client.put(f"/grants/{user}", json={"refresh_token": token})
            work = [
                asyncio.ensure_future(run.load()),
                asyncio.ensure_future(run.kill_brokers(kill_every)),
                asyncio.ensure_future(run.restart("PostgreSQL", postgres, [seconds * part for part in (0.3, 0.7)])),
                asyncio.ensure_future(run.restart("Redis", redis, [seconds * part for part in (0.2, 0.5, 0.8)])),
            ]
            await asyncio.sleep(seconds)
            run.over = True
            await asyncio.gather(*work)
            await run.judge()
            return run.summary


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=4)
    summary = asyncio.run(soak(60 * parser.parse_args().minutes))
    sys.stdout.write("\n".join(summary.lines()) + "\n")
    return 1 if summary.unexplained or summary.not_working else 0


if __name__ == "__main__":
    sys.exit(main())
