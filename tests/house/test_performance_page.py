"""docs/performance.md shows what `make bench` measured, and everything that was promised."""

import json

from bench.page import KEPT, PAGE, with_figures

PROMISES = (
    "against a bare ASGI app",
    "against a FastAPI route",
    "callers for one expired token",
    "users expired at once",
    "calls upstream for one active user",
    "misses served from the database",
    "from the command to ready",
    "resident memory",
)


def test_the_page_shows_the_last_report_that_was_kept() -> None:
    page = PAGE.read_text()
    assert page == with_figures(page, json.loads(KEPT.read_text())), "run: python -m bench.page"


def test_every_budget_was_measured_and_judged() -> None:
    judged = [row["what"] for row in json.loads(KEPT.read_text())["rows"] if row["verdict"] in {"kept", "missed"}]
    assert [promise for promise in PROMISES if not any(promise in what for what in judged)] == []
