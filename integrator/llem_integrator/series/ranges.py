"""The highest value in each of many index ranges."""

import numpy as np
from numpy.typing import NDArray

from llem_integrator.series.spans import Index

_FEW: int = 32
"""For fewer ranges than this, looking at each is cheaper than a table of all."""


def range_max(values: NDArray[np.float64], first: Index, stop: Index, empty: float) -> NDArray[np.float64]:
    """The maxima (w,) of values[first:stop]; `empty` where that holds nothing."""
    first, stop = np.maximum(first, 0), np.minimum(stop, len(values))
    found = np.full(len(first), empty)
    some = np.flatnonzero(stop > first)
    if len(some) < _FEW:
        for at in some.tolist():
            found[at] = values[first[at] : stop[at]].max()
        return found
    # A sparse table: level k holds the maxima of 2**k values from each index on; two of them span a range.
    lengths = (stop - first)[some]
    levels = np.frexp(lengths)[1] - 1
    table, width = values, 1
    for level in range(int(levels.max()) + 1):
        mine = some[levels == level]
        if len(mine):
            found[mine] = np.maximum(table[first[mine]], table[stop[mine] - width])
        if len(table) > width:
            table = np.maximum(table[:-width], table[width:])
        width *= 2
    return found
