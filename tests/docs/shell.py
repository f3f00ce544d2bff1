"""A shell that blocks are typed into, one after the other, as by somebody who follows a page."""

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.docs.worlds import World

PROLOGUE = """
set -euo pipefail
curl() { command curl --fail-with-body --silent --show-error --max-time 30 "$@"; }
in_another_terminal() {
  "$@" >"$HOME/in-front.log" 2>&1 &
  for _ in $(seq 600); do
    command curl --silent --output /dev/null "http://127.0.0.1:$BROKER_PORT/healthz" && return
    kill -0 $! || { cat "$HOME/in-front.log"; exit 1; }
    sleep 0.05
  done
  exit 1
}
"""
"""An answer that is a problem fails; what stays in front gets a terminal of its own."""

SERVES = re.compile(r"^(\S*token-broker serve)\b", re.MULTILINE)
RUNS = {"python": "python", "js": "node"}
END = "--- end of block ---"


class BlockFailed(AssertionError):
    """A command of a page did not succeed."""


@dataclass(slots=True)
class Shell:
    """bash, and everything that it has started."""

    world: World
    process: subprocess.Popen[str]
    typed: int = 0

    def type(self, text: str, language: str = "sh") -> str:
        """Run a block; returns what it printed.

        Raises:
            BlockFailed: with what it printed, errors too.
        """
        self.typed += 1
        text = SERVES.sub(r"in_another_terminal \1", self.world.here(text))
        if language in RUNS:
            program = self.world.folder / f"block-{self.typed}.{'mjs' if language == 'js' else 'py'}"
            program.write_text(text)
            text = f"{RUNS[language]} {program}"
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

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        return self.process.stdin, self.process.stdout


@contextlib.contextmanager
def shell_in(world: World) -> Iterator[Shell]:
    process = subprocess.Popen(
        ["bash", "--noprofile", "--norc"],
        cwd=Path(world.folder),
        env=world.variables,
        text=True,
        start_new_session=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        shell = Shell(world, process)
        shell.type(PROLOGUE)
        yield shell
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.communicate()
