"""What an integration gives for one series in one window, and the window's own arithmetic."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from llem_integrator.series import Times
from llem_integrator.window import Window

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Integral:
    """Energy of one series in one window.

    `joules` is None where nothing is covered; `high` is None also where nothing bounds it. A gap is
    time without coverage: `lead_gap_s` before the first and `tail_gap_s` after the last of it.
    `resets` and `late` count a counter's falls of either sort.
    """

    method: str
    joules: float | None
    low: float | None
    high: float | None
    covered_s: float
    gap_s: float
    largest_gap_s: float
    tail_gap_s: float
    max_gap_s: float
    sample_count: int
    peak_watts: float | None = None
    resets: int = 0
    late: int = 0

    @property
    def coverage(self) -> float:
        """Covered share of the window, from 0 to 1."""
        return self.covered_s / (self.covered_s + self.gap_s)


def joined(parts: Sequence[Integral]) -> Integral | None:
    """The energy of windows that follow each other, as one; None where a part of them has none.

    It is called after the longest of them.
    """
    joules = [part.joules for part in parts if part.joules is not None]
    if not parts or len(joules) < len(parts):
        return None
    longest = max(parts, key=lambda part: part.covered_s)
    lows = [part.low for part in parts if part.low is not None]
    highs = [part.high for part in parts if part.high is not None]
    return replace(
        longest,
        joules=math.fsum(joules),
        low=math.fsum(lows),
        high=math.fsum(highs) if len(highs) == len(parts) else None,
        covered_s=math.fsum(part.covered_s for part in parts),
        gap_s=math.fsum(part.gap_s for part in parts),
        largest_gap_s=max(part.largest_gap_s for part in parts),
        tail_gap_s=parts[-1].tail_gap_s,
        sample_count=sum(part.sample_count for part in parts),
        peak_watts=max((part.peak_watts for part in parts if part.peak_watts is not None), default=None),
    )


def relative(unix_ms: Times, window: Window) -> tuple[Floats, float, float]:
    """Times (n,) and both edges in ms from the whole ms at or before the start, where floats are exact."""
    base_ms = window.start_us // 1000
    times = (unix_ms - base_ms).astype(np.float64)
    return times, (window.start_us - base_ms * 1000) / 1000, (window.end_us - base_ms * 1000) / 1000


def count_inside(times: Floats, start: float, end: float) -> int:
    return int(np.searchsorted(times, end, "right") - np.searchsorted(times, start, "left"))


def nothing(method: str, window: Window, max_gap_ms: float, count: int) -> Integral:
    """No coverage at all: no measurement, never 0 joules."""
    return Integral(
        method=method,
        joules=None,
        low=None,
        high=None,
        covered_s=0.0,
        gap_s=window.duration_s,
        largest_gap_s=window.duration_s,
        tail_gap_s=window.duration_s,
        max_gap_s=max_gap_ms / 1000,
        sample_count=count,
    )
