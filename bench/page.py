"""Puts the last report into docs/performance.md (`python -m bench.page`): it shows no figure that nobody measured."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.machine import BUSY
from bench.report import table

ROOT = Path(__file__).parents[1]
LAST, KEPT, PAGE = (
    ROOT / ".artefacts" / "bench.json",
    ROOT / "docs" / "performance.json",
    ROOT / "docs" / "performance.md",
)
BEGIN, END = "<!-- generated: figures -->\n", "<!-- end: figures -->"


def figures(report: dict[str, Any]) -> Iterator[str]:
    """The machine in a sentence, then the table."""
    machine = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    yield (
        f"Measured on {machine['cores']} cores of {machine['cpu']}, {machine['system']}, Python {machine['python']}; "
        f"load by {report['load']}; load average before it {machine[BUSY]}. {versions}."
    )
    yield ""
    yield from table(report["rows"])


def with_figures(page: str, report: dict[str, Any]) -> str:
    """*page* with the figures of *report* between its markers."""
    part = BEGIN + "".join(f"{line}\n" for line in figures(report)) + END
    return re.sub(re.escape(BEGIN) + ".*?" + re.escape(END), lambda _found: part, page, flags=re.DOTALL)


def main() -> None:
    report = LAST.read_text()
    if not json.loads(report)["whole"]:
        sys.exit("The last report is of a quick or partial run; run: make bench")
    KEPT.write_text(report)
    PAGE.write_text(with_figures(PAGE.read_text(), json.loads(report)))
    sys.stdout.write(f"{PAGE.relative_to(ROOT)} shows the last report\n")


if __name__ == "__main__":
    main()
