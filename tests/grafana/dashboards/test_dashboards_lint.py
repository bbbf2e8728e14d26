"""What a reviewer of dashboards looks for: the rules of Grafana's dashboard-linter, and some of our own."""

import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from grafana.make_dashboards import FOLDER, documents
from grafana.source.panel import BLUE, GREEN, ORANGE, RED
from llem_core import metrics
from tests.grafana.dashboards.test_dashboards_run import DASHBOARDS, PANELS, QUERIED, name_of

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
SELECTOR = re.compile(r"([a-z][a-z0-9_]*)\{([^}]*)\}")
RANGE_FUNCTION = re.compile(r"(\w+)\([a-z0-9_]+\{[^}]*\}\[([^\]]+)\](?P<end> @ end\(\))?\)")
WHOLE_STEPS = {"Energy by hour", "Emissions by hour", "Cost by hour"}
"""Bars that stand side by side: $__rate_interval would overlap, and count the same joules twice."""
OURS = {one.name for one in (*metrics.METRICS_PAGE, *metrics.HISTORY_PAGE)}
OTHERS = {"up", "scrape_duration_seconds", "process_resident_memory_bytes", "process_cpu_seconds_total"}
IN_WATTS = {one.name for one in (*metrics.METRICS_PAGE, *metrics.HISTORY_PAGE) if one.unit == "watts"}
COLUMNS = 24

each_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS)
each_panel = pytest.mark.parametrize("panel", [panel for _, panel in PANELS], ids=name_of)
each_queried = pytest.mark.parametrize("panel", [panel for _, panel in QUERIED], ids=name_of)


def expressions(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


def test_the_files_are_what_the_source_makes() -> None:
    """grafana/dashboards holds exactly what `python -m grafana.make_dashboards` writes."""
    assert {path.name: path.read_text() for path in FOLDER.iterdir()} == documents()


def test_it_is_written_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generator writes every file, into a folder that need not be there."""
    monkeypatch.setattr("grafana.make_dashboards.FOLDER", tmp_path / "new")
    sys.modules["grafana.make_dashboards"].main()
    assert {path.name for path in (tmp_path / "new").iterdir()} == documents().keys()


@each_dashboard
def test_it_can_be_provisioned(dashboard: dict[str, Any]) -> None:
    """A fixed uid that is its own, no id, not editable, a schema that Grafana 9 reads."""
    assert dashboard["id"] is None
    assert re.fullmatch(r"llem-[a-z-]{1,35}", dashboard["uid"])
    assert dashboard["title"]
    assert dashboard["description"]
    assert dashboard["editable"] is False
    assert dashboard["schemaVersion"] == 36
    assert "__inputs" not in dashboard


def test_uids_and_titles_are_unique() -> None:
    """No two dashboards share a uid or a title."""
    for key in ("uid", "title"):
        assert len({one[key] for one in DASHBOARDS.values()}) == len(DASHBOARDS)


@each_dashboard
def test_the_datasource_is_a_variable(dashboard: dict[str, Any]) -> None:
    """One variable for the datasource, by the name and with the label that the linter wants."""
    (source,) = (one for one in dashboard["templating"]["list"] if one["type"] == "datasource")
    assert (source["name"], source["label"], source["query"]) == ("datasource", "Data source", "prometheus")


@each_dashboard
@pytest.mark.parametrize("name", ["job", "instance", "gpu"])
def test_what_is_shown_can_be_chosen(dashboard: dict[str, Any], name: str) -> None:
    """job, instance and gpu are variables of several values, All is .+, by label_values of our metrics."""
    (variable,) = (one for one in dashboard["templating"]["list"] if one["name"] == name)
    assert (variable["type"], variable["label"], variable["datasource"]) == ("query", name, DATASOURCE)
    assert (variable["multi"], variable["includeAll"], variable["allValue"]) == (True, True, ".+")
    assert variable["refresh"] == 2  # when the time range changes
    query = variable["query"]["query"]
    metric, _, label = re.fullmatch(r"label_values\((\w+)(\{.*\})?, (\w+)\)", query).groups()  # type: ignore[union-attr]
    assert (metric in OURS, label) == (True, name)


@each_panel
def test_a_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    """A title, a description that is a sentence, a unit; each query has the datasource variable."""
    assert panel["title"]
    assert re.search(r"\w.*\.$", panel["description"])
    assert panel["description"] != panel["title"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert {json.dumps(place["datasource"]) for place in (panel, *panel["targets"])} == {
        json.dumps(DATASOURCE)
    }


@each_dashboard
def test_titles_and_ids_are_unique(dashboard: dict[str, Any]) -> None:
    """Inside one dashboard a panel can be named."""
    for key in ("id", "title"):
        values = [panel[key] for panel in dashboard["panels"]]
        assert len(set(values)) == len(values)


@each_dashboard
def test_no_panel_overlaps_another(dashboard: dict[str, Any]) -> None:
    """Every panel has its own place inside 24 columns, and no row leaves a hole on its right."""
    taken: dict[tuple[int, int], int] = {}
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        across, down = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        for cell in itertools.product(across, down):
            assert cell[0] < COLUMNS
            assert cell not in taken, (panel["title"], taken[cell])
            taken[cell] = panel["id"]
    bottom = max(y for _, y in taken) + 1
    assert len(taken) == COLUMNS * bottom


@each_queried
def test_every_selector_follows_the_variables(panel: dict[str, Any]) -> None:
    """Each metric is known, and is matched by job and instance; one of a GPU by gpu, too."""
    by_gpu = {one.name for one in (*metrics.METRICS_PAGE, *metrics.HISTORY_PAGE) if "gpu" in one.labels}
    for expression in expressions(panel):
        selectors = SELECTOR.findall(expression)
        assert selectors
        for metric, matchers in selectors:
            assert metric.removesuffix("_bucket") in OURS | OTHERS
            assert {'job=~"$job"', 'instance=~"$instance"'} <= set(matchers.split(","))
            assert ('gpu=~"$gpu"' in matchers) == (metric in by_gpu)
        named = re.findall(r"\b(?:llem|process|scrape)_\w+", expression)
        assert len(named) <= len(selectors)


@each_queried
def test_ranges_are_grafanas(panel: dict[str, Any]) -> None:
    """A line's ranges are $__rate_interval, a figure's $__range, and so is a line's rank, at the end."""
    for target in panel["targets"]:
        for function, window, end in RANGE_FUNCTION.findall(target["expr"]):
            if end:
                assert (window, target["range"]) == ("$__range", True)
            elif target["instant"]:
                assert window in ("$__range", "1m"), function
            elif function == "max_over_time":
                assert window == "$__interval"  # each sample of the trace once
            else:
                assert window == ("$__interval" if panel["title"] in WHOLE_STEPS else "$__rate_interval")


@each_queried
def test_watts_are_never_summed_over_time(panel: dict[str, Any]) -> None:
    """No sum_over_time, and no counter's function over a metric of watts: energy comes from counters."""
    for expression in expressions(panel):
        assert "sum_over_time" not in expression
        for function, metric in re.findall(r"(\w+)\((\w+)\{[^}]*\}\[", expression):
            if function in ("increase", "rate", "irate", "delta"):
                assert metric not in IN_WATTS
            if function in ("increase", "rate"):
                assert metric.endswith(("_total", "_bucket")), metric


@each_queried
def test_increase_is_said_to_extrapolate(panel: dict[str, Any]) -> None:
    """Joules of a range, and what follows from them, come with a word on the edges."""
    unit = panel["fieldConfig"]["defaults"]["unit"]
    energy = any("energy_joules_total" in expression for expression in expressions(panel))
    if energy and (panel["targets"][0]["instant"] or panel["title"] in WHOLE_STEPS) and unit != "percentunit":
        is_ratio = panel["title"] in {"Mean power", "Intensity in use, g/kWh", "Longest gaps"}
        assert is_ratio or "extrapolates" in panel["description"]


def test_few_colours() -> None:
    """Four colours beside Grafana's own palette and its text."""
    text = "".join(documents().values())
    used = set(re.findall(r'"(?:fixedColor|color)": "([^"]+)"', text))
    assert used <= {BLUE, GREEN, ORANGE, RED, "text"}


@each_queried
def test_one_line_one_name(panel: dict[str, Any]) -> None:
    """Lines that are told apart by labels have those labels in their names."""
    for target in panel["targets"]:
        if panel["type"] == "timeseries":
            assert target["legendFormat"] != "__auto"
