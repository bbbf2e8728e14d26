"""Build Prometheus metric families from the specs in llem_core.metrics."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from llem_core.metrics import METRICS_PAGE, Kind, MetricSpec

Family = CounterMetricFamily | GaugeMetricFamily


class CollectorState(NamedTuple):
    """Whether a collector's last reading succeeded, and its duration [s]. backends.py publishes it."""

    collector: str
    success: bool
    duration_s: float | None


class MetricBuilder:
    """Metric families of the given specs, in their order. Values of None and of other specs are left out."""

    def __init__(self, specs: Iterable[MetricSpec] = METRICS_PAGE) -> None:
        self._names = tuple(spec.name for spec in specs)
        self._families: dict[str, Family] = {}

    def add(self, spec: MetricSpec, labels: Iterable[str], value: float | None) -> None:
        """Add one sample."""
        family = self._families.get(spec.name)
        if value is None or (family is None and spec.name not in self._names):
            return
        if family is None:
            family = self._families[spec.name] = _family(spec)
        family.add_metric([*labels], float(value))

    def metrics(self) -> Iterator[Family]:
        """Return the families that have samples."""
        return (self._families[name] for name in self._names if name in self._families)


def _family(spec: MetricSpec) -> Family:
    if spec.kind is Kind.COUNTER:
        name = spec.name.removesuffix("_total")
        return CounterMetricFamily(name, spec.help, labels=spec.labels, unit=spec.unit)
    return GaugeMetricFamily(spec.name, spec.help, labels=spec.labels, unit=spec.unit)
