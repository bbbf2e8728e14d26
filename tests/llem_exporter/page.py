"""A metrics page, parsed."""

import re
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from tests.servers import Exporter

Key = tuple[str, tuple[tuple[str, str], ...]]


class MetricsPage:
    """The samples of a page in text format 0.0.4, by name and labels."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._values = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def get(self, name: str, **labels: object) -> float | None:
        """Return the only value whose labels include these, or None."""
        wanted = {(label, str(value)) for label, value in labels.items()}
        values = [value for key, value in self._values.items() if key[0] == name and wanted <= set(key[1])]
        assert len(values) <= 1, f"{name} {labels} has {len(values)} values"
        return values[0] if values else None

    def value(self, name: str, **labels: object) -> float:
        """Return the only value whose labels include these."""
        value = self.get(name, **labels)
        assert value is not None, f"no {name} {labels} in\n{self.text}"
        return value

    def labels(self, name: str, **labels: object) -> list[Mapping[str, str]]:
        """Return the labels of each series of this name whose labels include these."""
        wanted = {(label, str(value)) for label, value in labels.items()}
        return [dict(key[1]) for key in self._values if key[0] == name and wanted <= set(key[1])]

    @property
    def names(self) -> set[str]:
        """The names of all samples."""
        return {name for name, _ in self._values}


def scrape(exporter: Exporter) -> MetricsPage:
    """Return the exporter's /metrics."""
    return MetricsPage(exporter.metrics())


def history(
    exporter: Exporter, since_unix_s: float | str = 0
) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """Return /history as (milliseconds, value) by metric name and GPU index, in the order of the page."""
    series: dict[tuple[str, str], list[tuple[int, float]]] = {}
    text = exporter.fetch_text(f"/history?since={since_unix_s}")
    for name, gpu, value, ms in re.findall(r'^(\w+)\{gpu="(\d+)",[^}]*\} (\S+) (\d+)$', text, re.MULTILINE):
        series.setdefault((name, gpu), []).append((int(ms), float(value)))
    return series
