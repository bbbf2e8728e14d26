"""The llem_history_* metrics of /metrics."""

from collections.abc import Iterator

from prometheus_client.registry import Collector

from llem_core import metrics
from llem_exporter.collectors.builder import Family, MetricBuilder
from llem_exporter.history.cursors import ScraperCursors


class ScraperCollector(Collector):
    """How many samples are held, and what the scrapers of /history have received."""

    def __init__(self, cursors: ScraperCursors) -> None:
        self._cursors = cursors

    def collect(self) -> Iterator[Family]:
        cursors = self._cursors
        values = {
            metrics.HISTORY_HELD: sum(len(held) for held in cursors.held_numbers()),
            metrics.HISTORY_SCRAPERS: cursors.active_scrapers,
            metrics.HISTORY_OFFERED: cursors.offered_samples,
            metrics.HISTORY_CONFIRMED: cursors.confirmed_samples,
            metrics.HISTORY_EVICTED: cursors.evicted_samples,
            metrics.HISTORY_CONFLICTS: cursors.conflicts,
        }
        families = MetricBuilder(values)
        for spec, value in values.items():
            families.add(spec, (), value)
        return families.metrics()
