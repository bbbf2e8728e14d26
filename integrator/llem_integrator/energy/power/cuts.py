"""How the edges of windows cut the pairs of samples around them."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from llem_core import energy
from llem_integrator.series.samples import Flags, Floats, Times, Values
from llem_integrator.series.spans import Spans

LONG_AGO: Final = -(2**62)
"""A time in unix microseconds that is earlier than any sample."""

NEVER: Final = 2**62
"""There is none after."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """The samples (w,) beside an edge, which may be one and the same, or missing.

    `max_gap_ms` is the longest step between them that is no gap.
    """

    before_us: Times
    before_watts: Values
    after_us: Times
    after_watts: Values
    max_gap_ms: Floats

    @property
    def straddles(self) -> Flags:
        """Whether there is a pair, and the edge lies strictly inside it."""
        both = (self.before_us > LONG_AGO) & (self.after_us < NEVER)
        return both & (self.before_us < self.after_us)

    @property
    def steps_ms(self) -> Floats:
        return np.where(self.straddles, self.after_us - self.before_us, 0) / 1000.0


class Cut:
    """How the edges of windows cut their pairs. A sample beyond the margin is as good as none."""

    def __init__(self, spans: Spans, start: Pairs, end: Pairs, margin_us: int) -> None:
        start_us, end_us = spans.start_us, spans.end_us
        self.start, self.end = start, end
        self.in_one_pair = start.straddles & (start.after_us > end_us)
        near_before = start.before_us >= start_us - margin_us
        near_after = end.after_us <= end_us + margin_us
        self.present = (start.after_us <= end_us) | near_before | near_after
        held = ~self.in_one_pair | (near_before & near_after)
        self._at_start = start.straddles & near_before & held
        self._at_end = end.straddles & near_after & ~self.in_one_pair
        self._spans = spans
        lead_us = np.minimum(start.after_us, end_us) - start_us
        tail_us = end_us - np.maximum(end.before_us, start_us)
        self.lead_ms = np.where(near_before, 0, lead_us) / 1000.0
        self.tail_ms = np.where(near_after, 0, tail_us) / 1000.0

    def parts(self) -> list[energy.PairEnergy[Floats]]:
        """What the cut pairs add (w,) at the start and at the end; of one that both cut, all at the start."""
        inside = self.in_one_pair
        to_end = np.where(inside, _share(self.start, self._spans.end_us), 1.0)
        from_start, before_end = (
            _share(self.start, self._spans.start_us),
            _share(self.end, self._spans.end_us),
        )
        first = _part(self.start, from_start, to_end)
        last = _part(self.end, np.zeros(len(inside)), before_end)
        return [
            energy.PairEnergy(*(column * self._at_start for column in first)),
            energy.PairEnergy(*(column * (self._at_end) for column in last)),
        ]


def _share(pairs: Pairs, edge_us: Times) -> Floats:
    """How far through its pair an edge lies, from 0 to 1; in microseconds, which are whole."""
    straddles = pairs.straddles
    passed = np.where(straddles, edge_us - pairs.before_us, 0)
    return np.clip(passed / np.where(straddles, pairs.after_us - pairs.before_us, 1), 0.0, 1.0)


def whole_pairs(pairs: Pairs) -> energy.PairEnergy[Floats]:
    return energy.pair_energy(pairs.before_watts, pairs.after_watts, pairs.steps_ms, pairs.max_gap_ms)


def _part(pairs: Pairs, start: Floats, end: Floats) -> energy.PairEnergy[Floats]:
    watts = pairs.before_watts, pairs.after_watts
    return energy.part_energy(*watts, pairs.steps_ms, pairs.max_gap_ms, start, end)
