"""promtool's unit tests of rules, written from cases and run.

A case is what was scraped, and what must be true at some minutes of it.
"""

import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.grafana.rule_files import Rule, alerts, name_of, read_by, write_rules
from tests.grafana.scraped import INTERVAL_S, Timeline, selector
from tests.servers import PrometheusRelease

Labels = Mapping[str, str]
RUN_TIMEOUT_S = 900.0
# What promtool 2 and promtool 3 write above the result of each file.
HEADING = re.compile(r"^(?:Unit Testing|Processing test file): .*\n", re.MULTILINE)


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

    def read_rules(self) -> set[str]:
        """The names of the rules that its checks read, directly or through other rules."""
        return read_by(check.expression if isinstance(check, Value) else check.alert for check in self.checks)


@dataclass(frozen=True, slots=True)
class Trial:
    """A case under the rules that it reads, each changed; or under all rules, as they are.

    A longer evaluation interval saves time where a case lasts a day.
    """

    case: Case
    change: Callable[[Rule], Rule] = lambda rule: rule
    evaluation_s: int = INTERVAL_S
    all_rules: bool = False


def run(release: PrometheusRelease, folder: Path, trials: Sequence[Trial]) -> list[str]:
    """What promtool says is wrong in each trial, "" for nothing; one process judges each on its own."""
    paths = [_write(folder / f"{number}", trial) for number, trial in enumerate(trials)]
    ended = subprocess.run(
        [release.promtool, "test", "rules", *paths],
        env={**os.environ, "GOGC": "400"},  # a quarter less processor time than with Go's default of 100
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=RUN_TIMEOUT_S,
    )
    results = [part.strip() for part in HEADING.split(ended.stdout)[1:]]
    if len(results) != len(trials):
        raise ValueError(f"promtool ran {len(results)} of {len(trials)} trials: {ended.stdout[-2000:]}")
    return ["" if result == "SUCCESS" else result or "FAILED" for result in results]


def _write(folder: Path, trial: Trial) -> str:
    names = trial.case.read_rules()

    def change(rule: Rule) -> Rule | None:
        return trial.change(rule) if trial.all_rules or name_of(rule) in names else None

    rule_files = write_rules(folder, change)
    test = {
        "rule_files": rule_files,
        "evaluation_interval": f"{trial.evaluation_s}s",
        # Else their order is by chance, and whether an alert sees a result now or 15 s later.
        "group_eval_order": [group["name"] for path in rule_files for group in _groups(path)],
        "tests": [_test(trial.case)],
    }
    (path := folder / "test.yml").write_text(json.dumps(test))  # JSON is YAML
    return str(path)


def _groups(rule_file: str) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = json.loads(Path(rule_file).read_text())["groups"]
    return groups


def _test(case: Case) -> dict[str, Any]:
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
        "promql_expr_test": [_expression(check) for check in checks],
        "alert_rule_test": [_message(check) for check in case.checks if isinstance(check, Message)],
    }


def _expression(check: Firing | Value) -> dict[str, Any]:
    at = f"{round(check.minute * 60)}s"
    if isinstance(check, Value):
        samples = [{"labels": labels, "value": value} for labels, value in check.values.items()]
        return {"expr": check.expression, "eval_time": at, "exp_samples": samples}
    firing = {"alertname": check.alert, "alertstate": "firing"}
    every = [firing | _severity(check.alert) | dict(labels) for labels in check.labels]
    return {
        "expr": selector("ALERTS", firing),
        "eval_time": at,
        "exp_samples": [{"labels": selector("ALERTS", labels), "value": 1} for labels in every],
    }


def _message(check: Message) -> dict[str, Any]:
    return {
        "eval_time": f"{round(check.minute * 60)}s",
        "alertname": check.alert,
        "exp_alerts": [
            {
                "exp_labels": _severity(check.alert) | dict(check.labels),
                "exp_annotations": {
                    "summary": check.summary,
                    "description": check.description,
                    "runbook_url": f"grafana/README.md#{check.alert.lower()}",
                },
            }
        ],
    }


def _severity(alert: str) -> dict[str, str]:
    return {"severity": alerts()[alert]["labels"]["severity"]}
