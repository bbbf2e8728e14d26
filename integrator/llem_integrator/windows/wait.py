"""The wait for the samples that follow a window's end."""

import time
from collections.abc import Callable, Sequence
from typing import Final

from llem_core import energy, metrics
from llem_integrator.stores import Selector, Source

POLL_SECONDS: Final = 1.0
BEFORE_MS: Final = 120_000
"""Only series with a sample this shortly before the end are waited for."""

_AFTER_MS: Final = int(energy.SENSOR_LAG_SECONDS * 1000)
"""A counter includes the energy up to the end only after this delay."""

_AWAITED: Final = "|".join(
    [
        metrics.GPU_POWER_TRACE.name,
        metrics.GPU_ZEUS_TRACE.name,
        metrics.GPU_NVML_ENERGY.name,
        metrics.GPU_ZEUS_ENERGY.name,
    ]
)


def wait_for_samples(
    open_source: Callable[[], Source],
    end_us: int,
    timeout_s: float,
    selectors: Sequence[Selector] = ((),),
    *,
    monotonic_s: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> bool:
    """Wait until every GPU's series that reach `end_us` (unix microseconds) have a sample after it.

    Returns False if they do not within `timeout_s`. The source is opened anew for each query, because a
    source that keeps its samples gives the same answer again. Raises SourceError.
    """
    deadline_s, end_ms = monotonic_s() + timeout_s, -(-end_us // 1000)
    source = open_source()
    awaited = _reaching(source, selectors, end_ms - BEFORE_MS, end_ms)
    while awaited - _reaching(source, selectors, end_ms + _AFTER_MS, end_ms + BEFORE_MS):
        left_s = deadline_s - monotonic_s()
        if left_s <= 0:
            return False
        sleep(min(POLL_SECONDS, left_s))
        source = open_source()
    return True


def _reaching(
    source: Source, selectors: Sequence[Selector], start_ms: int, end_ms: int
) -> set[tuple[str, str]]:
    """Return metric and UUID of the series with samples in [start_ms, end_ms]."""
    return {
        (series.metric, series.labels.get("uuid", ""))
        for selector in selectors
        for piece in source.pieces(_AWAITED, selector, max(0, start_ms), end_ms)
        for series in piece.series
        if len(series)
    }
