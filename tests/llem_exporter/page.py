"""A metrics page, parsed."""

import re
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from tests.servers import Exporter

Key = tuple[str, tuple[tuple[str, str], ...]]


class MetricsPage:
    """Values by name and labels of a text in format 0.0.4."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._values = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def get(self, name: str, **labels: object) -> float | None:
        """The one value whose labels include these; None where there is none."""
        wanted = {(label, str(value)) for label, value in labels.items()}
        found = [value for key, value in self._values.items() if key[0] == name and wanted <= set(key[1])]
        assert len(found) <= 1, f"{name} {labels} has {len(found)} values"
        return found[0] if found else None

    def value(self, name: str, **labels: object) -> float:
        """The one value whose labels include these."""
        found = self.get(name, **labels)
        assert found is not None, f"no {name} {labels} in\n{self.text}"
        return found

    def labels(self, name: str, **labels: object) -> list[Mapping[str, str]]:
        """The labels of every series of this name that has these."""
        wanted = {(label, str(value)) for label, value in labels.items()}
        return [dict(key[1]) for key in self._values if key[0] == name and wanted <= set(key[1])]

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self._values}


def scrape(exporter: Exporter) -> MetricsPage:
    """The exporter's /metrics."""
    return MetricsPage(exporter.metrics())


def history(
    exporter: Exporter, since_unix_s: float | str = 0
) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """/history as (milliseconds, value) by metric name and GPU index, in the page's order."""
    series: dict[tuple[str, str], list[tuple[int, float]]] = {}
    text = exporter.fetch_text(f"/history?since={since_unix_s}")
    for name, gpu, value, ms in re.findall(r'^(\w+)\{gpu="(\d+)",[^}]*\} (\S+) (\d+)$', text, re.MULTILINE):
        series.setdefault((name, gpu), []).append((int(ms), float(value)))
    return series
