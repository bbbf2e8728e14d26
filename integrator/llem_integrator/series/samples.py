"""Series of samples as arrays: made clean once, merged and joined by rules that lose nothing silently."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from llem_core.energy import GAP_INTERVALS

Times = NDArray[np.int64]
Values = NDArray[np.float64]

_FIRST_STEPS = 100
_NEVER: Times = np.empty(0, np.int64)
STALE_MS = 300_000
_LAST_UNIX_S = 2**53 / 1000
"""Up to here a float of milliseconds is a whole number."""


def whole_ms(unix_s: Values) -> Times:
    """Unix seconds (n,) as whole milliseconds; raises ValueError where one is no such time."""
    if not np.all(np.abs(unix_s) < _LAST_UNIX_S):  # NaN is not below either
        raise ValueError("a timestamp is not in unix seconds")
    return np.rint(unix_s * 1000).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Samples of one label set: `unix_ms` (n,) int64 ascending, one value per time; `values` (n,) float64.

    `bad_ms` are the times of readings that were no samples (NaN, infinite, negative), `conflict_ms` those
    that came with unlike values, of which the larger was kept. `unread` (n,) counts the samples
    since the one before that the store holds and only it has looked at. `metric` is the name of the metric.
    """

    labels: Mapping[str, str]
    unix_ms: Times
    values: Values
    bad_ms: Times = field(default_factory=lambda: _NEVER)
    conflict_ms: Times = field(default_factory=lambda: _NEVER)
    unread: NDArray[np.int64] | None = None
    metric: str = ""

    def __len__(self) -> int:
        return len(self.unix_ms)

    @property
    def bad(self) -> int:
        return len(self.bad_ms)

    @property
    def conflicts(self) -> int:
        return len(self.conflict_ms)

    def part(self, first: int, stop: int) -> "Series":
        """The samples [first, stop)."""
        cut = slice(first, stop)
        unread = None if self.unread is None else self.unread[cut]
        return replace(self, unix_ms=self.unix_ms[cut], values=self.values[cut], unread=unread)


def make_series(labels: Mapping[str, str], unix_ms: Times, values: Values, metric: str = "") -> Series:
    """A clean series of raw arrays (n,) in any order, stale markers and doubles included."""
    good = np.isfinite(values) & (values >= 0)
    # The stale marker is a NaN too; it marks an end, not a bad reading.
    stale = values.view(np.uint64) == np.uint64(0x7FF0000000000002)
    bad_ms = unix_ms[~good & ~stale]
    unix_ms, values = unix_ms[good], values[good]
    order = np.lexsort((values, unix_ms))
    unix_ms, values = unix_ms[order], values[order]
    same = unix_ms[1:] == unix_ms[:-1]
    conflict_ms = unix_ms[1:][same & (values[1:] != values[:-1])]
    keep = np.append(~same, True)[: len(unix_ms)]  # the last of equal times is the larger value
    return Series(labels, unix_ms[keep], values[keep], bad_ms, conflict_ms, metric=metric)


def merge(series: Sequence[Series]) -> Series | None:
    """All samples of several label sets by time; None of none.

    For series whose samples carry their own times. The labels are those of the set that ends last.
    """
    if not series:
        return None
    newest = max(series, key=lambda one: int(one.unix_ms[-1]) if len(one) else -1)
    merged = make_series(
        newest.labels,
        np.concatenate([one.unix_ms for one in series]),
        np.concatenate([one.values for one in series]),
    )
    bad_ms = np.concatenate([one.bad_ms for one in series])
    conflict_ms = np.concatenate([merged.conflict_ms, *(one.conflict_ms for one in series)])
    return replace(merged, bad_ms=bad_ms, conflict_ms=conflict_ms, metric=newest.metric)


def auto_max_gap_ms(unix_ms: Times) -> float | None:
    """Three times the median of the first 100 steps, in ms; None of fewer than two samples.

    At most five minutes: a series that is silent for longer is stale to Prometheus, too.
    """
    steps = np.diff(unix_ms[: _FIRST_STEPS + 1])
    return min(float(STALE_MS), GAP_INTERVALS * float(np.median(steps))) if len(steps) else None
