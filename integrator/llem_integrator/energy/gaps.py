"""The longest step between two samples that is no gap: 3 x the sample interval that held at that time."""

from typing import Final

import numpy as np

from llem_core import energy
from llem_integrator.series.intervals import CONTEXT_MS
from llem_integrator.series.samples import STALE_MS, Floats, Times
from llem_integrator.series.spans import Index

CONTEXT_STEPS: Final = 50
"""Unless the interval is published, a step is compared with this many steps before it and after it,
as far as they are in the hour before and after. Traces are read around edges only: there it is half a minute.
"""

_FEW_STEPS: Final = 3
"""Fewer steps on one side say nothing by themselves: then the median is that of both sides together."""

_CHUNK: Final = 4096


def local_gaps_ms(unix_ms: Times, index: Index, context_ms: int = CONTEXT_MS) -> Floats:
    """Return the longest steps (k,) in ms that are no gaps, where the samples `index` (k,) end steps.

    That is 3 x the median of the steps before or of those after, whichever is longer, so that a changed
    interval is no gap. At most 5 minutes: a series that is silent for longer is stale to Prometheus, too.
    """
    chunks = range(0, len(index), _CHUNK)
    parts = [_local_gaps_ms(unix_ms, index[at : at + _CHUNK], context_ms) for at in chunks]
    return np.concatenate(parts) if parts else np.zeros(0)


def _local_gaps_ms(unix_ms: Times, index: Index, context_ms: int) -> Floats:
    steps_ms = np.diff(unix_ms, prepend=unix_ms[:1]).astype(np.float64)
    ends_ms = unix_ms[index]
    near = np.arange(1, CONTEXT_STEPS + 1)
    before, after = index[:, None] - near, index[:, None] + near
    first_ms = unix_ms[np.clip(before - 1, 0, None)]
    last_ms = unix_ms[np.clip(after, None, len(unix_ms) - 1)]
    is_before = (before >= 1) & (ends_ms[:, None] - first_ms <= context_ms)
    is_after = (after < len(unix_ms)) & (last_ms - ends_ms[:, None] <= context_ms)
    left = np.where(is_before, steps_ms[np.clip(before, 0, None)], np.nan)
    right = np.where(is_after, steps_ms[np.clip(after, None, len(unix_ms) - 1)], np.nan)
    counts = is_before.sum(axis=1), is_after.sum(axis=1)
    median_ms = np.maximum(_medians(left, counts[0]), _medians(right, counts[1]))
    few = np.flatnonzero(np.minimum(*counts) < _FEW_STEPS)
    if len(few):
        own = np.where(counts[0] + counts[1] == 0, steps_ms[index], np.nan)
        both = np.concatenate([left, right, own[:, None]], axis=1)[few]
        median_ms[few] = _medians(both, np.maximum(counts[0] + counts[1], 1)[few])
    longest_ms: Floats = np.minimum(float(STALE_MS), energy.GAP_INTERVALS * median_ms)
    return longest_ms


def _medians(values: Floats, counts: Index) -> Floats:
    """Return the median of each row (k, n), of which `counts` (k,) values are not NaN."""
    ascending = np.sort(values, axis=1)  # NaN comes last
    rows = np.arange(len(values))
    lower, upper = np.maximum(counts - 1, 0) // 2, counts // 2
    medians: Floats = (ascending[rows, lower] + ascending[rows, np.minimum(upper, values.shape[1] - 1)]) / 2
    return medians


def may_be_gaps(unix_ms: Times) -> Index:
    """Return the samples (k,) that end a step so much longer than the shortest that it may be a gap."""
    steps_ms = np.diff(unix_ms)
    if not len(steps_ms):
        return np.zeros(0, np.int64)
    longest_ms = min(energy.GAP_INTERVALS * int(steps_ms.min()), STALE_MS)
    return np.flatnonzero(steps_ms > longest_ms) + 1
