"""Windows that are alike in some columns, so that each kind is looked at once."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llem_integrator.windows.spans import Index

_LARGEST_CODE = 2**62


def kinds(columns: Sequence[NDArray[np.generic]]) -> tuple[Index, Index]:
    """An example (k,) of each different row of columns (w,), and the kind (w,) of each row."""
    code, count = np.zeros(len(columns[0]), np.int64), 1
    for column in columns:
        number, size = _numbered(column)
        if size == 1:
            continue
        if count * size > _LARGEST_CODE:
            code = np.unique(code, return_inverse=True)[1].astype(np.int64)
            count = int(code.max()) + 1
        code, count = code * size + number, count * size
    _, example, kind = np.unique(code, return_index=True, return_inverse=True)
    return example, kind.reshape(-1)


def _numbered(column: NDArray[np.generic]) -> tuple[NDArray[np.int64], int]:
    """A column's values as numbers from 0 on that stand for them, and how many numbers there may be."""
    if column.dtype == np.bool_:
        return column.astype(np.int64), 2
    if np.all(column == column[0]):
        return np.zeros(len(column), np.int64), 1
    values, number = np.unique(column, return_inverse=True)
    return number.reshape(-1).astype(np.int64), len(values)
