"""What operators read, import and are woken by agrees with what the product does."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from service.config import Settings
from tests.drills.catalogue import DRILLS
from tests.house.handbook import HANDBOOK, MEANINGS, PAGES, metrics, parts, with_generated_parts
from tests.house.tree import ROOT
from tests.support.programs import needs_promtool

PROMETHEUS = ROOT / "deploy" / "prometheus"
ALERTS = PROMETHEUS / "alerts.yml"
ALERT_TESTS = PROMETHEUS / "alerts_test.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboard.json"
EMERGENCIES = {
    "Redis lost",
    "Database lost",
    "Database restored from a backup",
    "Versature lost",
    "Client secret refused",
    "Key lost",
    "Secret leaked",
    "Many users must reconnect",
    "Escrow not empty",
    "Disk full",
}


def alerts() -> set[str]:
    found = re.findall(r"^\s+- alert: (\w+)$", ALERTS.read_text(), re.MULTILINE)
    assert len(set(found)) == len(found) >= 12
    return set(found)


def headings(level: int) -> list[str]:
    return re.findall(rf"^{'#' * level} (.+)$", HANDBOOK.read_text(), re.MULTILINE)


def anchor(heading: str) -> str:
    """As the usual renderers make it of a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def known_series() -> set[str]:
    found = set()
    for metric in metrics():
        found |= {metric.name}
        if metric.kind == "histogram":
            found |= {f"{metric.name}_{part}" for part in ("bucket", "count", "sum")}
    return found


@pytest.mark.parametrize("file", [ALERTS, ALERT_TESTS, DASHBOARD, HANDBOOK], ids=lambda file: file.name)
def test_every_metric_that_is_named_exists(file: Path) -> None:
    named = set(re.findall(r"\btoken_broker_[a-z_]+", file.read_text()))
    assert named
    assert named - known_series() == set()


def test_the_dashboard_shows_every_metric() -> None:
    shown = DASHBOARD.read_text()
    assert [metric.name for metric in metrics() if metric.name not in shown] == []


def test_every_alert_has_its_paragraph_and_every_paragraph_its_alert() -> None:
    assert {heading for heading in headings(3) if heading.startswith("TokenBroker")} == alerts()
    named = re.findall(r"runbook: docs/operations\.md#(\S+)", ALERTS.read_text())
    assert sorted(named) == sorted(anchor(alert) for alert in alerts())


def test_every_alert_has_its_drill() -> None:
    assert {alert for drill in DRILLS for alert in drill.alerts} == alerts()


def test_every_part_of_readiness_is_explained() -> None:
    table = HANDBOOK.read_text().partition("| part |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == parts()


def test_every_emergency_has_its_runbook() -> None:
    assert set(headings(3)) >= EMERGENCIES


def test_every_link_inside_the_handbook_leads_somewhere() -> None:
    text = HANDBOOK.read_text()
    places = {anchor(heading) for level in (1, 2, 3) for heading in headings(level)}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= places
    files = re.findall(r"\]\((?!#|https?:)([^)#]+)", text)
    assert [file for file in files if not (HANDBOOK.parent / file).exists()] == []


def test_every_alert_is_tried_once_firing_and_once_silent() -> None:
    tried = ALERT_TESTS.read_text()
    for alert in alerts():
        assert f"name: {alert} fires\n" in tried
        assert f"- alertname: {alert}\n        eval_time: 150m\n        exp_alerts: []\n" in tried


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_generated_parts_of_a_page_are_up_to_date(page: Path) -> None:
    assert page.read_text() == with_generated_parts(page), "run: make handbook"


def test_every_setting_has_a_meaning() -> None:
    assert {name.upper() for name in Settings.model_fields} == set(MEANINGS)


def test_the_dashboard_is_one_that_can_be_imported() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["title"] and panel["targets"] for panel in panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)


def test_a_panel_of_the_dashboard_shows_seconds_or_something_else_but_not_both() -> None:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        in_seconds = {
            "_seconds" in target["expr"] and "_seconds_count" not in target["expr"] for target in panel["targets"]
        }
        assert in_seconds == {panel["fieldConfig"]["defaults"]["unit"] == "s"}, panel["title"]


@needs_promtool
@pytest.mark.parametrize("command", [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]])
def test_the_alerts_do_what_they_say(command: list[str]) -> None:
    done = subprocess.run(["promtool", *command], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
