"""The times of wrong samples, and the windows that contain them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from llem_integrator.series.samples import Counts, Series, Times
from llem_integrator.series.spans import Spans

_MOST: Final = 256
"""Of more in one piece, neighbours are put together: a store may be full of them."""


@dataclass(frozen=True, slots=True, eq=False)
class Marks:
    """Times (n,) and how many samples each stands for."""

    unix_ms: Times
    counts: Counts

    @classmethod
    def of(cls, unix_ms: Times) -> Self:
        unix_ms = np.sort(unix_ms)
        first = np.unique(
            np.linspace(0, len(unix_ms), min(len(unix_ms), _MOST), endpoint=False, dtype=np.int64)
        )
        return cls(unix_ms[first], np.diff(first, append=len(unix_ms)))


@dataclass(frozen=True, slots=True, eq=False)
class Fault:
    """Samples of a piece of a series that were none, and times that came with unlike values."""

    bad: Marks
    conflicts: Marks


def faults_of(series: Series) -> list[Fault]:
    """Return what is wrong with a series, if anything."""
    wrong = len(series.bad_ms) or len(series.conflict_ms)
    return [Fault(Marks.of(series.bad_ms), Marks.of(series.conflict_ms))] if wrong else []


def within(marks: Iterable[Marks], spans: Spans) -> Counts:
    """How many samples lie in each window (w,), its edges included."""
    every = list(marks)
    if not every:
        return np.zeros(len(spans), np.int64)
    unix_ms = np.concatenate([one.unix_ms for one in every])
    order = np.argsort(unix_ms)
    running = np.append(0, np.cumsum(np.concatenate([one.counts for one in every])[order]))
    first = np.searchsorted(unix_ms[order], spans.start_ms)
    found: Counts = running[np.searchsorted(unix_ms[order], spans.end_ms, "right")] - running[first]
    return found
