"""The times of invalid and conflicting samples, and how many are in each window."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from llem_integrator.series.samples import Counts, Series, Times
from llem_integrator.series.spans import Spans

_MOST: Final = 256
"""The number of times that are kept of a piece. Of more, neighbours are counted together."""


@dataclass(frozen=True, slots=True, eq=False)
class Marks:
    """Times (n,) and how many samples each stands for."""

    unix_ms: Times
    counts: Counts

    @classmethod
    def of(cls, unix_ms: Times) -> Self:
        """Return marks for the times (n,) of samples, in any order."""
        unix_ms = np.sort(unix_ms)
        first = np.unique(
            np.linspace(0, len(unix_ms), min(len(unix_ms), _MOST), endpoint=False, dtype=np.int64)
        )
        return cls(unix_ms[first], np.diff(first, append=len(unix_ms)))


@dataclass(frozen=True, slots=True, eq=False)
class Fault:
    """The invalid samples of a piece of a series, and its timestamps with conflicting samples."""

    bad: Marks
    conflicts: Marks


def faults_of(series: Series) -> list[Fault]:
    """Return the faults of a series, an empty list if it has none."""
    wrong = len(series.bad_ms) or len(series.conflict_ms)
    return [Fault(Marks.of(series.bad_ms), Marks.of(series.conflict_ms))] if wrong else []


def within(marks: Iterable[Marks], spans: Spans) -> Counts:
    """Return the number of samples (w,) that lie in each window, its edges included."""
    all_marks = list(marks)
    if not all_marks:
        return np.zeros(len(spans), np.int64)
    unix_ms = np.concatenate([piece.unix_ms for piece in all_marks])
    order = np.argsort(unix_ms)
    running = np.append(0, np.cumsum(np.concatenate([piece.counts for piece in all_marks])[order]))
    first = np.searchsorted(unix_ms[order], spans.start_ms)
    stop = np.searchsorted(unix_ms[order], spans.end_ms, "right")
    counts: Counts = running[stop] - running[first]
    return counts
