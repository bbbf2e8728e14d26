"""A node whose GPUs draw constant power, and how tests wait for and check its metrics pages."""

from collections.abc import Callable
from pathlib import Path

import pytest

from llem_core import metrics
from llem_core.metrics import METRICS_PAGE
from tests.fake_nvml import FakeDriver
from tests.llem_exporter.page import MetricsPage, scrape
from tests.servers import Exporter, wait_until

PEAK = metrics.GPU_POWER_PEAK.name
POWER, NVML, ZEUS = metrics.GPU_POWER.name, metrics.GPU_NVML_ENERGY.name, metrics.GPU_ZEUS_ENERGY.name
TOTAL = metrics.GPU_ENERGY.name
STAMP, SAMPLES, ERRORS = (
    metrics.GPU_SAMPLE_TIMESTAMP.name,
    metrics.GPU_SAMPLES.name,
    metrics.GPU_READ_ERRORS.name,
)
COVERED, GAP, INFO = metrics.GPU_INTEGRATED.name, metrics.GPU_GAP.name, metrics.GPU_INFO.name
SUCCESS, AVAILABLE = metrics.COLLECTOR_SUCCESS.name, metrics.BACKEND_AVAILABLE.name
SELECTED, DURATION = metrics.BACKEND_SELECTED.name, metrics.COLLECTOR_DURATION.name
TEMPERATURE = metrics.GPU_TEMPERATURE.name
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

DENIED, UNSUPPORTED = "NVML_ERROR_NO_PERMISSION", "NVML_ERROR_NOT_SUPPORTED"
LOST, TOO_SLOW, STUCK = "NVML_ERROR_GPU_IS_LOST", "READ_TOO_SLOW", "COUNTER_STUCK"

LIMIT_WATTS = 700.0
"""The fake GPUs' enforced limit."""

GRID_SECONDS = 0.002
"""A sample this close to its tick has the time of the tick."""

Begin = Callable[..., Exporter]


class SteadyDriver(FakeDriver):
    """GPUs of constant power. The first draws 100 W, each other one `step_watts` more than the one before."""

    def __init__(self, directory: Path, gpus: int, step_watts: float = 100.0) -> None:
        super().__init__(directory, gpus=gpus, low_watts=100.0, high_watts=100.0, sine_watts=0.0)
        for gpu in self.gpus[1:]:
            watts = 100.0 + step_watts * gpu.index
            gpu.set_load(low_watts=watts, high_watts=watts)


def page_when(exporter: Exporter, holds: Callable[[MetricsPage], object], what: str) -> MetricsPage:
    """Return the first page for which `holds` is true. TimeoutError names `what`."""

    def pages() -> list[MetricsPage]:
        shown = scrape(exporter)
        return [shown] if holds(shown) else []

    return wait_until(pages, what)[0]


def page_with(exporter: Exporter, name: str, count: int = 1, **labels: object) -> MetricsPage:
    """Return the page once it has `count` series of this name and these labels, none of which is 0."""

    def holds(page: MetricsPage) -> bool:
        values = [page.value(name, **series) for series in page.labels(name, **labels)]
        return len(values) == count and all(values)

    return page_when(exporter, holds, f"{count} x {name} {labels}")


def page_without(exporter: Exporter, *names: str, **labels: object) -> MetricsPage:
    """Return the page once it has no series of these names and these labels."""
    return page_when(
        exporter,
        lambda page: not any(page.labels(name, **labels) for name in names),
        f"no {', '.join(names)} {labels}",
    )


def all_read(exporter: Exporter, gpus: int = 3, zeus: bool = True) -> MetricsPage:
    """Return the page once it has power and status of every GPU and, with Zeus, its counter."""
    names = (POWER, STAMP, TEMPERATURE, *([ZEUS] if zeus else []))

    def holds(page: MetricsPage) -> bool:
        successes = [page.value(SUCCESS, **labels) for labels in page.labels(SUCCESS)]
        return all(successes) and all(len(page.labels(name)) == gpus for name in names)

    return page_when(exporter, holds, f"all of {gpus} GPUs")


def accounted(driver: FakeDriver, first: MetricsPage, last: MetricsPage, gpu: str) -> float:
    """Return a GPU's gap seconds between two pages, and check its joules. Its power must be constant.

    Covered and gap seconds must add up to the time between the pages. The joules must be those of the covered
    seconds. The exact joules must be at least these, and at most these plus the limit in every gap.
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


def counted_error(
    driver: FakeDriver, first: MetricsPage, last: MetricsPage, gpu: str, step_joules: float = 0.0
) -> float:
    """Return by how many joules a hardware counter's rise is outside the bounds around the exact joules.

    A page's timestamp is the middle of its reading. The counter was read at most half of the calls' duration
    from there. A busy machine makes this longer, but the duration is on the page.
    """
    exact = driver.exact_joules(int(gpu), first.value(STAMP, gpu=gpu), last.value(STAMP, gpu=gpu))
    error = rise(first, last, ZEUS, gpu) - exact - step_joules
    return max(0.0, abs(error) - counter_slack(driver, first, gpu) - counter_slack(driver, last, gpu))


def counter_slack(driver: FakeDriver, page: MetricsPage, gpu: str) -> float:
    """Return the most that a GPU draws between a page's timestamp and the reading of its counter [J]."""
    calls_s = sum(page.value(DURATION, **labels) for labels in page.labels(DURATION))
    module = driver.gpus[int(gpu)].module
    cpu_watts = 0.0 if module is None else driver.modules[module].cpu_watts
    watts = driver.gpus[int(gpu)].load.low_watts + cpu_watts
    return watts * (calls_s / 2 + 2 * GRID_SECONDS) + 0.125


def rise(first: MetricsPage, last: MetricsPage, name: str, gpu: str) -> float:
    """Return the rise of a GPU's counter between two pages."""
    return last.value(name, gpu=gpu) - first.value(name, gpu=gpu)
