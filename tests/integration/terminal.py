"""A terminal to type commands at: every command is a process of its own, most of them cheap ones.

Importing the program takes a second or more, so `Terminal.run` forks from a process that has imported it; what is
forked still has its own environment, folder, streams and exit code. `Terminal.start` runs the installed program itself.
"""

import asyncio
import json
import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

PROGRAM = Path(sys.executable).parent / "token-broker"
PATIENCE_SECONDS = 30
_STREAMS = ("stdin", "stdout", "stderr")
_forks: ForkServerContext = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["service.cli", "service.cli.serving", "service.adapters.sql_migrations"])
_turn = threading.Lock()
"""Every start collects the exit codes of all that have ended: who collects the same one meanwhile is told 255."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a command."""

    code: int
    out: str
    err: str

    @property
    def key(self) -> str:
        """The API key among the lines of standard output; there must be exactly one."""
        (key,) = [line for line in self.out.splitlines() if line.startswith("vtb_")]
        return key


@dataclass(frozen=True, slots=True)
class Terminal:
    """Where commands are typed: a folder, and a clean environment with these settings."""

    folder: Path
    variables: Mapping[str, str]

    @property
    def _environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("BROKER_", "VERSATURE_"))}
        return {**clean, "COLUMNS": "200", "TERM": "dumb", **self.variables}

    def bare(self, **variables: str) -> "Terminal":
        """The same place without the settings' own application, with other *variables*."""
        kept = {name: value for name, value in self.variables.items() if not name.startswith("VERSATURE_")}
        return Terminal(self.folder, {**kept, **variables})

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """The installed program."""
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            PROGRAM, *arguments, cwd=self.folder, env=self._environment, stdin=pipe, stdout=pipe, stderr=pipe
        )

    async def installed(self, *arguments: str, given: bytes = b"") -> Ended:
        process = await self.start(*arguments)
        out, err = await asyncio.wait_for(process.communicate(given), PATIENCE_SECONDS)
        return Ended(process.returncode or 0, out.decode(), err.decode())

    async def run(self, *arguments: str, given: str | bytes = b"") -> Ended:
        """The same program in a forked process."""
        content = given.encode() if isinstance(given, str) else given
        return await asyncio.to_thread(self._run, list(arguments), content)

    def _run(self, arguments: list[str], given: bytes) -> Ended:
        with tempfile.TemporaryDirectory() as streams:
            stdin, stdout, stderr = (Path(streams) / name for name in _STREAMS)
            stdin.write_bytes(given)
            process: ForkServerProcess = _forks.Process(
                target=_command, args=(arguments, self._environment, str(self.folder), streams)
            )
            with _turn:
                process.start()
            assert wait([process.sentinel], PATIENCE_SECONDS), f"{arguments} did not end"
            with _turn:
                process.join()
                code = process.exitcode
                process.close()
            assert code is not None
            ended = Ended(code, stdout.read_text(), stderr.read_text())
        assert "Traceback" not in ended.err, ended.err
        return ended

    async def type(self, line: str, given: str | bytes = b"") -> Ended:
        """Run a *line* that has no quoting in it; it must succeed."""
        ended = await self.run(*line.split(), given=given)
        assert ended.code == 0, ended.err
        return ended

    async def listed(self, line: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads((await self.type(f"{line} --json")).out)
        return rows

    async def all(self, lines: Sequence[str]) -> dict[str, Ended]:
        """Run independent lines at once."""
        return dict(zip(lines, await asyncio.gather(*(self.run(*line.split()) for line in lines)), strict=True))


def _command(arguments: list[str], environment: dict[str, str], folder: str, streams: str) -> None:
    """Become the program: in the forked process, with everything its own."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, name in enumerate(_STREAMS):
        file = os.open(f"{streams}/{name}", os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(file, number)
        mode = "r" if number == 0 else "w"
        setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    sys.argv = [str(PROGRAM), *arguments]
    from service.cli import app

    app()
