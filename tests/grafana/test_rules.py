"""The rules by promtool: they load, and each alert fires where it must and only there."""

import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from llem_core import metrics
from llem_core.metrics import Kind
from tests.grafana.promtool import Case, Message, Trial, run
from tests.grafana.rule_cases import budgets, exporters, gpus, power, recording
from tests.grafana.rule_files import (
    FOLDER,
    RULE_FILES,
    THRESHOLD,
    Rule,
    alerts,
    document,
    name_of,
    rules,
    thresholds,
    with_thresholds,
    write_rules,
)
from tests.servers import PrometheusRelease, installed_prometheus, program

HOURS = [make() for module in (power, budgets, exporters, gpus, recording) for make in module.FAST]
DAYS = [make() for module in (budgets, recording) for make in module.SLOW]
DAY_EVALUATION_S = 60
AS_THEY_ARE = [str(FOLDER / name) for name in RULE_FILES]


def trials(
    cases: list[Case], change: Callable[[Rule], Rule] = lambda rule: rule, *, all_rules: bool = False
) -> list[Trial]:
    """The cases under changed rules, those of a day evaluated less often."""
    return [
        Trial(
            case, change, all_rules=all_rules, **({"evaluation_s": DAY_EVALUATION_S} if case in DAYS else {})
        )
        for case in cases
    ]


def failures(
    release: PrometheusRelease, folder: Path, cases: list[Case], *, all_rules: bool = False
) -> list[str]:
    """'case: problem' of each case in which the rules do something else than they must."""
    results = run(release, folder, trials(cases, all_rules=all_rules))
    return [f"{case.name}: {problem}" for case, problem in zip(cases, results, strict=True) if problem]


def cases_of(alert: str) -> list[Case]:
    """The cases that check an alert."""
    return [case for case in HOURS + DAYS if alert in case.alerts(fires=True) | case.alerts(fires=False)]


@pytest.mark.parametrize("what", ["config", "rules"])
def test_prometheus_takes_the_files(prometheus_release: PrometheusRelease, what: str) -> None:
    """promtool finds nothing to complain about, by all its rules."""
    files = [str(FOLDER / "prometheus.yml")] if what == "config" else AS_THEY_ARE
    linted = [] if what == "config" and prometheus_release.major < 3 else ["--lint=all"]
    checked = subprocess.run(
        [prometheus_release.promtool, "check", what, *linted, "--lint-fatal", *files],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.count("SUCCESS") >= len(files)


def test_vmalert_takes_the_rules_without_keep_firing_for(tmp_path: Path) -> None:
    """Every expression is one for VictoriaMetrics, too; Debian's vmalert is older than that field."""
    files = write_rules(tmp_path, lambda rule: {key: rule[key] for key in rule if key != "keep_firing_for"})
    dry = [program("vmalert", "victoria-metrics"), "-dryRun", *(f"-rule={path}" for path in files)]
    checked = subprocess.run(dry, capture_output=True, text=True, check=False, timeout=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    wrong = write_rules(tmp_path, lambda rule: rule | {"expr": rule["expr"] + " +"})
    assert wrong == files
    assert subprocess.run(dry, capture_output=True, check=False, timeout=60).returncode != 0


def test_rules_do_what_they_must(prometheus_release: PrometheusRelease, tmp_path: Path) -> None:
    """In each case the alerts fire, stay quiet and end at the right minutes, with the right words."""
    assert failures(prometheus_release, tmp_path, HOURS + DAYS) == []


@pytest.mark.full
@pytest.mark.timeout(900)
def test_no_rule_fails_on_the_data_of_any_case(prometheus_release: PrometheusRelease, tmp_path: Path) -> None:
    """All rules are evaluated in each case, also those whose results the case does not check."""
    assert failures(prometheus_release, tmp_path, HOURS + DAYS, all_rules=True) == []


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_must_not() -> None:
    """Each alert has a check of its text, too."""
    cases = HOURS + DAYS
    texts = {check.alert for case in cases for check in case.checks if isinstance(check, Message)}
    fires = set().union(*(case.alerts(fires=True) for case in cases))
    quiet = set().union(*(case.alerts(fires=False) for case in cases))
    assert [sorted(checked) for checked in (fires, quiet, texts)] == [sorted(alerts())] * 3


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


@pytest.mark.full
@pytest.mark.timeout(900)
def test_the_loads_of_the_cases_lie_close_to_each_threshold(tmp_path: Path) -> None:
    """A threshold that is 2 % higher or lower is noticed: a load just above must fire, one just below not."""
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


@pytest.mark.full
@pytest.mark.timeout(900)
def test_the_minutes_of_the_cases_lie_close_to_each_duration(tmp_path: Path) -> None:
    """An alert that waits or stays for less than half or more than twice as long is noticed."""

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


def test_every_metric_exists() -> None:
    """Each name in an expression is a metric of the exporter, `up`, `ALERTS` or the result of a rule."""
    ours = {spec.name for spec in metrics.METRICS_PAGE if spec.kind is not Kind.HISTOGRAM}
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for rule in rules():
        used = set(re.findall(r"\bllem_\w+|\b\w+:llem_[\w:]+|\bllem:[\w:]+", rule["expr"]))
        assert used <= ours | recorded, (rule, used - ours - recorded)
    counters = {spec.name for spec in metrics.METRICS_PAGE if spec.kind is Kind.COUNTER}
    expressions = " ".join(rule["expr"] for rule in rules("recording.yml", "alerts.yml"))
    # rate() and increase() only of counters, or of the one series that is made of a single counter.
    for name in re.findall(r"(?:rate|increase)\(([\w:]+)", expressions):
        assert name in counters | {"uuid:llem_gpu_zeus_energy_joules_total:max"}
    assert not re.findall(r"(?:rate|increase)\(\s*sum", expressions)


def test_each_threshold_is_used_and_stands_in_one_place() -> None:
    """A threshold that no alert reads would be a setting without effect."""
    every = " ".join(rule["expr"] for rule in alerts().values())
    for name in thresholds():
        assert THRESHOLD + name in every, name
    for rule in alerts().values():
        numbers = set(re.findall(r"[<>]=?\s*([\d.]+)", rule["expr"]))
        assert numbers <= {"0"}, f"{rule['alert']} compares with {numbers}"


def test_what_is_recorded_seldom_is_looked_back_for() -> None:
    """A result as far apart as Prometheus looks back for one is missing for a moment between two: `for` would
    start anew."""
    seldom = [
        rule["record"]
        for group in document("recording.yml")["groups"]
        if "interval" in group
        for rule in group["rules"]
    ]
    used = [(name, rule["expr"]) for name in seldom for rule in alerts().values() if name in rule["expr"]]
    assert used
    for name, expression in used:
        assert f"last_over_time({name}[15m])" in expression, expression


def test_recorded_names_have_level_metric_and_operation() -> None:
    """As Prometheus' own documentation wants them."""
    for rule in rules("recording.yml"):
        assert re.fullmatch(r"(uuid|gpu|instance|fleet):llem_[a-z_]+:[a-z]+\d*[md]?", rule["record"]), rule


def test_each_alert_says_what_is_wrong_and_what_to_do() -> None:
    """A severity, a summary, a description with its value, and a heading in README to go to."""
    runbook = (FOLDER.parent / "README.md").read_text()
    for name, rule in alerts().items():
        assert set(rule) == {"alert", "expr", "for", "keep_firing_for", "labels", "annotations"}, name
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert "$value" in rule["annotations"]["description"], name
        assert rule["annotations"]["runbook_url"] == f"grafana/README.md#{name.lower()}"
        assert f"\n### {name}\n" in runbook, name


def test_history_may_be_as_long_as_the_exporter_makes_it() -> None:
    """sample_limit lies above what README says for 16 GPUs at this scrape interval."""
    config = document("prometheus.yml")
    metrics_job, history_job = config["scrape_configs"]
    interval_s = int(config["global"]["scrape_interval"].removesuffix("s"))
    gpus = 16
    assert 6 * interval_s * 10 * 2 * gpus + 3 * gpus < history_job["sample_limit"]
    assert metrics_job["sample_limit"] > 64 * 2 * len(metrics.METRICS_PAGE)
    assert re.fullmatch("llem.*", metrics_job["job_name"])
    assert re.fullmatch("llem.*history", history_job["job_name"])
