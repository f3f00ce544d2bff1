"""Starting and stopping, inside a loop and as a process."""

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from sandbox.app import create_sandbox
from sandbox.server import running
from sandbox.switches import Switches
from tests.sandbox.visitor import Visitor


async def test_it_stops_at_once_though_a_request_is_held_back_and_a_connection_is_idle() -> None:
    async with httpx.AsyncClient() as idle, httpx.AsyncClient() as waiting:
        async with running(create_sandbox(Switches(fault="delay", delay_seconds=3600))) as served:
            idle.base_url = waiting.base_url = httpx.URL(served.base_url)
            held_back = asyncio.create_task(Visitor(waiting).company())
            while not await Visitor(idle).calls():  # noqa: ASYNC110  # there is only HTTP to watch it by
                await asyncio.sleep(0)
        with pytest.raises(httpx.TransportError):
            await held_back
        with pytest.raises(httpx.ConnectError):
            await waiting.get("/sandbox/switches")


async def test_two_sandboxes_in_one_loop_know_nothing_of_each_other() -> None:
    async with running(create_sandbox()) as one, running(create_sandbox()) as other:
        async with httpx.AsyncClient(base_url=one.base_url) as http:
            token = (await Visitor(http).connect())["access_token"]
        async with httpx.AsyncClient(base_url=other.base_url) as http:
            assert not await Visitor(http).works(token)


async def test_a_port_that_is_taken_is_an_error() -> None:
    async with running(create_sandbox()) as served:
        with pytest.raises(OSError, match="in use"):
            async with running(create_sandbox(), port=served.port):
                raise AssertionError


@contextmanager
def _process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "sandbox", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_process_serves_as_told_keeps_quiet_about_requests_and_ends_well_on_sigterm() -> None:
    uri = "http://127.0.0.1:9000/oauth/callback"
    switches = ("--switch", "token_lifetime_seconds=5", "--switch", "omit=scope, expires")
    with _process("--port", "0", "--redirect-uri", uri, *switches) as process:
        assert process.stdout is not None
        base_url = process.stdout.readline().rsplit(" ", 1)[1].strip()
        asyncio.run(_walk(base_url, uri))
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=10)
        assert (process.returncode, output, errors) == (0, "", "")


async def _walk(base_url: str, uri: str) -> None:
    async with httpx.AsyncClient(base_url=base_url) as http:
        visitor = Visitor(http)
        answer = await visitor.redeem(await visitor.code(redirect_uri=uri), redirect_uri=uri)
        assert answer.json()["expires_in"] == 5
        assert answer.json().keys() == {"access_token", "token_type", "expires_in", "refresh_token"}
        await visitor.switch(fault="drop_after")
        with pytest.raises(httpx.ReadError):
            await visitor.company()


def test_a_taken_port_is_one_clear_line_and_exit_code_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with _process("--port", str(port)) as process:
            output, errors = process.communicate(timeout=10)
    assert (process.returncode, output) == (1, "")
    assert errors == f"sandbox: cannot listen on 127.0.0.1:{port}: Address already in use\n"


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("nonsense=1", "nonsense: there is no such switch"),
        ("rotation=maybe", "rotation: Input should be 'off', 'on' or 'strict'"),
        ("rotation", "rotation: is not of the form name=value"),
    ],
)
def test_a_bad_switch_at_start_is_named_and_exits_with_2(
    setting: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from sandbox.__main__ import main

    with pytest.raises(SystemExit, match="2"):
        main(["--switch", setting])
    assert complaint in capsys.readouterr().err


def test_help_names_every_switch_and_every_fault(capsys: pytest.CaptureFixture[str]) -> None:
    from sandbox.__main__ import main
    from sandbox.faults import FAULTS

    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    assert not [name for name in [*Switches.model_fields, *FAULTS] if f"  {name}" not in text]
