"""docs/performance.md shows what `make bench` measured, and everything that was promised."""

import json

from bench.page import KEPT, PAGE, with_figures

PROMISES = (
    ("against a bare ASGI app", 0.85),
    ("against a FastAPI route", 8),
    ("1,000 callers for one expired token, 4 processes", 1),
    ("users expired at once, provider takes 0.2 s, 1 process", 1.3),
    ("1 process: answered without a token", 0),
    ("calls upstream for one active user", 5),
    ("SQLite, 1,000,000 grants: 100 misses served", 1.2),
    ("PostgreSQL, 1,000,000 grants: 100 misses served", 1.2),
    ("from the command to ready", 2.5),
    ("resident memory", 150),
)


def test_the_page_shows_the_last_report_that_was_kept() -> None:
    page = PAGE.read_text()
    assert page == with_figures(page, json.loads(KEPT.read_text())), "run: python -m bench.page"


def test_every_budget_was_measured_and_judged() -> None:
    rows = json.loads(KEPT.read_text())["rows"]
    judged = [
        (row["what"], row["at_most"] if row["at_least"] is None else row["at_least"])
        for row in rows
        if row["verdict"] in {"kept", "missed"}
    ]
    found = [any(part in what and budget == limit for what, limit in judged) for part, budget in PROMISES]
    assert all(found), list(zip(PROMISES, found, strict=True))
