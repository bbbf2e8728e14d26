"""Series of samples as arrays: cleaned once, and joined so that no sample is lost silently."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llem_core.energy import GAP_INTERVALS

Times = NDArray[np.int64]
Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Flags = NDArray[np.bool_]
Key = tuple[tuple[str, str], ...]
"""The labels of a series, sorted by name."""

Values = NDArray[np.float64]

LARGEST: Final = 1e15
"""The largest value of a valid sample. A counter of joules reaches it after 300 years at 100 kW."""
STALE_MS: Final = 300_000
"""A series that has been silent for longer is stale. Source: Prometheus, --query.lookback-delta."""
_FIRST_STEPS: Final = 100
_NEVER: Final[Times] = np.empty(0, np.int64)
_ANY_TIME: Final = (-(2**62), 2**62)
_STALE_MARKER: Final = np.uint64(0x7FF0000000000002)
"""The NaN that ends a series. Source: Prometheus, model/value/value.go."""
_END_UNIX_S: Final = 2**53 / 1000
"""Before this time a float64 counts milliseconds exactly."""


def whole_ms(unix_s: Values) -> Times:
    """Return unix seconds (n,) as whole milliseconds; raises ValueError if a time is out of range or NaN."""
    if not np.all(np.abs(unix_s) < _END_UNIX_S):  # NaN compares as false
        raise ValueError("a timestamp is not in unix seconds")
    return np.rint(unix_s * 1000).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """The samples of one label set: `unix_ms` (n,) int64, strictly ascending, and `values` (n,) float64.

    `bad_ms` are the times of invalid readings (NaN, infinite, negative or above LARGEST). `conflict_ms` are
    the times of conflicting samples, of which the larger was kept.
    """

    labels: Mapping[str, str]
    unix_ms: Times
    values: Values
    bad_ms: Times = field(default_factory=lambda: _NEVER)
    conflict_ms: Times = field(default_factory=lambda: _NEVER)
    metric: str = ""

    def __len__(self) -> int:
        return len(self.unix_ms)

    @property
    def bad(self) -> int:
        """The number of invalid readings."""
        return len(self.bad_ms)

    @property
    def conflicts(self) -> int:
        """The number of times with conflicting samples."""
        return len(self.conflict_ms)

    @property
    def key(self) -> Key:
        """The labels, sorted by name."""
        return tuple(sorted(self.labels.items()))

    def after(self, earlier: "Series") -> "Series":
        """Return these samples, and before them those of another series, which are earlier."""
        unix_ms = np.concatenate([earlier.unix_ms, self.unix_ms])
        return replace(self, unix_ms=unix_ms, values=np.concatenate([earlier.values, self.values]))

    def between(self, first_ms: int, last_ms: int) -> "Series":
        """Return the samples in [first_ms, last_ms]."""
        unix_ms = self.unix_ms
        wrong = len(self.bad_ms) or len(self.conflict_ms)
        if len(unix_ms) and first_ms <= unix_ms[0] and unix_ms[-1] <= last_ms and not wrong:
            return self
        first, stop = np.searchsorted(unix_ms, [first_ms, last_ms + 1]).tolist()
        bad_ms, conflict_ms = (
            times[(times >= first_ms) & (times <= last_ms)] for times in (self.bad_ms, self.conflict_ms)
        )
        return replace(self.part(first, stop), bad_ms=bad_ms, conflict_ms=conflict_ms)

    def part(self, first: int, stop: int) -> "Series":
        """Return the series with the samples [first, stop) only."""
        cut = slice(first, stop)
        return replace(self, unix_ms=self.unix_ms[cut], values=self.values[cut])


def make_series(
    labels: Mapping[str, str],
    unix_ms: Times,
    values: Values,
    metric: str = "",
    *,
    within_ms: tuple[int, int] = _ANY_TIME,
) -> Series:
    """Return a clean series of raw samples (n,), which may be in any order, stale or duplicate.

    Samples outside `within_ms` (first and last time) are left out.
    """
    ascending = bool((unix_ms[1:] > unix_ms[:-1]).all())
    inside: slice | NDArray[np.bool_]
    if ascending:
        inside = slice(*np.searchsorted(unix_ms, (within_ms[0], within_ms[1] + 1)))
    else:
        inside = (unix_ms >= within_ms[0]) & (unix_ms <= within_ms[1])
    unix_ms, values = unix_ms[inside], values[inside]
    if ascending and values.min(initial=0.0) >= 0 and values.max(initial=0.0) <= LARGEST:  # NaN is neither
        return Series(labels, unix_ms, values, metric=metric)
    good = (values >= 0) & (values <= LARGEST)
    stale = values.view(np.uint64) == _STALE_MARKER
    bad_ms = unix_ms[~good & ~stale]
    unix_ms, values = unix_ms[good], values[good]
    order = np.lexsort((values, unix_ms))
    unix_ms, values = unix_ms[order], values[order]
    same = unix_ms[1:] == unix_ms[:-1]
    conflict_ms = unix_ms[1:][same & (values[1:] != values[:-1])]
    keep = np.append(~same, True)[: len(unix_ms)]  # the last of equal times has the largest value
    return Series(labels, unix_ms[keep], values[keep], bad_ms, conflict_ms, metric=metric)


def joined(labels: Mapping[str, str], parts: Sequence[Series], metric: str = "") -> Series:
    """Return the samples of all parts as one series; the parts may be in any order and may overlap."""
    if len(parts) == 1:
        return replace(parts[0], labels=labels, metric=metric)
    unix_ms = np.concatenate([_NEVER, *(part.unix_ms for part in parts)])
    values = np.concatenate([np.empty(0), *(part.values for part in parts)])
    bad_ms = np.concatenate([_NEVER, *(part.bad_ms for part in parts)])
    conflict_ms = np.concatenate([_NEVER, *(part.conflict_ms for part in parts)])
    filled = [part for part in parts if len(part)]
    if all(before.unix_ms[-1] < after.unix_ms[0] for before, after in pairwise(filled)):
        return Series(labels, unix_ms, values, bad_ms, conflict_ms, metric=metric)
    merged = make_series(labels, unix_ms, values)
    conflict_ms = np.unique(np.concatenate([merged.conflict_ms, conflict_ms]))
    return Series(labels, merged.unix_ms, merged.values, np.unique(bad_ms), conflict_ms, metric=metric)


def merge(series: Sequence[Series]) -> Series | None:
    """Return the samples of several label sets by time, or None if there are none.

    The samples must carry their own times. The labels are those of the label set that ends last.
    """
    if not series:
        return None
    newest = max(series, key=lambda one: int(one.unix_ms[-1]) if len(one) else -1)
    return joined(newest.labels, series, newest.metric)


def auto_max_gap_ms(unix_ms: Times) -> float | None:
    """Return three times the median of the first 100 steps [ms], or None for fewer than two samples.

    The result is at most STALE_MS.
    """
    steps = np.diff(unix_ms[: _FIRST_STEPS + 1])
    return min(float(STALE_MS), GAP_INTERVALS * float(np.median(steps))) if len(steps) else None
