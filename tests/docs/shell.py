"""A person's desk: blocks are typed one after the other into a terminal, and what stays in front keeps its terminal."""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import httpx

from tests.docs.worlds import World

PATIENCE_SECONDS = 30
PROLOGUE = """
set -euo pipefail
curl() { command curl --fail-with-body --silent --show-error --max-time 30 "$@"; }
"""
"""A command that fails ends it all, and so does an answer that is a problem."""

SERVES = re.compile(r"^\S*token-broker serve\b.*\n", re.MULTILINE)
STAYS_IN_DOCKER = re.compile(r"^.*\bdocker (?:compose .*\bup|run .*--publish)\b", re.MULTILINE)
RUNS = {"python": "python", "js": "node"}
END = "--- end of block ---"


class BlockFailed(AssertionError):
    """A command of a page did not succeed."""


@dataclass(slots=True)
class Desk:
    """Terminals, the last of which is free. A new one knows only what its world gives to all of them."""

    world: World
    terminals: list[subprocess.Popen[str]] = field(default_factory=list)
    typed: int = 0

    def type(self, text: str, language: str = "sh") -> str:
        """Run a block; returns what it printed.

        Raises:
            BlockFailed: with what it printed, errors too.
        """
        self.typed += 1
        text = self.world.here(text)
        if language in RUNS:
            program = self.world.folder / f"block-{self.typed}.{'mjs' if language == 'js' else 'py'}"
            program.write_text(text)
            text = f"{RUNS[language]} {program}"
        if server := SERVES.search(text):
            assert not text[server.end() :].strip(), "nothing can be typed after what stays in front"
            printed = self._run(text[: server.start()])
            self._leave_in_front(server[0])
            return printed
        printed = self._run(text)
        if STAYS_IN_DOCKER.search(text):
            self.sit_down()
        return printed

    def sit_down(self) -> None:
        """Open another terminal."""
        terminal = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=Path(self.world.folder),
            env=self.world.variables,
            text=True,
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.terminals.append(terminal)
        self._run(PROLOGUE)

    def leave(self) -> None:
        """End all that was started."""
        for terminal in self.terminals:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(terminal.pid, signal.SIGTERM)
            terminal.communicate()

    def _run(self, text: str) -> str:
        stdin, stdout = self._pipes()
        with contextlib.suppress(BrokenPipeError):
            stdin.write(f"{text}\necho; echo '{END}'\n")
            stdin.flush()
        printed: list[str] = []
        for line in stdout:
            if line.strip() == END:
                return "".join(printed)
            printed.append(line)
        raise BlockFailed(f"{text}\n{''.join(printed)}")

    def _leave_in_front(self, command: str) -> None:
        log = self.world.folder / f"in-front-{self.typed}.log"
        stdin, _ = self._pipes()
        stdin.write(f"exec >{log} 2>&1\n{command}")
        stdin.flush()
        until = time.monotonic() + PATIENCE_SECONDS
        while not self._serves():
            if self.terminals[-1].poll() is not None or time.monotonic() > until:
                raise BlockFailed(f"{command}\n{log.read_text()}")
            time.sleep(0.05)
        self.sit_down()

    def _serves(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            url = f"http://127.0.0.1:{self.world.variables['BROKER_PORT']}/healthz"
            return httpx.get(url, trust_env=False).is_success
        return False

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        stdin, stdout = self.terminals[-1].stdin, self.terminals[-1].stdout
        assert stdin is not None
        assert stdout is not None
        return stdin, stdout


@contextlib.contextmanager
def desk_in(world: World) -> Iterator[Desk]:
    desk = Desk(world)
    try:
        desk.sit_down()
        yield desk
    finally:
        desk.leave()
