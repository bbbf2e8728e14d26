"""The dashboards' joules over an hour in which an exporter restarts and a GPU moves."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.grafana.dashboards.counters import SCRAPE_SECONDS, START_UNIX_S, Page, scrape
from tests.grafana.dashboards.interpolation import View, ask, by_label, numbers, targets
from tests.grafana.dashboards.panels import named
from tests.grafana.dashboards.schema_check import table
from tests.servers import Prometheus, PrometheusRelease

pytestmark = pytest.mark.full
HOUR = 3600
WATTS = {"restarted": 300.0, "moved": 500.0, "late": 200.0, "lost": 250.0, "repodded": 400.0}
HIGHEST, HIGHEST_AT = 690.0, 700
DOWN = (1800, 1950)
MOVE = (2400, 2460)
LOST_AT = 2100
REPLACED_AT = 1995
BEGINS, ENDS = 610, 3590


def page() -> Page:
    """Five GPUs for an hour. Both jobs see the first one, at one instance; the last has two pods in turn."""
    found = Page()
    both = ("llem", "llem-too")
    scrape(
        found,
        "restarted",
        300.0,
        (0, DOWN[0]),
        started_s=-50.0,
        jobs=both,
        peaks=((580, HIGHEST), (HIGHEST_AT, HIGHEST - 90)),
    )
    scrape(found, "restarted", 300.0, (DOWN[1], HOUR + 60), started_s=DOWN[1] - 2.0, jobs=both)
    scrape(found, "moved", 500.0, (0, MOVE[0]), started_s=-50.0, instance="10.0.0.1:9955")
    scrape(found, "moved", 500.0, (MOVE[1], HOUR + 60), started_s=MOVE[1] - 2.0, instance="10.0.0.2:9955")
    scrape(found, "late", 200.0, (1200, HOUR + 60), instance="node2:9955")
    scrape(found, "lost", 250.0, (0, HOUR + 60), started_s=-50.0, instance="node3:9955", lost_s=LOST_AT)
    for pod, stretch in (("p1", (0, REPLACED_AT)), ("p2", (REPLACED_AT, HOUR + 60))):
        scrape(found, "repodded", 400.0, stretch, instance="node4", pod=pod)
    return found


@pytest.fixture(scope="module")
def stored(
    tmp_path_factory: pytest.TempPathFactory, prometheus_release: PrometheusRelease
) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("counters")
    with Prometheus.on_blocks(folder, page().text(), release=prometheus_release) as prometheus:
        yield prometheus


VIEW = View(
    START_UNIX_S + BEGINS,
    START_UNIX_S + ENDS,
    SCRAPE_SECONDS,
    typed={"top": "16", "intensity": "400", "price": "1", "pue": "1"},
)


def column(stored: Prometheus, title: str) -> dict[str, float]:
    """A column of the job window's table by UUID."""
    panel = named("job-window.json", "GPUs in this window")
    renamed = panel["transformations"][1]["options"]["renameByName"]
    names = [name for value, name in renamed.items() if value.startswith("Value")]
    return by_label(ask(stored, VIEW, panel, list(targets(panel))[1 + names.index(title)]), "uuid")


@pytest.fixture(scope="module")
def integrated(stored: Prometheus) -> dict[str, Any]:
    """llem-integrate's GPUs by UUID for the same window."""
    window = f"{VIEW.start_s:.6f},{VIEW.end_s:.6f}"
    command = [
        sys.executable,
        "-m",
        "llem_integrator",
        "--source",
        stored.url,
        "--window",
        window,
        "--format",
        "json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, 4), done.stderr
    return {gpu["uuid"]: gpu for gpu in json.loads(done.stdout)["windows"][0]["gpus"]}


def test_a_restart_costs_the_hardwares_counter_nothing(
    stored: Prometheus, integrated: dict[str, Any]
) -> None:
    """zeus counts while the exporter is down. Two jobs that scrape one exporter count as one GPU."""
    exact = WATTS["restarted"] * (ENDS - BEGINS)
    near = 2 * SCRAPE_SECONDS * WATTS["restarted"]
    assert column(stored, "Joules")["restarted"] == pytest.approx(exact, abs=near)
    assert column(stored, "Joules")["restarted"] == pytest.approx(integrated["restarted"]["joules"], abs=near)
    assert column(stored, "Coverage")["restarted"] == pytest.approx(
        1, abs=2 * SCRAPE_SECONDS / (ENDS - BEGINS)
    )


def test_a_restart_is_a_gap_of_the_exporters_own(stored: Prometheus, integrated: dict[str, Any]) -> None:
    """After a restart, nvml keeps the counted joules. The gap is not filled, and the means still agree."""
    near = 2 * SCRAPE_SECONDS * WATTS["restarted"]
    joules = column(stored, "nvml")["restarted"]
    assert joules == pytest.approx(integrated["restarted"]["joules_by_backend"]["nvml"], abs=near)
    assert joules < WATTS["restarted"] * (ENDS - BEGINS - (DOWN[1] - DOWN[0])) + near
    assert column(stored, "nvml's coverage")["restarted"] < 0.96
    assert column(stored, "zeus / nvml")["restarted"] == pytest.approx(1, abs=0.02)
    assert column(stored, "Mean")["restarted"] == pytest.approx(WATTS["restarted"], rel=0.01)


def test_a_gpu_that_moved_is_one_card(stored: Prometheus, integrated: dict[str, Any]) -> None:
    """The joules of a GPU at two instances are one row. The time between the instances is a gap."""
    joules = column(stored, "Joules")["moved"]
    near = 4 * SCRAPE_SECONDS * WATTS["moved"]
    hole_s = MOVE[1] - MOVE[0]
    assert joules == pytest.approx(integrated["moved"]["joules"] - hole_s * WATTS["moved"], abs=near)
    assert column(stored, "Gaps")["moved"] == pytest.approx(hole_s, abs=4 * SCRAPE_SECONDS)
    assert column(stored, "Mean")["moved"] == pytest.approx(WATTS["moved"], rel=0.01)


def test_a_pod_that_follows_another_loses_nothing(stored: Prometheus, integrated: dict[str, Any]) -> None:
    """If a pod replaces another at the same instance, joules and coverage of both are added."""
    near = 4 * SCRAPE_SECONDS * WATTS["repodded"]
    gpu = integrated["repodded"]
    assert column(stored, "Joules")["repodded"] == pytest.approx(gpu["joules"], abs=near)
    assert column(stored, "nvml")["repodded"] == pytest.approx(gpu["joules_by_backend"]["nvml"], abs=near)
    assert column(stored, "Gaps")["repodded"] == pytest.approx(0, abs=4 * SCRAPE_SECONDS)
    assert column(stored, "Mean")["repodded"] == pytest.approx(WATTS["repodded"], rel=0.01)


def test_what_was_before_the_first_scrape_is_no_energy(
    stored: Prometheus, integrated: dict[str, Any]
) -> None:
    """A GPU that appears later has joules from its first scrape, and a coverage below 1."""
    near = 2 * SCRAPE_SECONDS * WATTS["late"]
    assert column(stored, "Joules")["late"] == pytest.approx(integrated["late"]["joules"], abs=near)
    share = (ENDS - 1200) / (ENDS - BEGINS)
    assert column(stored, "Coverage")["late"] == pytest.approx(
        share, abs=2 * SCRAPE_SECONDS / (ENDS - BEGINS)
    )
    assert column(stored, "Coverage")["late"] == pytest.approx(integrated["late"]["coverage"], abs=0.011)


def test_a_gpu_that_is_lost_has_no_power(stored: Prometheus, integrated: dict[str, Any]) -> None:
    """The joules of a lost GPU end at its last reading. Its line ends and does not fall to 0 W."""
    near = 2 * SCRAPE_SECONDS * WATTS["lost"]
    assert column(stored, "Joules")["lost"] == pytest.approx(integrated["lost"]["joules"], abs=near)
    assert column(stored, "Gaps")["lost"] == pytest.approx(ENDS - LOST_AT, abs=2 * SCRAPE_SECONDS)
    assert column(stored, "Mean")["lost"] == pytest.approx(WATTS["lost"], rel=0.02)
    panel = named("power.json", "Power against limit")
    lines = [one for one in ask(stored, VIEW, panel, next(targets(panel))) if one["metric"]["uuid"] == "lost"]
    (line,) = (one["values"] for one in lines)
    assert START_UNIX_S + LOST_AT <= line[-1][0] <= START_UNIX_S + LOST_AT + 4 * SCRAPE_SECONDS
    assert min(float(watts) for _, watts in line) > 0.7 * WATTS["lost"]


def test_the_peak_is_the_windows_own(stored: Prometheus, integrated: dict[str, Any]) -> None:
    """The peak gauge covers the last minute. A peak before the window is not shown."""
    assert column(stored, "Peak")["restarted"] == HIGHEST - 90 == integrated["restarted"]["peak_watts"]
    assert column(stored, "Peak")["moved"] == WATTS["moved"]


def test_each_card_has_one_row(stored: Prometheus) -> None:
    """The table has one row per card, for any number of instances and jobs."""
    panel = named("job-window.json", "GPUs in this window")
    identities, *_ = targets(panel)
    assert by_label(ask(stored, VIEW, panel, identities), "uuid").keys() == WATTS.keys()


def frame(number: int, found: list[Any]) -> dict[str, Any]:
    """The answer to a table's query as Grafana's datasource hands it on: time, labels, value."""
    value = f"Value #{chr(ord('A') + number)}"
    labels = sorted({label for one in found for label in one["metric"]})
    fields = [{"name": "Time", "type": "time", "values": [one["value"][0] for one in found], "config": {}}]
    for label in labels:
        texts = [one["metric"].get(label) for one in found]
        fields.append({"name": label, "type": "string", "values": texts, "config": {}})
    fields.append(
        {"name": value, "type": "number", "values": [float(one["value"][1]) for one in found], "config": {}}
    )
    return {"refId": value[-1], "fields": fields, "length": len(found)}


def test_grafana_makes_one_row_a_card(stored: Prometheus, npm_packages: Path) -> None:
    """Grafana's transformations merge the query results into one row per card, with ordered columns."""
    panel = named("job-window.json", "GPUs in this window")
    frames = [frame(number, ask(stored, VIEW, panel, one)) for number, one in enumerate(targets(panel))]
    rows = {row["UUID"]: row for row in table(npm_packages, panel, frames)}
    assert rows.keys() == WATTS.keys()
    for uuid, row in rows.items():
        assert list(row)[:6] == ["Instance", "GPU", "Name", "UUID", "Joules", "kWh"]
        assert row["Joules"] == column(stored, "Joules")[uuid]
        assert row["nvml"] == column(stored, "nvml")[uuid]
    assert rows["late"]["Instance"] == "node2:9955"
    assert {len(row) for row in rows.values()} == {4 + 10}


def test_an_hours_bar_is_that_hours_energy(stored: Prometheus) -> None:
    """The bar at the end of an hour shows the joules of that hour, as does the total of the same range."""
    panel = named("power.json", "Energy by hour")
    view = View(VIEW.end_s - HOUR, VIEW.end_s, SCRAPE_SECONDS, typed=VIEW.typed)
    (bar,) = (numbers(one) for target in targets(panel) for one in ask(stored, view, panel, target))
    total = named("power.json", "Energy of the range")
    (whole,) = (numbers(one) for target in targets(total) for one in ask(stored, view, total, target))
    assert bar == pytest.approx(whole)
    exact = WATTS["restarted"] * HOUR + WATTS["moved"] * (HOUR - 60) + WATTS["late"] * (ENDS - 1200)
    exact += WATTS["lost"] * (LOST_AT - (ENDS - HOUR)) + WATTS["repodded"] * HOUR
    assert bar[0] == pytest.approx(exact, rel=0.02)
