"""Processes to measure, and what they need: a folder, settings, callers, grants."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from bench.wire import ask, get
from service.container import build
from service.core.model import Caller, GrantId, Scope
from service.lifecycle import Container
from service.telemetry import Metrics
from tests.support.brokers import START_SECONDS, applied, settings_from

TOKEN = "t" * 700
"""As long as a token with some claims in it."""

LIFE = timedelta(hours=1)


class DidNotStart(Exception):
    """A process of the bench ended, or never answered."""


class DidNotWork(Exception):
    """What was to be measured did not do what it should."""


@contextlib.asynccontextmanager
async def process(
    *arguments: str, variables: Mapping[str, str], cores: frozenset[int] | None, given: object = None
) -> AsyncIterator[int]:
    """`python -m` *arguments*, on *cores*, with *given* as JSON on its standard input; its id, once it answers."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("BROKER_", "VERSATURE_"))}
    with contextlib.ExitStack() as stack:
        before = os.sched_getaffinity(0) if cores else set()
        if cores:  # inherited, so that threads which begin early are there too
            os.sched_setaffinity(0, cores)
            stack.callback(os.sched_setaffinity, 0, before)
        running = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *arguments, env={**clean, **variables}, stdin=asyncio.subprocess.PIPE
        )
    try:
        if running.stdin is not None:
            running.stdin.write(json.dumps(given).encode())
            running.stdin.close()
        await _until_there(int(variables["BROKER_PORT"]), running)
        yield running.pid
    finally:
        if running.returncode is None:
            running.terminate()
        await asyncio.wait_for(running.wait(), START_SECONDS)


async def _until_there(port: int, running: asyncio.subprocess.Process) -> None:
    for _ in range(START_SECONDS * 50):
        if running.returncode is not None:
            raise DidNotStart(f"it ended with {running.returncode}")
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await ask(port, get("/healthz"))
            return
        await asyncio.sleep(0.02)
    raise DidNotStart("it never answered")


@contextlib.asynccontextmanager
async def container(variables: Mapping[str, str]) -> AsyncIterator[Container]:
    """The product without its HTTP and without its duties."""
    with applied(variables):
        made = build(settings_from(variables), Metrics(), works_alone=False)
    try:
        await made.start()
        yield made
    finally:
        await made.close()


async def admit(made: Container, names: Sequence[str]) -> list[str]:
    """Further callers that may ask for everybody; returns their keys."""
    keys = [f"vtb_{name:x>43}" for name in names]
    for name, key in zip(names, keys, strict=True):
        await made.services.administration.add_caller(Caller(name, frozenset({Scope.TOKENS}), ("*",), ("*",)), key)
    return keys


async def import_users(made: Container, tokens: Mapping[str, str], *, access_token: str | None = TOKEN) -> None:
    """A grant for everybody in *tokens*, who maps users to refresh tokens; without *access_token* it has expired."""
    application = made.services.directory.application("default")
    several = asyncio.Semaphore(8)

    async def import_one(user: str, refresh_token: str) -> None:
        async with several:
            await made.services.broker.import_(
                application,
                GrantId("default", user),
                refresh_token=refresh_token,
                access_token=access_token,
                expires_in=LIFE,
                scope=None,
            )

    await asyncio.gather(*(import_one(user, token) for user, token in tokens.items()))


def folder_in(parent: Path, name: str) -> Path:
    """A new folder."""
    made = parent / name
    made.mkdir()
    return made
