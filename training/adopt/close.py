"""How far two runs are apart. A leaf."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FINE, COARSE = 1e-5, 1e-2


def apart(found: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]) -> float:
    """The largest difference, in shares of the largest value expected; infinite where only one of
    the two is a number."""
    ours, theirs = (np.stack(list(each)).astype(np.float64) for each in (found, expected))
    if not np.array_equal(np.isfinite(ours), np.isfinite(theirs)):
        return float("inf")
    gone = ~np.isfinite(theirs)
    ours[gone] = theirs[gone] = 0.0
    largest = float(np.abs(theirs).max(initial=0.0))
    return float(np.abs(ours - theirs).max(initial=0.0)) / (largest or 1.0)
