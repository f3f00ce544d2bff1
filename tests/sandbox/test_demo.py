"""`make demo` is a first impression: it also ends well."""

import asyncio
import contextlib
import os
import signal
import socket
import sys

import pytest

from tests.house.tree import ROOT
from tests.support.ports import free_ports

PATIENCE_SECONDS = 60


@pytest.mark.crash
async def test_a_demo_that_is_told_to_end_again_and_again_ends_once_and_leaves_nothing() -> None:
    port = free_ports(2)
    demo = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sandbox.demo", "--port", f"{port}"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    assert demo.stdout is not None
    async with asyncio.timeout(PATIENCE_SECONDS):
        while b"Ctrl-C ends everything" not in await demo.stdout.readline():
            assert demo.returncode is None
        rest, ended = asyncio.create_task(demo.stdout.read()), asyncio.create_task(demo.wait())
        os.killpg(demo.pid, signal.SIGTERM)
        while not (await asyncio.wait({ended}, timeout=0.05))[0]:
            with contextlib.suppress(ProcessLookupError):
                demo.send_signal(signal.SIGTERM)
    assert (await ended, (await rest).decode().strip()) == (0, "")
    for place in (port, port + 1):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", place)) != 0
