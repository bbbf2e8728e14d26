"""The wait for the samples that follow a window's end."""

import time
from collections.abc import Callable, Sequence
from typing import Final

from llem_core import energy, metrics
from llem_integrator.stores import Selector, Source, Summary

POLL_SECONDS: Final = 1.0
BEFORE_MS: Final = 120_000
"""Only series with a sample this shortly before the end are waited for."""

_AFTER_MS: Final = int(energy.SENSOR_LAG_SECONDS * 1000)
"""A counter includes the energy up to the end only after this delay."""

_AWAITED: Final = (
    metrics.GPU_POWER_TRACE,
    metrics.GPU_ZEUS_TRACE,
    metrics.GPU_NVML_ENERGY,
    metrics.GPU_ZEUS_ENERGY,
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
    deadline_s = monotonic_s() + timeout_s
    while _missing(open_source(), selectors, -(-end_us // 1000)):
        left_s = deadline_s - monotonic_s()
        if left_s <= 0:
            return False
        sleep(min(POLL_SECONDS, left_s))
    return True


def _missing(source: Source, selectors: Sequence[Selector], end_ms: int) -> bool:
    """Return whether any series reaches `end_ms` and has no sample after it yet."""
    return any(
        _uuids(source, spec.name, selector, end_ms - BEFORE_MS, end_ms)
        - _uuids(source, spec.name, selector, end_ms + _AFTER_MS, end_ms + BEFORE_MS)
        for spec in _AWAITED
        for selector in selectors
    )


def _uuids(source: Source, name: str, selector: Selector, start_ms: int, end_ms: int) -> set[str]:
    latest = source.summary(name, selector, max(0, start_ms), end_ms, Summary.LAST)
    return {series.labels.get("uuid", "") for series in latest}
