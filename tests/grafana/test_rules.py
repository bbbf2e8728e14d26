"""The rules by promtool: they load, and each alert fires where it must and only there."""

import re
import subprocess
from pathlib import Path

import pytest

from llem_core import metrics
from llem_core.metrics import Kind
from tests.grafana.promtool import Case, Message, run
from tests.grafana.rule_cases.every import every, trials
from tests.grafana.rule_files import (
    FOLDER,
    RULE_FILES,
    THRESHOLD,
    alerts,
    document,
    rules,
    thresholds,
    write_rules,
)
from tests.servers import PrometheusRelease, program

AS_THEY_ARE = [str(FOLDER / name) for name in RULE_FILES]


def failures(
    release: PrometheusRelease, folder: Path, cases: list[Case], *, all_rules: bool = False
) -> list[str]:
    """'case: problem' of each case in which the rules do something else than they must."""
    results = run(release, folder, trials(cases, all_rules=all_rules))
    return [f"{case.name}: {problem}" for case, problem in zip(cases, results, strict=True) if problem]


@pytest.mark.parametrize("what", ["config", "rules"])
def test_prometheus_takes_the_files(prometheus_release: PrometheusRelease, what: str) -> None:
    """promtool accepts the files, with all lint checks."""
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


@pytest.mark.full
def test_vmalert_takes_the_rules_without_keep_firing_for(tmp_path: Path) -> None:
    """VictoriaMetrics accepts every expression. Debian's vmalert does not know keep_firing_for."""
    files = write_rules(tmp_path, lambda rule: {key: rule[key] for key in rule if key != "keep_firing_for"})
    dry = [program("vmalert", "victoria-metrics"), "-dryRun", *(f"-rule={path}" for path in files)]
    checked = subprocess.run(dry, capture_output=True, text=True, check=False, timeout=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    wrong = write_rules(tmp_path, lambda rule: rule | {"expr": rule["expr"] + " +"})
    assert wrong == files
    assert subprocess.run(dry, capture_output=True, check=False, timeout=60).returncode != 0


def test_rules_do_what_they_must(prometheus_release: PrometheusRelease, tmp_path: Path) -> None:
    """In each case, alerts fire, stay silent and resolve at the right minutes, with the right text."""
    assert failures(prometheus_release, tmp_path, every()) == []


@pytest.mark.full
@pytest.mark.timeout(900)
def test_no_rule_fails_on_the_data_of_any_case(prometheus_release: PrometheusRelease, tmp_path: Path) -> None:
    """Each case evaluates all rules, including those that it does not check."""
    assert failures(prometheus_release, tmp_path, every(), all_rules=True) == []


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_must_not() -> None:
    """Each alert also has a check of its text."""
    cases = every()
    texts = {check.alert for case in cases for check in case.checks if isinstance(check, Message)}
    fires = set().union(*(case.alerts(fires=True) for case in cases))
    quiet = set().union(*(case.alerts(fires=False) for case in cases))
    assert [sorted(checked) for checked in (fires, quiet, texts)] == [sorted(alerts())] * 3


def test_every_metric_exists() -> None:
    """Each name in an expression is a metric of the exporter, `up`, `ALERTS` or a recorded metric."""
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
    """Each threshold is used by an alert, and alerts contain no other numbers."""
    every = " ".join(rule["expr"] for rule in alerts().values())
    for name in thresholds():
        assert THRESHOLD + name in every, name
    for rule in alerts().values():
        numbers = set(re.findall(r"[<>]=?\s*([\d.]+)", rule["expr"]))
        assert numbers <= {"0"}, f"{rule['alert']} compares with {numbers}"


def test_what_is_recorded_seldom_is_looked_back_for() -> None:
    """Alerts use last_over_time() for rules with long intervals. A missing result would restart `for`."""
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
    """The names follow the Prometheus documentation: level:metric:operation."""
    for rule in rules("recording.yml"):
        assert re.fullmatch(r"(uuid|gpu|instance|fleet):llem_[a-z_]+:[a-z]+\d*[md]?", rule["record"]), rule


def test_each_alert_says_what_is_wrong_and_what_to_do() -> None:
    """An alert has a severity, a summary, a description with its value, and a section in the README."""
    runbook = (FOLDER.parent / "README.md").read_text()
    for name, rule in alerts().items():
        assert set(rule) == {"alert", "expr", "for", "keep_firing_for", "labels", "annotations"}, name
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert "$value" in rule["annotations"]["description"], name
        assert rule["annotations"]["runbook_url"] == f"grafana/README.md#{name.lower()}"
        assert f"\n### {name}\n" in runbook, name


def test_history_may_be_as_long_as_the_exporter_makes_it() -> None:
    """sample_limit exceeds the README's number for 16 GPUs at this scrape interval."""
    config = document("prometheus.yml")
    metrics_job, history_job = config["scrape_configs"]
    interval_s = int(config["global"]["scrape_interval"].removesuffix("s"))
    gpus = 16
    assert 6 * interval_s * 10 * 2 * gpus + 3 * gpus < history_job["sample_limit"]
    assert metrics_job["sample_limit"] > 64 * 2 * len(metrics.METRICS_PAGE)
    assert re.fullmatch("llem.*", metrics_job["job_name"])
    assert re.fullmatch("llem.*history", history_job["job_name"])
