"""The rules of Grafana's dashboard-linter, and some of our own, over the JSON of each dashboard and panel."""

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from grafana.make_dashboards import FOLDER, documents
from grafana.source.panel import BLUE, GREEN, ORANGE, RED
from llem_core import metrics
from tests.grafana.dashboards.interpolation import View
from tests.grafana.dashboards.panels import DASHBOARDS, PANELS, QUERIED, Panel
from tests.servers import PrometheusRelease

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
SELECTOR = re.compile(r"([a-z][a-z0-9_]*)\{([^}]*)\}")
RANGE_FUNCTION = re.compile(r"(\w+)\([a-z0-9_]+\{[^}]*\}\[([^\]]+)\](?P<end> @ end\(\))?\)")
WHOLE_STEPS = {"Energy by hour", "Emissions by hour", "Cost by hour"}
"""Bars that stand side by side: $__rate_interval would overlap, and count the same joules twice."""
SPECS = (*metrics.METRICS_PAGE, *metrics.HISTORY_PAGE)
OURS = {spec.name for spec in SPECS}
OTHERS = {"up", "scrape_duration_seconds", "process_resident_memory_bytes", "process_cpu_seconds_total"}
IN_WATTS = {spec.name for spec in SPECS if spec.unit == "watts"}
BY_GPU = {spec.name for spec in SPECS if "gpu" in spec.labels}
COLUMNS = 24
A_WEEK = View(0, 7 * 86400, 15, typed={"top": "16", "intensity": "400", "price": "0.25", "pue": "1.3"})


def expressions(panel: Panel) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


def queries() -> Iterator[tuple[str, str]]:
    """'FILE: TITLE' and expression of each query."""
    yield from ((name, text) for name, panel in QUERIED.items() for text in expressions(panel))


def test_the_files_are_what_the_source_makes() -> None:
    """grafana/dashboards contains exactly the output of `python -m grafana.make_dashboards`."""
    assert {path.name: path.read_text() for path in FOLDER.iterdir()} == documents()


def test_it_is_written_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generator writes every file and creates the folder."""
    monkeypatch.setattr("grafana.make_dashboards.FOLDER", tmp_path / "new")
    sys.modules["grafana.make_dashboards"].main()
    assert {path.name for path in (tmp_path / "new").iterdir()} == documents().keys()


def test_the_queries_parse(prometheus_release: PrometheusRelease, tmp_path: Path) -> None:
    """promtool accepts each expression after the variables are filled in."""
    rules = [
        {"record": f"query:{number}", "expr": A_WEEK.fill(text, panel)}
        for number, (text, panel) in enumerate(
            (text, panel) for panel in QUERIED.values() for text in expressions(panel)
        )
    ]
    assert len(rules) > len(QUERIED)
    (path := tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "all", "rules": rules}]}))
    checked = subprocess.run(
        [prometheus_release.promtool, "check", "rules", str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stderr
    assert f"SUCCESS: {len(rules)} rules found" in checked.stdout


def test_each_dashboard_can_be_provisioned() -> None:
    """A dashboard has a fixed, unique uid, no id, is not editable, and has a schema that Grafana 9 reads."""
    problems = []
    for name, dashboard in DASHBOARDS.items():
        rules = {
            "id": dashboard["id"] is None,
            "uid": re.fullmatch(r"llem-[a-z-]{1,35}", dashboard["uid"]),
            "title": dashboard["title"],
            "description": dashboard["description"],
            "editable": dashboard["editable"] is False,
            "schemaVersion": dashboard["schemaVersion"] == 36,
            "__inputs": "__inputs" not in dashboard,
        }
        problems += [f"{name}: {key}" for key, good in rules.items() if not good]
    assert problems == []
    for key in ("uid", "title"):
        assert len({dashboard[key] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS)


def test_the_datasource_is_a_variable() -> None:
    """There is one datasource variable, with the name and label that the linter requires."""
    sources = {
        name: [
            (variable["name"], variable["label"], variable["query"])
            for variable in dashboard["templating"]["list"]
            if variable["type"] == "datasource"
        ]
        for name, dashboard in DASHBOARDS.items()
    }
    assert sources == {name: [("datasource", "Data source", "prometheus")] for name in DASHBOARDS}


def test_job_instance_and_gpu_can_be_chosen() -> None:
    """job, instance and gpu are multi-value variables from label_values of our metrics. All is .+."""
    expected = {
        "type": "query",
        "datasource": DATASOURCE,
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "refresh": 2,  # when the time range changes
    }
    problems = []
    for (name, dashboard), label in itertools.product(DASHBOARDS.items(), ("job", "instance", "gpu")):
        variables = [one for one in dashboard["templating"]["list"] if one["name"] == label]
        if len(variables) != 1:
            problems.append(f"{name}: {len(variables)} variables {label}")
            continue
        (variable,) = variables
        wanted = expected | {"label": label}
        problems += [f"{name}: {label}: {key}" for key, value in wanted.items() if variable[key] != value]
        query = re.fullmatch(r"label_values\((\w+)(\{.*\})?, (\w+)\)", variable["query"]["query"])
        if query is None or query[1] not in OURS or query[3] != label:
            problems.append(f"{name}: {label}: {variable['query']['query']}")
    assert problems == []


def test_a_panel_says_what_it_shows() -> None:
    """A panel has a title, a unit and a description of full sentences.

    Queries use the datasource variable.
    """
    problems = []
    for name, panel in PANELS.items():
        rules = {
            "title": panel["title"],
            "description": re.search(r"\w.*\.$", panel["description"])
            and panel["description"] != panel["title"],
            "unit": panel["fieldConfig"]["defaults"]["unit"],
            "datasource": all(place["datasource"] == DATASOURCE for place in (panel, *panel["targets"])),
        }
        problems += [f"{name}: {key}" for key, good in rules.items() if not good]
    assert problems == []


def test_titles_and_ids_are_unique() -> None:
    """Titles and IDs of panels are unique within a dashboard."""
    problems = []
    for (name, dashboard), key in itertools.product(DASHBOARDS.items(), ("id", "title")):
        values = [panel[key] for panel in dashboard["panels"]]
        problems += [f"{name}: {key} {value!r}" for value in values if values.count(value) > 1]
    assert problems == []


def test_no_panel_overlaps_another() -> None:
    """Panels do not overlap, fit into 24 columns, and fill each row to the right."""
    problems = []
    for name, dashboard in DASHBOARDS.items():
        taken: dict[tuple[int, int], str] = {}
        for panel in dashboard["panels"]:
            at, title = panel["gridPos"], panel["title"]
            cells = set(
                itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"]))
            )
            if max(x for x, _ in cells) >= COLUMNS:
                problems.append(f"{name}: {title} is too far to the right")
            problems += [f"{name}: {title} overlaps {taken[cell]}" for cell in cells & taken.keys()]
            taken |= dict.fromkeys(cells, title)
        if len(taken) != COLUMNS * (max(y for _, y in taken) + 1):
            problems.append(f"{name}: a row has a hole")
    assert problems == []


def test_every_selector_follows_the_variables() -> None:
    """Each metric exists and is filtered by job and instance. GPU metrics are also filtered by gpu."""
    problems = []
    for name, expression in queries():
        selectors = SELECTOR.findall(expression)
        for metric, matchers in selectors:
            if metric.removesuffix("_bucket") not in OURS | OTHERS:
                problems.append(f"{name}: {metric} is unknown")
            if not {'job=~"$job"', 'instance=~"$instance"'} <= set(matchers.split(",")):
                problems.append(f"{name}: {metric} is not matched by job and instance")
            if ('gpu=~"$gpu"' in matchers) != (metric in BY_GPU):
                problems.append(f"{name}: {metric} is matched by gpu, or should be")
        metric_names = re.findall(r"\b(?:llem|process|scrape)_\w+", expression)
        if not selectors or len(metric_names) > len(selectors):
            problems.append(f"{name}: a metric without matchers in {expression}")
    assert problems == []


def test_ranges_are_grafanas() -> None:
    """Lines use $__rate_interval. Single values, and the ranks of lines, use $__range."""
    problems = []
    for name, panel in QUERIED.items():
        for target in panel["targets"]:
            for function, window, end in RANGE_FUNCTION.findall(target["expr"]):
                if end:
                    good = (window, target["range"]) == ("$__range", True)
                elif target["instant"]:
                    good = window in ("$__range", "1m")
                elif function == "max_over_time" or panel["title"] in WHOLE_STEPS:
                    good = window == "$__interval"  # each sample of the trace once
                else:
                    good = window == "$__rate_interval"
                if not good:
                    problems.append(f"{name}: {function} over {window}{end}")
    assert problems == []


def test_watts_are_never_summed_over_time() -> None:
    """No sum_over_time, and no rate or increase of watts. Energy comes only from counters."""
    problems = []
    for name, expression in queries():
        if "sum_over_time" in expression:
            problems.append(f"{name}: sum_over_time")
        for function, metric in re.findall(r"(\w+)\((\w+)\{[^}]*\}\[", expression):
            in_watts = function in ("increase", "rate", "irate", "delta") and metric in IN_WATTS
            no_counter = function in ("increase", "rate") and not metric.endswith(("_total", "_bucket"))
            if in_watts or no_counter:
                problems.append(f"{name}: {function} of {metric}")
    assert problems == []


def test_increase_is_said_to_extrapolate() -> None:
    """The description of joules over a range mentions that increase() extrapolates at the edges."""
    ratios = {"Mean power", "Intensity in use, g/kWh", "Longest gaps"}
    problems = [
        name
        for name, panel in QUERIED.items()
        if any("energy_joules_total" in expression for expression in expressions(panel))
        and (panel["targets"][0]["instant"] or panel["title"] in WHOLE_STEPS)
        and panel["fieldConfig"]["defaults"]["unit"] != "percentunit"
        and panel["title"] not in ratios
        and "extrapolates" not in panel["description"]
    ]
    assert problems == []


def test_few_colours() -> None:
    """Dashboards use four colours besides Grafana's palette and text colour."""
    text = "".join(documents().values())
    used = set(re.findall(r'"(?:fixedColor|color)": "([^"]+)"', text))
    assert used <= {BLUE, GREEN, ORANGE, RED, "text"}


def test_lines_have_names() -> None:
    """Lines that differ in labels have these labels in their names."""
    problems = [
        name
        for name, panel in QUERIED.items()
        if panel["type"] == "timeseries"
        and any(target["legendFormat"] == "__auto" for target in panel["targets"])
    ]
    assert problems == []
