"""The figures on the dashboards against llem-integrate's for the same window."""

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.grafana.dashboards.conftest import INTENSITY, MANY, PRICE, PUE, SCRAPE_SECONDS, Scraped
from tests.grafana.dashboards.interpolation import ask, by_label, numbers, targets
from tests.grafana.dashboards.panels import named

pytestmark = pytest.mark.full
JOULES_PER_KWH = 3.6e6
COLUMNS = [
    "Joules",
    "kWh",
    "Mean",
    "Peak",
    "Coverage",
    "Gaps",
    "zeus",
    "nvml",
    "nvml's coverage",
    "zeus / nvml",
]


def integrated(scraped: Scraped, instance: str, *options: str) -> Any:
    """llem-integrate's JSON for the window of the view."""
    view = scraped.view()
    window = f"{view.start_s:.6f},{view.end_s:.6f}"
    command = [
        sys.executable,
        "-m",
        "llem_integrator",
        "--source",
        scraped.prometheus.url,
        "--window",
        window,
    ]
    command += ["--match", f'instance="{instance}"', "--format", "json", "--wait", "20s", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["windows"][0]


def columns(scraped: Scraped, instance: str) -> dict[str, dict[str, float]]:
    """The columns of the job window's table, each a value by UUID."""
    panel = named("job-window.json", "GPUs in this window")
    _, *found = (ask(scraped.prometheus, scraped.view(instance), panel, target) for target in targets(panel))
    renamed = panel["transformations"][1]["options"]["renameByName"]
    names = [name for value, name in renamed.items() if value.startswith("Value")]
    return {name: by_label(column, "uuid") for name, column in zip(names, found, strict=True)}


def figure(scraped: Scraped, instance: str, dashboard: str, title: str) -> float:
    """The value of a panel with one number."""
    panel = named(dashboard, title)
    (target,) = targets(panel)
    ((_, value),) = (one["value"] for one in ask(scraped.prometheus, scraped.view(instance), panel, target))
    return float(value)


@dataclass(frozen=True)
class Pair:
    """A node's table on the dashboard beside llem-integrate's result, and how far edges may be apart."""

    shown: dict[str, dict[str, float]]
    window: Any
    edges_s: float

    def edge_joules(self, gpu: Any) -> float:
        """One scrape interval of peak power at each edge of the window."""
        return float(self.edges_s * gpu["peak_watts"])


@pytest.fixture(scope="module", params=["one", "many"])
def pair(request: pytest.FixtureRequest, scraped: Scraped) -> Pair:
    instance = getattr(scraped.nodes, request.param)
    return Pair(columns(scraped, instance), integrated(scraped, instance), 2 * SCRAPE_SECONDS)


def test_joules_and_kwh(pair: Pair) -> None:
    """Joules and kWh of each GPU (zeus, nvml) differ at most by a scrape interval at peak power per edge."""
    assert list(pair.shown) == COLUMNS
    assert len(pair.shown["Joules"]) == len(pair.window["gpus"]) in (1, MANY)
    for gpu in pair.window["gpus"]:
        near = pair.edge_joules(gpu)
        shown = {name: values[gpu["uuid"]] for name, values in pair.shown.items()}
        assert gpu["backend"] == "zeus"
        assert shown["Joules"] == pytest.approx(gpu["joules"], abs=near)
        assert shown["zeus"] == shown["Joules"]
        assert shown["nvml"] == pytest.approx(gpu["joules_by_backend"]["nvml"], abs=near)
        assert shown["kWh"] == pytest.approx(shown["Joules"] / JOULES_PER_KWH)


def test_mean_and_peak(pair: Pair) -> None:
    """Mean power differs at most by the same joules. The peak is that of a sample."""
    for gpu in pair.window["gpus"]:
        shown = {name: values[gpu["uuid"]] for name, values in pair.shown.items()}
        near = pair.edge_joules(gpu) / gpu["covered_s"]
        assert shown["Mean"] == pytest.approx(gpu["mean_watts"], abs=near)
        # At the edges the integrator interpolates, and a sample on an edge is in a range selector or not.
        assert shown["Peak"] == pytest.approx(gpu["peak_watts"], rel=0.02)


def test_coverage_and_gaps(pair: Pair) -> None:
    """Coverage and gap seconds differ from the integrator by at most a scrape interval at each edge."""
    duration_s = pair.window["duration_sec"]
    for gpu in pair.window["gpus"]:
        shown = {name: values[gpu["uuid"]] for name, values in pair.shown.items()}
        assert shown["Coverage"] == pytest.approx(gpu["coverage"], abs=pair.edges_s / duration_s)
        assert shown["Gaps"] == pytest.approx(gpu["gap_s"], abs=pair.edges_s)
        assert shown["Coverage"] * duration_s + shown["Gaps"] == pytest.approx(duration_s)
        assert 1 - pair.edges_s / duration_s <= shown["nvml's coverage"] <= 1
        assert shown["zeus / nvml"] == pytest.approx(1, abs=0.1)


def test_totals(scraped: Scraped, pair: Pair) -> None:
    """The totals above the table, and in other dashboards, are the sums over the rows."""
    instance = pair.window["gpus"][0]["instances"][0]
    joules = sum(pair.shown["Joules"].values())
    for dashboard, title in (("job-window.json", "Energy"), ("power.json", "Energy of the range")):
        assert figure(scraped, instance, dashboard, title) == pytest.approx(joules)
    for dashboard in ("job-window.json", "power.json", "emissions.json"):
        title = {"job-window.json": "Energy, kWh", "power.json": "Energy of the range, kWh"}.get(
            dashboard, "Energy of the range"
        )
        assert figure(scraped, instance, dashboard, title) == pytest.approx(joules / JOULES_PER_KWH)
    near = sum(map(pair.edge_joules, pair.window["gpus"]))
    assert joules == pytest.approx(pair.window["total_j"], abs=near)
    assert figure(scraped, instance, "job-window.json", "Highest sample") == max(pair.shown["Peak"].values())
    assert figure(scraped, instance, "job-window.json", "Lowest coverage") == min(
        pair.shown["Coverage"].values()
    )
    assert figure(scraped, instance, "job-window.json", "Mean power") == pytest.approx(
        sum(pair.shown["Mean"].values())
    )


@pytest.mark.parametrize("node", ["one", "many"])
def test_emissions_and_cost(scraped: Scraped, node: str) -> None:
    """Grams use CodeCarbon's rate if it runs, else the variable. Price and PUE use their variables."""
    instance = getattr(scraped.nodes, node)
    options = ["--emissions", "--price", PRICE, "--pue", PUE]
    window = integrated(
        scraped, instance, *options, *([] if node == "one" else ["--carbon-intensity", INTENSITY])
    )
    near = sum(2 * SCRAPE_SECONDS * gpu["peak_watts"] for gpu in window["gpus"]) / window["total_j"]
    for title, key in (("Emissions of the range", "emissions_g"), ("Cost of the range", "price")):
        given = sum(gpu[key] for gpu in window["gpus"])
        assert figure(scraped, instance, "emissions.json", title) == pytest.approx(given, rel=near)
    intensity = figure(scraped, instance, "emissions.json", "Intensity in use, g/kWh")
    rate = (
        sum(gpu["emissions_g"] for gpu in window["gpus"]) / float(PUE) / (window["total_j"] / JOULES_PER_KWH)
    )
    assert intensity == pytest.approx(rate, rel=0.02)


def test_no_scrape_is_no_energy(scraped: Scraped) -> None:
    """Before the first scrape, a panel has no data instead of 0."""
    panel = named("power.json", "Energy of the range")
    (target,) = targets(panel)
    view = scraped.view()
    before = replace(view, start_s=view.start_s - 7200, end_s=view.end_s - 7200)
    assert ask(scraped.prometheus, before, panel, target) == []


@pytest.mark.parametrize(("node", "gpus"), [("one", ()), ("many", ()), ("many", ("3", "17"))])
def test_the_command_beside_the_table_runs(scraped: Scraped, node: str, gpus: tuple[str, ...]) -> None:
    """The displayed llem-integrate command, with variables filled in, measures the same window and GPUs."""
    instance = getattr(scraped.nodes, node)
    view = scraped.view(instance, gpus=gpus)
    panel = named("job-window.json", "With llem-integrate")
    text = view.fill(panel["options"]["content"], panel)
    (line,) = (line for line in text.splitlines() if line.startswith("llem-integrate"))
    _, *options = shlex.split(line.replace("http://prometheus:9090", scraped.prometheus.url))
    command = [sys.executable, "-m", "llem_integrator", *options, "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    (window,) = json.loads(done.stdout)["windows"]
    near = sum(2 * SCRAPE_SECONDS * gpu["peak_watts"] for gpu in window["gpus"])
    energy = named("job-window.json", "Energy")
    (shown,) = (
        numbers(one) for target in targets(energy) for one in ask(scraped.prometheus, view, energy, target)
    )
    assert shown == [pytest.approx(window["total_j"], abs=near)]
    assert len(window["gpus"]) == (len(gpus) or {"one": 1, "many": MANY}[node])
