"""The pages as their readers see them: fenced blocks, and where each of them is to be tried.

A fence says it behind its language: `sh demo` runs in the world `demo` (see worlds.py), after the earlier blocks of the
same page and world and in the same terminal, unless something stays in front there; `browser=bob` lets somebody open
the `connect_url` that the block has printed, and log in as bob. A fence may name several worlds.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.house.tree import ROOT, files

FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block."""

    page: str
    language: str
    words: tuple[str, ...]
    text: str

    @property
    def worlds(self) -> tuple[str, ...]:
        """Where it is to be tried; none where its page and fence say nothing."""
        named = tuple(word for word in self.words if "=" not in word)
        if named or self.language != "sh" or self.page not in DEFAULT_WORLDS:
            return named
        return (DEFAULT_WORLDS[self.page],)

    @property
    def login(self) -> str | None:
        """Who opens the link that it prints."""
        return next((word.removeprefix("browser=") for word in self.words if word.startswith("browser=")), None)


DEFAULT_WORLDS = {"docs/operations.md": "house", "docs/security.md": "house", "docs/reliability.md": "house"}


@cache
def pages() -> tuple[Path, ...]:
    """README and its like, and everything in docs/."""
    return tuple(path for path in files() if path.suffix == ".md")


@cache
def blocks() -> tuple[Block, ...]:
    """Every fenced block of every page."""
    found = []
    for page in pages():
        for fence in FENCE.finditer(page.read_text()):
            language, *words = fence["info"].split() or [""]
            text = re.sub(rf"^{fence['indent']}", "", fence["text"], flags=re.MULTILINE)
            found.append(Block(page.relative_to(ROOT).as_posix(), language, tuple(words), text))
    return tuple(found)
