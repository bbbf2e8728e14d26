"""A dashboard: its variables, and its panels laid out in rows, as Grafana's classic JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from grafana.source.panel import DATASOURCE, Json, Panel
from llem_core import metrics

SCHEMA_VERSION: Final = 36
"""Grafana 9.0's own. A newer Grafana migrates it; an older one would refuse a newer schema."""
COLUMNS: Final = 24
TAG: Final = "llem"


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A dashboard by its fixed uid; `rows` of panels from the top, each row at most 24 wide."""

    uid: str
    title: str
    description: str
    rows: Sequence[Sequence[Panel]]
    variables: Sequence[Json] = ()
    start: str = "now-1h"

    def json(self) -> Json:
        return {
            "id": None,
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": [TAG],
            "editable": False,
            "graphTooltip": 1,
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "time": {"from": self.start, "to": "now"},
            "timepicker": {},
            "timezone": "browser",
            "refresh": "",
            "annotations": {"list": []},
            "links": [_to_the_others()],
            "templating": {"list": [*COMMON, *self.variables]},
            "panels": self._panels(),
        }

    def _panels(self) -> list[Json]:
        panels: list[Json] = []
        y = 0
        for row in self.rows:
            x = 0
            for panel in row:
                panels.append(panel.json(len(panels) + 1, x, y))
                x += panel.width
            y += max(panel.height for panel in row)
        return panels


def _to_the_others() -> Json:
    return {
        "type": "dashboards",
        "title": "GPU energy",
        "tags": [TAG],
        "asDropdown": True,
        "icon": "external link",
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
        "tooltip": "",
        "url": "",
    }


def _of_label(name: str, metric: metrics.MetricSpec, matchers: str) -> Json:
    """A variable with the values of a label of the same name; All is every value that is not empty."""
    query = f"label_values({metric.name}{matchers}, {name})"
    return {
        "type": "query",
        "name": name,
        "label": name,
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 3,
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "options": [],
        "regex": "",
        "hide": 0,
    }


def _top() -> Json:
    counts = ["8", "16", "32"]
    return {
        "type": "custom",
        "name": "top",
        "label": "lines",
        "description": "How many lines a panel draws at most: the highest over the range.",
        "query": ",".join(counts),
        "current": {"selected": True, "text": "16", "value": "16"},
        "options": [{"selected": count == "16", "text": count, "value": count} for count in counts],
        "multi": False,
        "includeAll": False,
        "hide": 0,
    }


def number(name: str, label: str, value: str, description: str) -> Json:
    """A variable that the reader types in."""
    chosen = {"selected": True, "text": value, "value": value}
    return {
        "type": "textbox",
        "name": name,
        "label": label,
        "description": description,
        "query": value,
        "current": chosen,
        "options": [chosen],
        "hide": 0,
    }


COMMON: Final[Sequence[Json]] = (
    {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "query": "prometheus",
        "refresh": 1,
        "regex": "",
        "multi": False,
        "includeAll": False,
        "current": {"selected": False, "text": "", "value": ""},
        "options": [],
        "hide": 0,
    },
    # On both pages of the exporter, so that the job of /history can be chosen, too.
    _of_label("job", metrics.SAMPLER_INTERVAL, ""),
    _of_label("instance", metrics.SAMPLER_INTERVAL, '{job=~"$job"}'),
    _of_label("gpu", metrics.GPU_INFO, '{job=~"$job",instance=~"$instance"}'),
    _top(),
)
