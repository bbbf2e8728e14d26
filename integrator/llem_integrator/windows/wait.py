"""The wait until a store has what lies after a window's end, where the last samples of it may be missing."""

import time
from collections.abc import Callable, Sequence
from typing import Final

from llem_core import energy, metrics
from llem_integrator.stores import Selector, Source, Summary

POLL_SECONDS: Final = 1.0
BEFORE_MS: Final = 120_000
"""A series that has samples so shortly before the end is waited for."""

_AFTER_MS: Final = int(energy.SENSOR_LAG_SECONDS * 1000)
"""A counter says only then what had been used at the end."""

_AWAITED: Final = (
    metrics.GPU_POWER_TRACE,
    metrics.GPU_ZEUS_TRACE,
    metrics.GPU_NVML_ENERGY,
    metrics.GPU_ZEUS_ENERGY,
)


def wait(
    open_source: Callable[[], Source],
    selectors: Sequence[Selector],
    end_us: int,
    wait_s: float,
    *,
    monotonic_s: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> bool:
    """Whether each GPU's series that reach the end have a sample after it; asks until then, or for `wait_s`.

    The source is opened anew each time: one in memory answers what it answered before. Raises SourceError.
    """
    deadline_s = monotonic_s() + wait_s
    while True:
        if not missing(open_source(), selectors, -(-end_us // 1000)):
            return True
        left_s = deadline_s - monotonic_s()
        if left_s <= 0:
            return False
        sleep(min(POLL_SECONDS, left_s))


def missing(source: Source, selectors: Sequence[Selector], end_ms: int) -> set[tuple[str, str]]:
    """Metric and uuid of the series that reach `end_ms` and have no sample after it yet."""
    return {
        (spec.name, uuid)
        for spec in _AWAITED
        for selector in selectors
        for uuid in _uuids(source, spec.name, selector, end_ms - BEFORE_MS, end_ms)
        - _uuids(source, spec.name, selector, end_ms + _AFTER_MS, end_ms + BEFORE_MS)
    }


def _uuids(source: Source, name: str, selector: Selector, start_ms: int, end_ms: int) -> set[str]:
    found = source.summary(name, selector, max(0, start_ms), end_ms, Summary.LAST)
    return {one.labels.get("uuid", "") for one in found}
