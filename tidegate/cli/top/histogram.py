"""A histogram as Prometheus counts it, and the percentiles that its buckets allow. A leaf."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise


@dataclass(frozen=True)
class Histogram:
    """Counts by bucket; the last bound is infinite."""

    bounds: tuple[float, ...]
    counts: tuple[float, ...]
    """How many lie in each bucket (above the bound before, up to its own)."""
    total: float
    """The sum of all values."""

    @classmethod
    def of_page(cls, cumulative: Mapping[float, float], total: float) -> Histogram:
        """From a page's buckets, each of which counts all those below it too.

        Raises:
            ValueError: the buckets are not a histogram's.
        """
        bounds = tuple(sorted(cumulative))
        if not bounds or bounds[-1] != math.inf:
            raise ValueError("a histogram without a last bucket")
        running = [0.0, *(cumulative[bound] for bound in bounds)]
        counts = tuple(after - before for before, after in pairwise(running))
        if min(counts) < 0:
            raise ValueError("a histogram whose buckets do not add up")
        return cls(bounds, counts, total)

    @property
    def count(self) -> float:
        """How many values were seen."""
        return sum(self.counts)

    @property
    def mean(self) -> float | None:
        """Their mean; None where there are none."""
        return self.total / self.count if self.count else None

    @property
    def limit(self) -> float:
        """The highest finite bound: what lies above has no known size."""
        return self.bounds[-2] if len(self.bounds) > 1 else 0.0

    def percentile(self, percent: float) -> float | None:
        """The value below which `percent` of all lie, evenly spread within its bucket.

        None where there are none; infinite where it lies above the highest finite bound.
        """
        place = self._place(percent)
        if place is None:
            return None
        at, share = place
        lower = self.bounds[at - 1] if at else 0.0
        return (
            math.inf if math.isinf(self.bounds[at]) else lower + (self.bounds[at] - lower) * share
        )

    def bound(self, percent: float) -> float | None:
        """The bound of the bucket that holds the percentile: all that is sure where a bucket holds
        few different values."""
        place = self._place(percent)
        return None if place is None else self.bounds[place[0]]

    def _place(self, percent: float) -> tuple[int, float] | None:
        """The percentile's bucket, and the share of the bucket that is below it."""
        rank = min(self.count * percent / 100, self.count)
        below = 0.0
        for at, upto in enumerate(accumulate(self.counts)):
            if upto >= rank and upto > below:
                return at, (rank - below) / (upto - below)
            below = upto
        return None

    def __add__(self, other: Histogram) -> Histogram:
        return self._joined(other, 1)

    def __sub__(self, earlier: Histogram) -> Histogram:
        return self._joined(earlier, -1)

    def _joined(self, other: Histogram, sign: int) -> Histogram:
        pairs = zip(self.counts, other.counts, strict=True)
        counts = tuple(mine + sign * theirs for mine, theirs in pairs)
        return Histogram(self.bounds, counts, self.total + sign * other.total)
