"""Build Prometheus metric families from the specs in llem_core.metrics."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from llem_core.metrics import Kind, MetricSpec

Family = CounterMetricFamily | GaugeMetricFamily


class CollectorState(NamedTuple):
    """Whether a collector's last reading succeeded, and its duration [s]. backends.py publishes it."""

    collector: str
    success: bool
    duration_s: float | None


class MetricBuilder:
    """Metric families of the given specs. Values of None and of other specs are left out."""

    def __init__(self, specs: Iterable[MetricSpec]) -> None:
        self._families = {spec.name: _family(spec) for spec in specs if spec.kind is not Kind.HISTOGRAM}

    def add(self, spec: MetricSpec, labels: Iterable[str], value: float | None) -> None:
        """Add one sample."""
        family = self._families.get(spec.name)
        if family is not None and value is not None:
            family.add_metric([*labels], float(value))

    def metrics(self) -> Iterator[Family]:
        """Return the families that have samples."""
        return (family for family in self._families.values() if family.samples)


def _family(spec: MetricSpec) -> Family:
    if spec.kind is Kind.COUNTER:
        name = spec.name.removesuffix("_total")
        return CounterMetricFamily(name, spec.help, labels=spec.labels, unit=spec.unit)
    return GaugeMetricFamily(spec.name, spec.help, labels=spec.labels, unit=spec.unit)
