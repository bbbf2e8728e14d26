"""The energy of one series in a window, and in many windows as columns."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from llem_integrator.series.samples import Counts, Flags, Floats
from llem_integrator.series.spans import Index, Spans


@dataclass(frozen=True, slots=True)
class Integral:
    """Energy of one series in one window.

    `joules` is None if nothing is covered. `high` is None also if there is no upper bound. A gap is time
    without coverage, and `tail_gap_s` is the gap at the end of the window. `largest_gap_s` is None if samples
    in between were not read. `resets` and `late` count the falls of a counter: restarts, and late readings.
    `stuck` says that the counter did not change, `skewed` that the clock of the exporter is wrong.
    """

    method: str
    joules: float | None
    low: float | None
    high: float | None
    covered_s: float
    gap_s: float
    largest_gap_s: float | None
    tail_gap_s: float
    max_gap_s: float
    sample_count: int
    peak_watts: float | None = None
    resets: int = 0
    late: int = 0
    stuck: bool = False
    skewed: bool = False

    @property
    def coverage(self) -> float:
        """Covered share of the window, from 0 to 1."""
        return self.covered_s / (self.covered_s + self.gap_s)


@dataclass(frozen=True, slots=True, eq=False)
class Integrals:
    """The fields of Integral as columns (w,), with a row for each window. NaN stands for None.

    `present` is False where the series has no sample in or around the window. Then the row is not used.
    """

    present: Flags
    method: NDArray[np.str_]
    joules: Floats
    low: Floats
    high: Floats
    covered_s: Floats
    gap_s: Floats
    largest_gap_s: Floats
    tail_gap_s: Floats
    max_gap_s: Floats
    sample_count: Counts
    peak_watts: Floats
    resets: Counts
    late: Counts
    stuck: Flags
    skewed: Flags

    def __len__(self) -> int:
        return len(self.joules)

    @property
    def known(self) -> Flags:
        """Whether there are joules for each window."""
        return self.present & ~np.isnan(self.joules)

    @property
    def coverage(self) -> Floats:
        """The covered fraction of each window, from 0 to 1. It is 0 where there are no joules."""
        return np.where(self.known, self.shares, 0.0)

    @property
    def shares(self) -> Floats:
        """The covered fraction of each window, whether there are joules or not."""
        total_s = self.covered_s + self.gap_s
        return self.covered_s / np.where(total_s > 0, total_s, 1.0)

    def row(self, row: int) -> Integral:
        """Return the energy of one window."""
        cells: list[Any] = [getattr(self, name)[row].item() for name in _NAMES[1:]]
        known: list[Any] = [None if cell != cell else cell for cell in cells]
        return Integral(*known)

    def take(self, index: Index | Flags) -> "Integrals":
        """Return the energy of some of the windows."""
        return Integrals(*(getattr(self, name)[index] for name in _NAMES))


_NAMES: Final = tuple(field.name for field in fields(Integrals))


def nothing(method: str, spans: Spans, max_gap_ms: Floats | float, *, present: bool) -> Integrals:
    """Return energy that is not known, because nothing is covered in any window."""
    count, duration_s = len(spans), spans.duration_ms / 1000
    unknown, zero, never = np.full(count, np.nan), np.zeros(count, np.int64), np.zeros(count, np.bool_)
    return Integrals(
        present=np.full(count, present),
        method=np.full(count, method),
        joules=unknown,
        low=unknown,
        high=unknown,
        covered_s=np.zeros(count),
        gap_s=duration_s,
        largest_gap_s=duration_s,
        tail_gap_s=duration_s,
        max_gap_s=np.broadcast_to(np.asarray(max_gap_ms) / 1000, count),
        sample_count=zero,
        peak_watts=unknown,
        resets=zero,
        late=zero,
        stuck=never,
        skewed=never,
    )


def either(mask: Flags, first: Integrals, second: Integrals) -> Integrals:
    """Return the rows of the first where the mask is true, otherwise those of the second."""
    return Integrals(*(np.where(mask, getattr(first, name), getattr(second, name)) for name in _NAMES))


def better(first: Integrals | None, second: Integrals | None) -> Integrals | None:
    """Return for each window the energy that covers more, or the first if both cover the same."""
    if first is None or second is None:
        return second if first is None else first
    is_first = first.present & ((first.coverage >= second.coverage) | ~second.present)
    return either(is_first, first, second)


def placed(parts: "list[tuple[Index, Integrals]]", count: int) -> Integrals | None:
    """Return the energy of `count` windows from parts and their window numbers, or None for no parts."""
    if len(parts) == 1 and len(parts[0][1]) == count:
        return parts[0][1]
    if not parts:
        return None
    index = np.concatenate([windows for windows, _ in parts])
    columns = []
    for name in _NAMES:
        cells = np.concatenate([getattr(part, name) for _, part in parts])
        column = np.zeros(count, cells.dtype)
        column[index] = cells
        columns.append(column)
    return Integrals(*columns)


def joined(parts: Sequence[Integrals], used: Sequence[Flags]) -> Integrals:
    """Return the sum of parts that follow each other in each window.

    It is not present where a part that is used has no joules. Its method is that of the longest part.
    """
    present = np.logical_and.reduce(
        [part.known | ~is_used for part, is_used in zip(parts, used, strict=True)]
    )

    def column(name: str, unused: float) -> Floats:
        return np.where(np.stack(used), np.stack([getattr(part, name) for part in parts]), unused)

    def summed(name: str) -> Floats:
        total: Floats = np.sum(column(name, 0), axis=0)
        return total

    longest = np.argmax(column("covered_s", -1.0), axis=0)
    rows = np.arange(len(longest))
    tails_s = column("tail_gap_s", 0.0)
    return Integrals(
        present=present,
        method=np.stack([part.method for part in parts])[longest, rows],
        joules=summed("joules"),
        low=summed("low"),
        high=summed("high"),
        covered_s=summed("covered_s"),
        gap_s=summed("gap_s"),
        largest_gap_s=np.max(column("largest_gap_s", 0.0), axis=0),
        tail_gap_s=np.where(used[-1], tails_s[-1], tails_s[-2]),
        max_gap_s=np.stack([part.max_gap_s for part in parts])[longest, rows],
        sample_count=summed("sample_count").astype(np.int64),
        peak_watts=np.fmax.reduce(column("peak_watts", np.nan), axis=0),
        resets=summed("resets").astype(np.int64),
        late=summed("late").astype(np.int64),
        stuck=summed("stuck") > 0,
        skewed=summed("skewed") > 0,
    )


def added(first: Integrals | None, second: Integrals | None) -> Integrals | None:
    """Return the sum of both, with the coverage of the lower one. Where only one is present, return that."""
    if first is None or second is None:
        return second if first is None else first
    lower = either(first.shares <= second.shares, first, second)
    total = replace(
        lower,
        joules=first.joules + second.joules,
        low=first.low + second.low,
        high=first.high + second.high,
    )
    return either(first.present & second.present, total, either(first.present, first, second))
