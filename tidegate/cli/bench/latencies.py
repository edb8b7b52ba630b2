"""Durations in few bytes, however many: counts by size, sizes 1 % apart. A leaf."""

import math

import numpy as np

SHORTEST = 1e-6
PER_E_FOLD = 100
"""Sizes within a factor of e: neighbours are 1 % apart."""
SIZES = 2_100
"""From a microsecond to some twenty minutes; what is longer counts as that."""


class Latencies:
    """Takes in durations in seconds."""

    def __init__(self) -> None:
        self._counts = [0] * SIZES
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        size = int(PER_E_FOLD * math.log(max(seconds, SHORTEST) / SHORTEST))
        self._counts[min(size, SIZES - 1)] += 1
        if seconds > self.longest:
            self.longest = seconds

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(self._counts)

    def percentile(self, percent: float) -> float:
        """Within 1 % of the duration that so many did not exceed; 0 where there are none."""
        reached = np.cumsum(self._counts)
        rank = max(1, math.ceil(reached[-1] * percent / 100))
        size = int(np.searchsorted(reached, rank))
        middle = SHORTEST * math.exp((size + 0.5) / PER_E_FOLD)
        return min(middle, self.longest)
