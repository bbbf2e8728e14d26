"""Every query of every panel and variable, on a real Prometheus that scrapes real exporters."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest

from grafana.make_dashboards import documents
from tests.grafana.dashboards.conftest import MANY, MIG_SLICES, Scraped
from tests.grafana.dashboards.interpolation import View, ask, by_label, numbers, targets

MOST_LINES = 64
DASHBOARDS: dict[str, dict[str, Any]] = {name: json.loads(text) for name, text in documents().items()}
PANELS = [(name, panel) for name, one in DASHBOARDS.items() for panel in one["panels"]]
QUERIED = [(name, panel) for name, panel in PANELS if panel["type"] != "text"]


def named(dashboard: str, title: str) -> dict[str, Any]:
    """The panel of this title."""
    found: list[dict[str, Any]] = [one for name, one in PANELS if (name, one["title"]) == (dashboard, title)]
    (panel,) = found
    return panel


def name_of(parameter: object) -> str:
    return str(parameter["title"]) if isinstance(parameter, dict) else str(parameter).removesuffix(".json")


def drawn(scraped: Scraped, view: View, panel: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All series of a panel; every query has some, and no value of any is missing."""
    for target in targets(panel):
        found = ask(scraped.prometheus, view, panel, target)
        assert found, (panel["title"], view.fill(target["expr"], panel))
        for series in found:
            assert all(map(math.isfinite, numbers(series))), (panel["title"], series)
        yield from found


@pytest.mark.parametrize(("dashboard", "panel"), QUERIED, ids=name_of)
def test_every_query_has_data_with_one_gpu(scraped: Scraped, dashboard: str, panel: dict[str, Any]) -> None:
    """Each query of each panel gives finite values with one GPU, and Prometheus remarks nothing."""
    assert list(drawn(scraped, scraped.view(scraped.nodes.one), panel)), dashboard


@pytest.mark.parametrize(("dashboard", "panel"), QUERIED, ids=name_of)
def test_no_panel_draws_over_64_lines(scraped: Scraped, dashboard: str, panel: dict[str, Any]) -> None:
    """The same over two nodes and 65 GPUs; whatever number of lines is chosen, a panel draws 64 at most."""
    series = list(drawn(scraped, scraped.view(lines="32"), panel))
    places = {one["metric"]["instance"] for one in series if "instance" in one["metric"]}
    assert places <= {scraped.nodes.one, scraped.nodes.many}, "what is no exporter is shown"
    match panel["type"]:
        case "stat":
            assert len(series) == 1
        case "timeseries":
            assert len(series) <= MOST_LINES, dashboard
        case kind:
            assert kind == "table"


@pytest.mark.parametrize(
    ("dashboard", "title"), [("power.json", "Top consumers"), ("emissions.json", "GPUs")]
)
def test_tables_of_the_highest_have_their_rows_alone(scraped: Scraped, dashboard: str, title: str) -> None:
    """Of 65 GPUs the 8 with most joules, the same in each column."""
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
    """Another job's target that cannot be scraped is no exporter of ours."""
    assert scraped.prometheus.query('up{job="others"} == 0')
    panel = named("health.json", "Exporters up")
    (target,) = targets(panel)
    (share,) = ask(scraped.prometheus, scraped.view(), panel, target)
    assert numbers(share) == [1]


def test_the_choice_of_lines_is_the_same_at_each_point(scraped: Scraped) -> None:
    """Of 65 GPUs exactly as many are drawn as were asked for, over the whole range."""
    panel = named("power.json", "Power against limit")
    (powers, *_) = targets(panel)
    assert len(ask(scraped.prometheus, scraped.view(lines="8"), panel, powers)) == 8


@pytest.mark.parametrize("dashboard", DASHBOARDS)
def test_variables_offer_what_there_is(scraped: Scraped, dashboard: str) -> None:
    """The variables' queries list both jobs, both nodes, and all GPUs of those chosen."""
    offered = {}
    for variable in DASHBOARDS[dashboard]["templating"]["list"]:
        if variable["type"] == "query":
            query = scraped.view().fill(variable["query"]["query"], {})
            series, label = re.fullmatch(r"label_values\((.+), (\w+)\)", query).groups()  # type: ignore[union-attr]
            answer = scraped.prometheus.fetch_text(f"/api/v1/label/{label}/values", {"match[]": series})
            offered[variable["name"]] = set(json.loads(answer)["data"])
    assert offered == {
        "job": {"llem", "llem-history"},
        "instance": {scraped.nodes.one, scraped.nodes.many},
        "gpu": {str(gpu) for gpu in range(MANY)},
    }


def test_chosen_gpus_alone_are_shown(scraped: Scraped) -> None:
    """Two GPUs chosen of 64: the table has their two rows."""
    panel = named("job-window.json", "GPUs in this window")
    view = scraped.view(scraped.nodes.many, gpus=("3", "17"))
    identities, *columns = (ask(scraped.prometheus, view, panel, target) for target in targets(panel))
    assert {one["metric"]["gpu"] for one in identities} == {"3", "17"}
    for column in columns:
        assert by_label(column, "uuid").keys() == by_label(identities, "uuid").keys()


def test_a_card_with_mig_slices_is_one_gpu(scraped: Scraped) -> None:
    """Slices are published, and yet the cards are counted once."""
    assert scraped.prometheus.query(
        f'count by (uuid) (llem_gpu_mig_info{{instance="{scraped.nodes.many}"}}) == {MIG_SLICES}'
    )
    panel = named("power.json", "GPUs")
    (target,) = targets(panel)
    (count,) = ask(scraped.prometheus, scraped.view(scraped.nodes.many), panel, target)
    assert numbers(count) == [MANY]
