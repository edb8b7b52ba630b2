"""Columns, asked and made several times a run: of few rows NumPy's own functions take three to ten
times as long, since they are Python around what they do."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def every(column: NDArray[np.bool_]) -> bool:
    """Whether all of it is true."""
    return 0 not in column.tobytes()


def some(column: NDArray[np.bool_]) -> bool:
    """Whether any of it is true."""
    return 1 in column.tobytes()


def finite(values: NDArray[Any]) -> bool:
    """Whether no value is infinite or NaN."""
    return every(np.isfinite(values))


def lengthened(column: NDArray[Any], length: int) -> NDArray[Any]:
    """A longer column with the same rows, and zeros behind, which take memory as they are used: of
    what `np.pad` makes, all of it does at once."""
    longer: NDArray[Any] = np.zeros(length, column.dtype)
    longer[: len(column)] = column
    return longer


def filled(count: int, dtype: type, value: int) -> NDArray[Any]:
    """A new column of equal values."""
    column: NDArray[Any] = np.empty(count, dtype)
    column.fill(value)
    return column
