"""Every query of every panel and variable, on a real Prometheus that scrapes real exporters."""

import json
import math
import re
from typing import Any

import pytest

from tests.grafana.dashboards.conftest import MANY, MIG_SLICES, Scraped
from tests.grafana.dashboards.interpolation import View, ask, by_label, numbers, targets
from tests.grafana.dashboards.panels import DASHBOARDS, QUERIED, named

pytestmark = pytest.mark.full
MOST_LINES = 64


def drawn(scraped: Scraped, view: View, panel: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """All series of a panel, and what is wrong with them: a query without any, a value that is missing."""
    series: list[dict[str, Any]] = []
    problems = []
    for target in targets(panel):
        answer = ask(scraped.prometheus, view, panel, target)
        if not answer:
            problems.append(f"no data: {view.fill(target['expr'], panel)}")
        problems += [f"no number in {one}" for one in answer if not all(map(math.isfinite, numbers(one)))]
        series += answer
    return series, problems


def test_every_query_has_data_with_one_gpu(scraped: Scraped) -> None:
    """With one GPU, each query returns finite values and no warning."""
    view = scraped.view(scraped.nodes.one)
    assert [
        f"{name}: {problem}" for name, panel in QUERIED.items() for problem in drawn(scraped, view, panel)[1]
    ] == []


def test_no_panel_draws_over_64_lines(scraped: Scraped) -> None:
    """With two nodes, 65 GPUs and the most lines selected, a panel draws at most 64 lines."""
    exporters = {scraped.nodes.one, scraped.nodes.many}
    most = {"stat": 1, "timeseries": MOST_LINES, "table": math.inf}
    found = []
    for name, panel in QUERIED.items():
        series, problems = drawn(scraped, scraped.view(lines="32"), panel)
        places = {one["metric"]["instance"] for one in series if "instance" in one["metric"]}
        if not places <= exporters:
            problems.append(f"shows {places - exporters}, which are no exporters")
        if len(series) > most[panel["type"]] or not series:
            problems.append(f"draws {len(series)} series")
        found += [f"{name}: {problem}" for problem in problems]
    assert found == []


@pytest.mark.parametrize(
    ("dashboard", "title"), [("power.json", "Top consumers"), ("emissions.json", "GPUs")]
)
def test_tables_of_the_highest_have_their_rows_alone(scraped: Scraped, dashboard: str, title: str) -> None:
    """Each column has the same 8 of 65 GPUs, those with the most joules."""
    panel = named(dashboard, title)
    columns = [
        by_label(ask(scraped.prometheus, scraped.view(lines="8"), panel, one), "uuid")
        for one in targets(panel)
    ]
    uuids = {frozenset(column) for column in columns}
    assert [len(one) for one in uuids] == [8]
    everything = named("job-window.json", "GPUs in this window")
    joules = by_label(
        ask(scraped.prometheus, scraped.view(), everything, list(targets(everything))[1]), "uuid"
    )
    highest = sorted(joules, key=lambda uuid: joules[uuid], reverse=True)[:8]
    assert uuids == {frozenset(highest)}


def test_what_is_no_exporter_does_not_count_as_one_that_is_down(scraped: Scraped) -> None:
    """A failed target of another job is not counted as an exporter."""
    assert scraped.prometheus.query('up{job="others"} == 0')
    panel = named("health.json", "Exporters up")
    (target,) = targets(panel)
    (share,) = ask(scraped.prometheus, scraped.view(), panel, target)
    assert numbers(share) == [1]


def test_the_choice_of_lines_is_the_same_at_each_point(scraped: Scraped) -> None:
    """Over the whole range, exactly the selected number of 65 GPUs is drawn."""
    panel = named("power.json", "Power against limit")
    (powers, *_) = targets(panel)
    assert len(ask(scraped.prometheus, scraped.view(lines="8"), panel, powers)) == 8


def test_variables_offer_what_there_is(scraped: Scraped) -> None:
    """The variables list both jobs, both nodes, and all GPUs of the selected nodes."""
    offered: dict[str, dict[str, set[str]]] = {name: {} for name in DASHBOARDS}
    for name, dashboard in DASHBOARDS.items():
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                query = scraped.view().fill(variable["query"]["query"], {})
                series, label = re.fullmatch(r"label_values\((.+), (\w+)\)", query).groups()  # type: ignore[union-attr]
                answer = scraped.prometheus.fetch_text(f"/api/v1/label/{label}/values", {"match[]": series})
                offered[name][variable["name"]] = set(json.loads(answer)["data"])
    expected = {
        "job": {"llem", "llem-history"},
        "instance": {scraped.nodes.one, scraped.nodes.many},
        "gpu": {str(gpu) for gpu in range(MANY)},
    }
    assert offered == dict.fromkeys(DASHBOARDS, expected)


def test_chosen_gpus_alone_are_shown(scraped: Scraped) -> None:
    """With two of 64 GPUs selected, the table has two rows."""
    panel = named("job-window.json", "GPUs in this window")
    view = scraped.view(scraped.nodes.many, gpus=("3", "17"))
    identities, *columns = (ask(scraped.prometheus, view, panel, target) for target in targets(panel))
    assert {one["metric"]["gpu"] for one in identities} == {"3", "17"}
    for column in columns:
        assert by_label(column, "uuid").keys() == by_label(identities, "uuid").keys()


def test_a_card_with_mig_slices_is_one_gpu(scraped: Scraped) -> None:
    """A card with MIG slices is counted once."""
    assert scraped.prometheus.query(
        f'count by (uuid) (llem_gpu_mig_info{{instance="{scraped.nodes.many}"}}) == {MIG_SLICES}'
    )
    panel = named("power.json", "GPUs")
    (target,) = targets(panel)
    (count,) = ask(scraped.prometheus, scraped.view(scraped.nodes.many), panel, target)
    assert numbers(count) == [MANY]
