"""promtool's unit tests of rules, written from cases and run.

A case is what was scraped, and what must be true at some minutes of it.
"""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.grafana.scraped import INTERVAL_S, Timeline, selector
from tests.servers import PrometheusRelease

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Firing:
    """At this minute the alert fires with exactly these labels, beside its severity, or not at all."""

    minute: float
    alert: str
    labels: Sequence[Labels] = ()


@dataclass(frozen=True, slots=True)
class Message:
    """At this minute the alert fires once, and this is what people read."""

    minute: float
    alert: str
    labels: Labels
    summary: str
    description: str


@dataclass(frozen=True, slots=True)
class Value:
    """At this minute an expression has these values, by their series."""

    minute: float
    expression: str
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Case:
    """What was scraped, and what must be true of it."""

    name: str
    scraped: Sequence[Timeline]
    checks: Sequence[Firing | Message | Value]

    def alerts(self, fires: bool) -> set[str]:
        """The alerts of which it checks that they fire, or that they do not."""
        quiet = {check.alert for check in self.checks if isinstance(check, Firing) and not check.labels}
        loud = {check.alert for check in self.checks if isinstance(check, Firing) and check.labels}
        return loud if fires else quiet


def run(
    release: PrometheusRelease,
    folder: Path,
    rule_files: Sequence[str],
    cases: Sequence[Case],
    severities: Mapping[str, str],
    evaluation_s: int = INTERVAL_S,
) -> subprocess.CompletedProcess[str]:
    """`promtool test rules`, ended; `severities` are those of the alerts."""
    test = {
        "rule_files": list(rule_files),
        "evaluation_interval": f"{evaluation_s}s",
        # Else their order is by chance, and whether an alert sees a result now or 15 s later.
        "group_eval_order": [group["name"] for path in rule_files for group in _groups(path)],
        "tests": [_test(case, severities) for case in cases],
    }
    path = folder / "test.yml"
    path.write_text(yaml.safe_dump(test, sort_keys=False, width=10**6))
    return subprocess.run(
        [release.promtool, "test", "rules", str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def _groups(rule_file: str) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = yaml.safe_load(Path(rule_file).read_text())["groups"]
    return groups


def _test(case: Case, severities: Mapping[str, str]) -> dict[str, Any]:
    series: dict[str, str] = {}
    for timeline in case.scraped:
        both = series.keys() & timeline.series().keys()
        if both:
            raise ValueError(f"{case.name}: these were scraped twice: {both}")
        series |= timeline.series()
    checks = [check for check in case.checks if not isinstance(check, Message)]
    return {
        "name": case.name,
        "interval": f"{INTERVAL_S}s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [_expression(check, severities) for check in checks],
        "alert_rule_test": [
            _message(check, severities) for check in case.checks if isinstance(check, Message)
        ],
    }


def _expression(check: Firing | Value, severities: Mapping[str, str]) -> dict[str, Any]:
    at = f"{round(check.minute * 60)}s"
    if isinstance(check, Value):
        samples = [{"labels": labels, "value": value} for labels, value in check.values.items()]
        return {"expr": check.expression, "eval_time": at, "exp_samples": samples}
    firing = {"alertname": check.alert, "alertstate": "firing"}
    every = [firing | {"severity": severities[check.alert]} | dict(labels) for labels in check.labels]
    return {
        "expr": selector("ALERTS", firing),
        "eval_time": at,
        "exp_samples": [{"labels": selector("ALERTS", labels), "value": 1} for labels in every],
    }


def _message(check: Message, severities: Mapping[str, str]) -> dict[str, Any]:
    return {
        "eval_time": f"{round(check.minute * 60)}s",
        "alertname": check.alert,
        "exp_alerts": [
            {
                "exp_labels": {"severity": severities[check.alert]} | dict(check.labels),
                "exp_annotations": {
                    "summary": check.summary,
                    "description": check.description,
                    "runbook_url": f"grafana/README.md#{check.alert.lower()}",
                },
            }
        ],
    }
