"""Mutants of the rules: a threshold or a duration that is moved makes a case fail."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.grafana.promtool import Trial, run
from tests.grafana.rule_cases.every import cases_of, trials
from tests.grafana.rule_files import THRESHOLD, Rule, alerts, name_of, thresholds, with_thresholds
from tests.servers import installed_prometheus

pytestmark = [pytest.mark.full, pytest.mark.timeout(1200)]


def _alerts_by(threshold: str) -> list[str]:
    return [name for name, rule in alerts().items() if re.search(rf"{THRESHOLD}{threshold}\b", rule["expr"])]


CLOSE = {"thermal_slowdown_ratio": 0.3}
"""How far from a threshold its loads may lie, where that is not 2 %: in ten minutes there are 40 scrapes."""


def unnoticed(folder: Path, mutants: Mapping[str, list[Trial]]) -> list[str]:
    """The mutants under which every check of their trials still holds; one promtool judges all trials."""
    names = [name for name, trials_of in mutants.items() for _ in trials_of]
    results = run(installed_prometheus(), folder, [trial for each in mutants.values() for trial in each])
    # "got:" stands beside what a check found: a rule file that promtool cannot read notices nothing.
    noticed = {name for name, result in zip(names, results, strict=True) if "got:" in result}
    return sorted(mutants.keys() - noticed)


def test_the_loads_of_the_cases_lie_close_to_each_threshold(tmp_path: Path) -> None:
    """The cases detect a threshold that is changed by 2 %, up or down."""
    mutants = {}
    for threshold, value in thresholds().items():
        for side in (-1, 1):
            factor = 1 + side * CLOSE.get(threshold, 0.02)
            change = with_thresholds({threshold: value * factor})
            cases = {case.name: case for alert in _alerts_by(threshold) for case in cases_of(alert)}
            mutants[f"{threshold} x {factor}"] = trials(list(cases.values()), change)
    assert unnoticed(tmp_path, mutants) == []


def _durations() -> Iterator[tuple[str, str, float]]:
    for alert in alerts():
        for key in ("for", "keep_firing_for"):
            for factor in (0.4, 2.5):
                yield alert, key, factor


def _seconds(duration: str) -> int:
    return int(duration[:-1]) * {"s": 1, "m": 60, "h": 3600}[duration[-1]]


def test_the_minutes_of_the_cases_lie_close_to_each_duration(tmp_path: Path) -> None:
    """The cases detect a duration of less than half or more than twice its value."""

    def mutated(alert: str, key: str, factor: float) -> Callable[[Rule], Rule]:
        def change(rule: Rule) -> Rule:
            other = {key: f"{round(_seconds(rule[key]) * factor)}s"} if name_of(rule) == alert else {}
            return rule | other

        return change

    mutants = {
        f"{alert} {key} x {factor}": trials(cases_of(alert), mutated(alert, key, factor))
        for alert, key, factor in _durations()
    }
    assert unnoticed(tmp_path, mutants) == []
