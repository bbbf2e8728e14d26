"""Variables filled into expressions as Grafana fills them, and the panels' queries put to a Prometheus."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.servers import Prometheus

REFERENCE = re.compile(r"\$(\w+)|\$\{(\w+)(?::([\w:]+))?\}")
ALL = ".+"
POINTS = 1000
DURATION = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class View:
    """A dashboard as a reader has set it: the range, the datasource's scrape interval, the variables.

    A variable that takes several values has them as a tuple; one that is absent is set to All.
    """

    start_s: float
    end_s: float
    scrape_s: float
    chosen: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    typed: Mapping[str, str] = field(default_factory=dict)

    @property
    def range_s(self) -> float:
        return self.end_s - self.start_s

    def step_s(self, panel: Mapping[str, Any]) -> float:
        """`$__interval`: so that a line has 1000 points, but no less than the panel's least step."""
        number, unit = re.fullmatch(r"(\d+)(\w+)", panel.get("interval", f"{self.scrape_s:g}s")).groups()  # type: ignore[union-attr]
        return max(self.range_s / POINTS, int(number) * DURATION[unit])

    def fill(self, text: str, panel: Mapping[str, Any]) -> str:
        """A text with every variable filled in; an unknown one is an error."""
        step_s = self.step_s(panel)
        least_s = step_s if "interval" in panel else self.scrape_s
        known = {
            "__interval": _duration(step_s),
            "__rate_interval": _duration(max(step_s + least_s, 4 * least_s)),
            "__range": f"{round(self.range_s)}s",
            "__range_s": f"{round(self.range_s)}",
            **self.typed,
        }

        def value(match: re.Match[str]) -> str:
            name, form = match[1] or match[2], match[3]
            if name in ("__from", "__to"):
                return _time(self.start_s if name == "__from" else self.end_s, form)
            if name in ("job", "instance", "gpu"):
                values = self.chosen.get(name)
                return "|".join(values) if values and form == "pipe" else _choice(values)
            return known[name]

        return REFERENCE.sub(value, text)


def _duration(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


def _time(unix_s: float, form: str | None) -> str:
    if form == "date:seconds":
        return str(int(unix_s))
    if form == "date:iso":
        return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return str(round(unix_s * 1000))


def _choice(values: tuple[str, ...] | None) -> str:
    """A choice of several as a regular expression inside a PromQL string, where a backslash is doubled."""
    if values is None:
        return ALL
    escaped = [
        re.sub(r"[$^*{}\[\]'+?.()|\\]", lambda special: "\\\\" + special[0], value) for value in values
    ]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def targets(panel: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield from panel.get("targets", [])


def ask(prometheus: Prometheus, view: View, panel: Mapping[str, Any], target: Mapping[str, Any]) -> list[Any]:
    """The series of one query of a panel; whatever Prometheus has to remark on it is an error."""
    expression = view.fill(target["expr"], panel)
    fields = {"query": expression}
    if target["instant"]:
        path, fields["time"] = "/api/v1/query", f"{view.end_s:.3f}"
    else:
        path, step_s = "/api/v1/query_range", view.step_s(panel)
        # A step that is longer than the range leaves one point.
        fields["start"] = f"{view.start_s if step_s < view.range_s else view.end_s:.3f}"
        fields |= {"end": f"{view.end_s:.3f}", "step": f"{step_s:.3f}"}
    answer = json.loads(prometheus.fetch_text(path, fields, method="POST"))
    remarks = [*answer.get("warnings", []), *answer.get("infos", [])]
    assert not remarks, (expression, remarks)
    result: list[Any] = answer["data"]["result"]
    return result


def numbers(series: Mapping[str, Any]) -> list[float]:
    """The values of a series, of an instant or of a range."""
    points = series["values"] if "values" in series else [series["value"]]
    return [float(value) for _, value in points]


def by_label(found: list[Any], label: str) -> dict[str, float]:
    """The values of an instant query by a label, which no two series share."""
    values = {series["metric"][label]: float(series["value"][1]) for series in found}
    assert len(values) == len(found), found
    return values
