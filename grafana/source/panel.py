"""Panels: what is drawn, in Grafana's classic JSON. Each has a title, a description and a unit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

Json = dict[str, Any]

DATASOURCE: Final[Json] = {"type": "prometheus", "uid": "${datasource}"}

BLUE, GREEN, ORANGE, RED = "blue", "green", "orange", "red"
"""All the colours there are: nvml, zeus, what needs a look, a limit or a failure. GPUs have Grafana's own."""


@dataclass(frozen=True, slots=True)
class Query:
    """One expression; a legend is the format of its lines' names."""

    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel of `width` (24 is all) by `height`; `instant` queries have one value, at the range's end."""

    title: str
    description: str
    kind: str
    unit: str
    queries: Sequence[Query]
    width: int
    height: int = 8
    instant: bool = False
    interval: str | None = None
    """The least step of its lines; the datasource's scrape interval where None."""
    options: Json = field(default_factory=dict)
    defaults: Json = field(default_factory=dict)
    overrides: Sequence[Json] = ()
    transformations: Sequence[Json] = ()

    def json(self, number: int, x: int, y: int) -> Json:
        panel: Json = {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "fieldConfig": {
                "defaults": {"unit": self.unit, **self.defaults},
                "overrides": list(self.overrides),
            },
            "options": self.options,
            "targets": [self._target(place, query) for place, query in enumerate(self.queries)],
        }
        if self.interval:
            panel["interval"] = self.interval
        if self.transformations:
            panel["transformations"] = list(self.transformations)
        return panel

    def _target(self, place: int, query: Query) -> Json:
        return {
            "refId": chr(ord("A") + place),
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": query.expression,
            "legendFormat": query.legend or "__auto",
            "format": "table" if self.kind == "table" else "time_series",
            "instant": self.instant,
            "range": not self.instant,
        }


def line(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    width: int = 12,
    interval: str | None = None,
    colours: Mapping[str, str] | None = None,
    bars: bool = False,
    at_most: float | None = None,
) -> Panel:
    """Lines over time; `colours` by a line's name. A hole in the data is a hole in the line."""
    custom: Json = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 0,
        "showPoints": "never",
        "spanNulls": False,
    }
    if bars:
        custom = {"drawStyle": "bars", "lineWidth": 1, "fillOpacity": 60, "showPoints": "never"}
    defaults: Json = {"min": 0, "custom": custom, "color": {"mode": "palette-classic"}}
    if at_most is not None:
        defaults["max"] = at_most
    legend = {"displayMode": "table", "placement": "right", "showLegend": True, "calcs": ["mean", "max"]}
    return Panel(
        title,
        description,
        "timeseries",
        unit,
        queries,
        width,
        interval=interval,
        options={"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}},
        defaults=defaults,
        overrides=[_coloured(name, colour) for name, colour in (colours or {}).items()],
    )


def figure(
    title: str, description: str, unit: str, expression: str, *, low: float | None = None, width: int = 4
) -> Panel:
    """One number at the range's end; below `low` it needs a look."""
    steps: list[Json] = [{"color": "text", "value": None}]
    if low is not None:
        steps = [{"color": ORANGE, "value": None}, {"color": "text", "value": low}]
    return Panel(
        title,
        description,
        "stat",
        unit,
        [Query(expression)],
        width,
        height=4,
        instant=True,
        options={
            "colorMode": "value",
            "graphMode": "none",
            "justifyMode": "auto",
            "textMode": "value",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        },
        defaults={"thresholds": {"mode": "absolute", "steps": steps}},
    )


@dataclass(frozen=True, slots=True)
class Column:
    """A table's column: its name, unit, and the expression with one value a row."""

    name: str
    unit: str
    expression: str
    decimals: int | None = None


def table(
    title: str,
    description: str,
    key: str,
    columns: Sequence[Column],
    *,
    labels: Mapping[str, str],
    height: int = 10,
    only: str | None = None,
) -> Panel:
    """A row for each series of `key`, whose labels are named by `labels`; columns are merged in by uuid.

    Where `only` is given, rows are those of its series.
    """
    expressions = [key, *(column.expression for column in columns)]
    queries = [Query(f"({one}) and on (uuid) {only}" if only else one) for one in expressions]
    values = {f"Value #{chr(ord('B') + place)}": column for place, column in enumerate(columns)}
    return Panel(
        title,
        description,
        "table",
        columns[0].unit,
        queries,
        24,
        height=height,
        instant=True,
        options={
            "showHeader": True,
            "frameIndex": 0,
            "sortBy": [{"displayName": columns[0].name, "desc": True}],
        },
        overrides=[_in_unit(column) for column in columns],
        transformations=_one_row_each(labels, values),
    )


def _one_row_each(labels: Mapping[str, str], values: Mapping[str, Column]) -> list[Json]:
    """Merge the answers by what they share, and put the columns in order under their names."""
    order = [*labels, *values]
    organized = {
        "excludeByName": {"Time": True, "Value #A": True},
        "indexByName": {name: place for place, name in enumerate(order)},
        "renameByName": {**labels, **{value: column.name for value, column in values.items()}},
    }
    return [{"id": "merge", "options": {}}, {"id": "organize", "options": organized}]


def words(title: str, description: str, text: str, *, height: int = 5) -> Panel:
    """Markdown, in which variables are filled in."""
    options = {"mode": "markdown", "content": text}
    return Panel(title, description, "text", "none", [], 24, height=height, options=options)


def _coloured(name: str, colour: str) -> Json:
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
    }


def _in_unit(column: Column) -> Json:
    properties: list[Json] = [{"id": "unit", "value": column.unit}]
    if column.decimals is not None:
        properties.append({"id": "decimals", "value": column.decimals})
    return {"matcher": {"id": "byName", "options": column.name}, "properties": properties}
