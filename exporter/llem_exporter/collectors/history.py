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
        cursors, builder = self._cursors, MetricBuilder()
        builder.add(metrics.HISTORY_HELD, (), sum(len(ring.held_numbers()) for ring in cursors.rings()))
        builder.add(metrics.HISTORY_SCRAPERS, (), cursors.active_scrapers)
        builder.add(metrics.HISTORY_OFFERED, (), cursors.offered_samples)
        builder.add(metrics.HISTORY_CONFIRMED, (), cursors.confirmed_samples)
        builder.add(metrics.HISTORY_EVICTED, (), cursors.evicted_samples)
        builder.add(metrics.HISTORY_CONFLICTS, (), cursors.conflicts)
        return builder.metrics()
