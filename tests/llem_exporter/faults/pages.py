"""What the tests of faults look at on a page of metrics."""

import time
from collections.abc import Callable, Collection

import pytest

from llem_core import metrics
from llem_core.metrics import METRICS_PAGE
from tests.fake_nvml import FakeDriver
from tests.llem_exporter.page import MetricsPage, scrape
from tests.servers import Exporter, wait_until

PEAK = metrics.GPU_POWER_PEAK.name
POWER, NVML, ZEUS = metrics.GPU_POWER.name, metrics.GPU_NVML_ENERGY.name, metrics.GPU_ZEUS_ENERGY.name
STAMP, SAMPLES, ERRORS = (
    metrics.GPU_SAMPLE_TIMESTAMP.name,
    metrics.GPU_SAMPLES.name,
    metrics.GPU_READ_ERRORS.name,
)
COVERED, GAP, INFO = metrics.GPU_INTEGRATED.name, metrics.GPU_GAP.name, metrics.GPU_INFO.name
SUCCESS, AVAILABLE = metrics.COLLECTOR_SUCCESS.name, metrics.BACKEND_AVAILABLE.name
GPU_GAUGES = [
    spec.name
    for spec in METRICS_PAGE
    if spec.labels[:1] == ("gpu",) and spec.kind == "gauge" and spec is not metrics.GPU_INFO
]
SLOW_GAUGES = [
    spec.name
    for spec in (
        metrics.GPU_TEMPERATURE,
        metrics.GPU_MEMORY_USED,
        metrics.GPU_UTILIZATION,
        metrics.GPU_POWER_LIMIT,
    )
]

FRESH_SECONDS = 1.0
LIMIT_WATTS = 700.0
"""The fake GPUs' enforced limit."""

Begin = Callable[..., Exporter]


def page_with(exporter: Exporter, name: str, count: int = 1, **labels: object) -> MetricsPage:
    """The page as soon as it has `count` series of this name and these labels, none of them 0."""

    def pages() -> list[MetricsPage]:
        shown = scrape(exporter)
        found = [shown.value(name, **series) for series in shown.labels(name, **labels)]
        return [shown] if len(found) == count and all(found) else []

    return wait_until(pages, f"{name} {labels}")[0]


def with_zeus(exporter: Exporter, count: int = 3) -> MetricsPage:
    """The page as soon as the zeus counters of all GPUs, and their slow readings, are on it."""
    page_with(exporter, metrics.GPU_TEMPERATURE.name, count)
    return page_with(exporter, ZEUS, count)


def all_read(exporter: Exporter) -> MetricsPage:
    """The page as soon as every GPU's power is read, and its counter where Zeus is on."""

    def pages() -> list[MetricsPage]:
        shown = scrape(exporter)
        states = [shown.value(SUCCESS, **labels) for labels in shown.labels(SUCCESS)]
        return [shown] if states and all(states) else []

    return wait_until(pages, "every collector's success")[0]


def gone_in_time(exporter: Exporter, fault_s: float, gpu: str, names: Collection[str]) -> MetricsPage:
    """The first page without these gauges; none that was asked for over a second after the fault has one."""
    while True:
        asked_s = time.monotonic() - fault_s
        shown = scrape(exporter)
        left = [name for name in names if shown.labels(name, gpu=gpu)]
        if not left:
            return shown
        assert asked_s <= FRESH_SECONDS, f"{left} {asked_s:.3f} s after the fault"


def accounted(driver: FakeDriver, first: MetricsPage, last: MetricsPage, gpu: str) -> float:
    """The gap seconds between two pages of a GPU of constant power, whose joules are checked.

    Covered and gap seconds are all the time there was, joules are those of the covered seconds, and the
    exact ones lie between them and those with the limit in every gap.
    """
    from_s, to_s = first.value(STAMP, gpu=gpu), last.value(STAMP, gpu=gpu)
    joules, covered_s, gap_s = (
        last.value(name, gpu=gpu) - (first.get(name, gpu=gpu) or 0.0) for name in (NVML, COVERED, GAP)
    )
    exact = driver.exact_joules(int(gpu), from_s, to_s)
    assert covered_s + gap_s == pytest.approx(to_s - from_s, abs=1e-6)
    assert joules == pytest.approx(exact * covered_s / (to_s - from_s), rel=1e-6)
    assert joules <= exact + 1e-3
    assert exact <= joules + gap_s * LIMIT_WATTS + 1e-3
    return gap_s


def rise(first: MetricsPage, last: MetricsPage, name: str, gpu: str) -> float:
    """What a counter of a GPU rose by."""
    return last.value(name, gpu=gpu) - first.value(name, gpu=gpu)
