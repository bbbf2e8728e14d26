"""What an integration gives for one series in one window, and in many of them as columns."""

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

    `joules` is None where nothing is covered; `high` is None also where nothing bounds it. A gap is
    time without coverage: `tail_gap_s` after the last of it. `largest_gap_s` is None where not all was
    read. `resets` and `late` count a counter's falls of either sort. `stuck`: it stood still. `skewed`: the
    exporter's clock is off.
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
    """An Integral's fields as columns (w,), one row a window; NaN stands for None.

    `present` is False where the series has no sample in or around the window: then there is no row.
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
        return self.present & ~np.isnan(self.joules)

    @property
    def coverage(self) -> Floats:
        """The share of each window that there are joules for, from 0 to 1."""
        return np.where(self.known, self.shares, 0.0)

    @property
    def shares(self) -> Floats:
        """The covered share of each window."""
        total_s = self.covered_s + self.gap_s
        return self.covered_s / np.where(total_s > 0, total_s, 1.0)

    def at(self, row: int) -> Integral | None:
        """One window's answer, if there is any."""
        return self.row(row) if self.present[row] else None

    def row(self, row: int) -> Integral:
        """One window's answer, even where the series has nothing to say."""
        cells: list[Any] = [getattr(self, name)[row].item() for name in _NAMES[1:]]
        known: list[Any] = [None if cell != cell else cell for cell in cells]
        return Integral(*known)

    def take(self, index: Index | Flags) -> "Integrals":
        return Integrals(*(getattr(self, name)[index] for name in _NAMES))


_NAMES: Final = tuple(field.name for field in fields(Integrals))


def nothing(method: str, spans: Spans, max_gap_ms: Floats | float, *, present: bool) -> Integrals:
    """No coverage in any window: no measurement, never 0 joules."""
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


def either(mask: Flags, one: Integrals, other: Integrals) -> Integrals:
    """The rows of `one` where the mask says so, else those of the other."""
    return Integrals(*(np.where(mask, getattr(one, name), getattr(other, name)) for name in _NAMES))


def better(one: Integrals | None, other: Integrals | None) -> Integrals | None:
    """Of each window the answer that covers more; of equals the first, and of none what there is."""
    if one is None or other is None:
        return other if one is None else one
    return either(one.present & ((one.coverage >= other.coverage) | ~other.present), one, other)


def placed(parts: "list[tuple[Index, Integrals]]", count: int) -> Integrals | None:
    """The rows of several parts put where they belong among `count` windows; None of no parts."""
    if len(parts) == 1 and len(parts[0][1]) == count:
        return parts[0][1]
    if not parts:
        return None
    index = np.concatenate([where for where, _ in parts])
    columns = []
    for name in _NAMES:
        cells = np.concatenate([getattr(part, name) for _, part in parts])
        column = np.zeros(count, cells.dtype)
        column[index] = cells
        columns.append(column)
    return Integrals(*columns)


def joined(parts: Sequence[Integrals], used: Sequence[Flags]) -> Integrals:
    """The energy of windows that follow each other, as one; there is none where a used part has none.

    It is called after the longest of them.
    """
    present = np.logical_and.reduce([one.known | ~mine for one, mine in zip(parts, used, strict=True)])

    def column(name: str) -> Floats:
        return np.stack([getattr(one, name) for one in parts])

    def summed(name: str) -> Floats:
        total: Floats = np.sum(np.where(np.stack(used), column(name), 0), axis=0)
        return total

    longest = np.argmax(np.where(np.stack(used), column("covered_s"), -1.0), axis=0)
    rows = np.arange(len(longest))
    tails = np.where(np.stack(used), column("tail_gap_s"), 0.0)
    return Integrals(
        present=present,
        method=np.stack([one.method for one in parts])[longest, rows],
        joules=summed("joules"),
        low=summed("low"),
        high=summed("high"),
        covered_s=summed("covered_s"),
        gap_s=summed("gap_s"),
        largest_gap_s=np.max(np.where(np.stack(used), column("largest_gap_s"), 0.0), axis=0),
        tail_gap_s=np.where(used[-1], tails[-1], tails[-2]),
        max_gap_s=column("max_gap_s")[longest, rows],
        sample_count=summed("sample_count").astype(np.int64),
        peak_watts=np.fmax.reduce(np.where(np.stack(used), column("peak_watts"), np.nan), axis=0),
        resets=summed("resets").astype(np.int64),
        late=summed("late").astype(np.int64),
        stuck=summed("stuck") > 0,
        skewed=summed("skewed") > 0,
    )


def added(one: Integrals | None, other: Integrals | None) -> Integrals | None:
    """Joules and bounds of both, with the coverage of the one that is covered less; of one alone, its own."""
    if one is None or other is None:
        return other if one is None else one
    both = one.present & other.present
    less = either(one.shares <= other.shares, one, other)
    total = replace(
        less, joules=one.joules + other.joules, low=one.low + other.low, high=one.high + other.high
    )
    return either(both, total, either(one.present, one, other))
