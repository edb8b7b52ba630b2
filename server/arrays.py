"""Columns, asked and made several times a run: of few rows NumPy's own `all` and `ones` take three
times as long."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def every(column: NDArray[Any]) -> bool:
    """Whether all of it is true, or other than 0."""
    return bool(np.count_nonzero(column) == column.size)


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
