"""What Prometheus would have made of the scrapes of a drill. Each stands for one minute, so nobody waits for `for:`."""

import math
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from prometheus_client.parser import text_string_to_metric_families

from tests.house.tree import ROOT

ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
PHASE_MINUTES = 80
"""Longer than any alert looks back or has to last. The last scrape of a phase is what the rest of it looks like."""


class Phase(StrEnum):
    """Before the trouble, in its midst, and when the runbook has been followed."""

    CALM = "calm"
    TROUBLE = "trouble"
    HEALED = "healed"


class Scraped(Protocol):
    """Something with metrics."""

    async def metrics(self) -> str | None:
        """All of them; None when nobody answers."""
        ...


Scrape = Mapping[str, float]
"""Every series, as the series' notation writes it, with its value."""


@dataclass
class Watch:
    """Scrapes brokers, and lets promtool judge the alerts by the rules themselves."""

    alerts: Sequence[str]
    _scrapes: dict[Phase, list[Scrape]] = field(default_factory=lambda: {phase: [] for phase in Phase})

    async def scrape(self, phase: Phase, *brokers: Scraped) -> None:
        """One minute of *phase*: what *brokers* tell, and `up` as the scraper sees it."""
        found: dict[str, float] = {}
        for number, broker in enumerate(brokers, start=1):
            labels = {"instance": f"broker-{number}", "job": "token-broker"}
            text = await broker.metrics()
            found[_series("up", labels)] = float(text is not None)
            found |= _read(text or "", labels)
        self._scrapes[phase].append(found)

    def verdicts(self, folder: Path) -> str:
        """What promtool has to complain about: nothing, when every alert was silent, fired, and was silent again."""
        file = folder / "drill.yml"
        file.write_text("\n".join(self._test()))
        done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)
        return "" if done.returncode == 0 else done.stdout + done.stderr

    def _test(self) -> Iterator[str]:
        yield f"rule_files: [{ALERTS}]"
        yield "evaluation_interval: 1m"
        yield "tests:\n  - interval: 1m\n    input_series:"
        timeline = [scrape for phase in Phase for scrape in self._minutes(phase)]
        for series in sorted({series for scrape in timeline for series in scrape if _is_asked_for(series)}):
            values = " ".join(_value(scrape.get(series)) for scrape in timeline)
            yield f"      - series: '{series}'\n        values: '{values}'"
        yield "    promql_expr_test:"
        for alert in self.alerts:
            firing = f'(count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0))'
            for phase, fired in ((Phase.CALM, 0), (Phase.TROUBLE, 1), (Phase.HEALED, 0)):
                end = (list(Phase).index(phase) + 1) * PHASE_MINUTES - 1
                # In the midst of trouble it must have fired once; before and afterwards it must be silent in the end.
                asked = f"max_over_time({firing}[{PHASE_MINUTES - 1}m:1m]) > bool 0" if fired else f"{firing} > bool 0"
                yield f"      - expr: '{asked}'\n        eval_time: {end}m"
                yield f"        exp_samples: [{{labels: '{{}}', value: {fired}}}]"

    def _minutes(self, phase: Phase) -> list[Scrape]:
        seen = self._scrapes[phase] or [{}]
        return seen + [seen[-1]] * (PHASE_MINUTES - len(seen))


def _read(text: str, labels: Mapping[str, str]) -> Scrape:
    return {
        _series(sample.name, {**sample.labels, **labels}): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _series(name: str, labels: Mapping[str, str]) -> str:
    return name + "{" + ",".join(f'{label}="{value}"' for label, value in sorted(labels.items())) + "}"


_NAMED = frozenset(re.findall(r"\b(?:token_broker_\w+|up)\b", ALERTS.read_text()))


def _is_asked_for(series: str) -> bool:
    return series.partition("{")[0] in _NAMED


def _value(value: float | None) -> str:
    return "stale" if value is None or math.isnan(value) else f"{value:.6f}"
