"""Raw samples of one series, as they come in parts, made one clean series."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from llem_integrator.series.samples import Series, Times, Values, make_series
from llem_integrator.stores.base import LARGEST, plausible


@dataclass(frozen=True, slots=True)
class Part:
    """Times (n,) and values (n,) inside what was asked for; `clean` if they are a series as they are."""

    unix_ms: Times
    values: Values
    clean: bool

    def copied(self) -> "Part":
        return Part(self.unix_ms.copy(), self.values.copy(), self.clean)


def trimmed(unix_ms: Times, values: Values, start_ms: int, end_ms: int) -> Part:
    """What lies in [start_ms, end_ms]. Sorting and cleaning are left to where they are needed."""
    ascending = bool(np.all(unix_ms[1:] > unix_ms[:-1]))
    if ascending:
        inside = slice(*np.searchsorted(unix_ms, [start_ms, end_ms + 1]))
        unix_ms, values = unix_ms[inside], values[inside]
    else:
        mask = (unix_ms >= start_ms) & (unix_ms <= end_ms)
        unix_ms, values = unix_ms[mask], values[mask]
    if not len(values):
        return Part(unix_ms, values, clean=True)
    # Comparisons with NaN are false.
    return Part(unix_ms, values, clean=ascending and bool(values.min() >= 0 and values.max() <= LARGEST))


def joined(metric: str, labels: Mapping[str, str], parts: Sequence[Part]) -> Series:
    """The parts, in any order and with samples in common, as one clean series."""
    parts = [part for part in parts if len(part.unix_ms)] or list(parts[:1])
    unix_ms, values = parts[0].unix_ms, parts[0].values
    if len(parts) > 1:
        unix_ms = np.concatenate([part.unix_ms for part in parts])
        values = np.concatenate([part.values for part in parts])
    follow = all(one.unix_ms[-1] < next_.unix_ms[0] for one, next_ in pairwise(parts))
    if follow and all(part.clean for part in parts):
        return Series(labels, unix_ms, values, metric=metric)
    return make_series(labels, unix_ms, plausible(values), metric)
