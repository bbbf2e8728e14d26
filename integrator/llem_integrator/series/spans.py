"""The edges of windows as arrays, to compute thousands of windows at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llem_integrator.series.samples import Times

if TYPE_CHECKING:
    from llem_integrator.windows.window import Window

Index = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Spans:
    """The edges of windows in whole unix microseconds: `start_us` (w,) and `end_us` (w,)."""

    start_us: Times
    end_us: Times

    def __len__(self) -> int:
        return len(self.start_us)

    @property
    def start_ms(self) -> Times:
        """Return the whole milliseconds at or before the starts."""
        return self.start_us // 1000

    @property
    def end_ms(self) -> Times:
        """Return the whole milliseconds at or after the ends."""
        return -(-self.end_us // 1000)

    @property
    def duration_ms(self) -> NDArray[np.float64]:
        return (self.end_us - self.start_us) / 1000.0

    def take(self, index: Index) -> "Spans":
        return Spans(self.start_us[index], self.end_us[index])

    def edges_us(self) -> Times:
        """Return all distinct edges in ascending order."""
        return distinct(np.concatenate([self.start_us, self.end_us]))


def distinct(times: Times) -> Times:
    """Return the distinct times in ascending order. np.unique takes 40 times as long, because it hashes."""
    times = np.sort(times)
    first: Times = times[np.append(times[:1] == times[:1], times[1:] != times[:-1])]
    return first


def spans_of(windows: "Sequence[Window]") -> Spans:
    """Return the edges of the windows, in their order."""
    edges = np.array([(window.start_us, window.end_us) for window in windows], np.int64).reshape(-1, 2)
    return Spans(edges[:, 0].copy(), edges[:, 1].copy())


def group_alike(columns: Sequence[NDArray[np.generic]]) -> tuple[Index, Index]:
    """Return an example (k,) of each distinct row of the columns (w,), and the number (w,) of each row.

    Windows that are alike in all columns have the same number, so that each kind is looked at once.
    """
    number = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        if not np.all(column == column[0]):
            values, own = np.unique(column, return_inverse=True)
            number = np.unique(number * len(values) + own, return_inverse=True)[1]
    _, examples, number = np.unique(number, return_index=True, return_inverse=True)
    return examples, number
