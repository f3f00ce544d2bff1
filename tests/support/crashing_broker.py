"""The real product with an appointed end: `python -m tests.support.crashing_broker`.

It loads everything, then reads one line of JSON from standard input: its settings, and at which steps it is to kill or
to stop itself. From there on it is `token-broker serve`.
"""

import functools
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from service.cli.serving import serve_until_stopped
from service.container import build
from service.core.redeeming.steps import Step
from tests.support.brokers import settings_from


@dataclass(frozen=True, slots=True)
class Deed:
    """What the process does to itself when *step* is reached for the *time*-th time."""

    step: str
    signal: int
    time: int = 1


class Fate:
    """A witness that carries out the deeds."""

    def __init__(self, deeds: Sequence[Deed]) -> None:
        self._deeds = deeds
        self._reached: Counter[Step] = Counter()

    def __call__(self, step: Step) -> None:
        self._reached[step] += 1
        for deed in self._deeds:
            if (deed.step, deed.time) == (step, self._reached[step]):
                os.kill(os.getpid(), deed.signal)


def order(variables: Mapping[str, str], deeds: Sequence[Deed]) -> bytes:
    """The line to send to a process that waits for it."""
    return json.dumps({"variables": dict(variables), "deeds": [asdict(deed) for deed in deeds]}).encode() + b"\n"


def main() -> None:
    line = sys.stdin.buffer.readline()
    if not line:  # nobody needs this process any more
        return
    given = json.loads(line)
    fate = Fate([Deed(**deed) for deed in given["deeds"]])
    settings = settings_from(given["variables"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve_until_stopped(settings, make=functools.partial(build, witness=fate))


if __name__ == "__main__":
    main()
