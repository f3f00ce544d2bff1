"""What was measured against what was promised, as a table and as JSON."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Figures = Mapping[str, object]
TIMES = " \u00d7"
"""The unit of a ratio."""


@dataclass(frozen=True)
class Row:
    """One promise and how it was kept. Without a budget it is told, not judged.

    `value` is what the budget speaks of: at least `at_least`, at most `at_most`. `figures` is what it follows from.
    """

    what: str
    value: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    figures: Figures = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        if self.at_least is None and self.at_most is None:
            return "told"
        kept = (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )
        return "kept" if kept else "missed"

    @property
    def budget(self) -> str:
        if self.at_least is not None:
            return f"≥ {self.at_least:g}{self.unit}"
        return "" if self.at_most is None else f"≤ {self.at_most:g}{self.unit}"

    @property
    def measured(self) -> str:
        return f"{shown(self.value)}{self.unit}"


def shown(value: object) -> str:
    """A figure for people: three digits are as many as can be repeated."""
    if isinstance(value, float) and abs(value) < 1000:
        return f"{value:.3g}"
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)


def write(path: Path, machine: Figures, load: str, rows: Iterable[Row], *, whole: bool) -> None:
    """The report for programs; *whole* if nothing was left out or cut short, or nobody should show it."""
    told = [{**asdict(row), "verdict": row.verdict, "budget": row.budget, "measured": row.measured} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {"whole": whole, "machine": machine, "load": load, "rows": told}
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def table(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Markdown, from the rows of a written report."""
    yield "| what | budget | measured | verdict | from |"
    yield "|---|---|---|---|---|"
    for row in rows:
        figures = "; ".join(f"{name} {shown(value)}" for name, value in row["figures"].items())
        yield f"| {row['what']} | {row['budget']} | {row['measured']} | {row['verdict']} | {figures} |"


def lines(rows: Iterable[Row]) -> Iterator[str]:
    """The table for a terminal."""
    for row in rows:
        yield f"{row.verdict:7} {row.measured:>12} {row.budget:>10}  {row.what}"
        if row.figures:
            yield " " * 33 + "; ".join(f"{name} {shown(value)}" for name, value in row.figures.items())
