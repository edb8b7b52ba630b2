"""Whether quantiles hold what they say: coverage on sessions never seen, and the pinball loss.

An interval lies between two quantiles, the lowest and the highest, the next within them, and so on;
its nominal coverage is how far their levels are apart. All is made of sums over each session, as
`scorer` has it, so that intervals are by the bootstrap over sessions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.network import Floats
from training.scoring.intervals import Interval, intervals
from training.scoring.words import told_interval
from training.table.session import Target

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Coverage:
    """Between the quantiles at `low` and `high` lies a `nominal` share of truths; `seen` did."""

    low: float
    high: float
    seen: Interval

    @property
    def nominal(self) -> float:
        """The share that should lie there."""
        return round(self.high - self.low, 10)


@dataclass(frozen=True)
class FanScores:
    """Of one value: the mean pinball loss over its levels, in its unit; its intervals, widest
    first; and at each level the share of truths that lay at or below that quantile."""

    name: str
    unit: str
    pinball: Interval
    coverage: Sequence[Coverage]
    below: Mapping[float, Interval]

    def plain(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "name": self.name,
            "unit": self.unit,
            "pinball": self.pinball.plain(),
            "coverage": [
                {"low": each.low, "high": each.high, "nominal": each.nominal}
                | {"seen": each.seen.plain()}
                for each in self.coverage
            ],
            "below": [
                {"level": level, "share": each.plain()} for level, each in self.below.items()
            ],
        }

    def lines(self) -> list[str]:
        """In words, for the summary that `fit` prints."""
        loss = f"{told_interval(self.pinball)} {self.unit}".rstrip()
        return [*self.coverage_lines(), f"{self.name}: mean pinball loss {loss}"]

    def coverage_lines(self) -> list[str]:
        """Each interval."""
        return [
            f"{self.name} between its quantiles {each.low:g} and {each.high:g}: "
            f"{each.nominal:.1%} of truths should lie there, {told_interval(each.seen)} do"
            for each in self.coverage
        ]


Rolled = dict[int, list[FanScores]]
"""By how many steps ahead."""


@dataclass(frozen=True)
class FanScorer:
    """Measures outputs [T, V·Q] against targets [T, V]."""

    target: Target

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The places of each interval's levels."""
        count = len(self.target.quantiles)
        return [(k, count - 1 - k) for k in range(count // 2)]

    def sums(self, outputs: Sequence[Floats], targets: Sequence[Floats]) -> Doubles:
        """A row for each session: by value the steps, pinball losses, truths within each interval
        and truths at or below each quantile."""
        pairs = zip(outputs, targets, strict=True)
        return np.stack([self._row(self.target.fans(guess), y) for guess, y in pairs])

    def _row(self, fans: Floats, y: Floats) -> Doubles:
        known, truth = ~np.isnan(y), np.nan_to_num(y)[..., None].astype(np.float64)
        levels = np.array(self.target.quantiles)
        over = truth - fans
        loss = np.maximum(levels * over, (levels - 1) * over).mean(axis=-1)
        within = [(truth[..., 0] >= fans[..., a]) & (truth[..., 0] <= fans[..., b])
                  for a, b in self.pairs]  # fmt: skip
        below = np.moveaxis(truth <= fans, -1, 0)
        each = np.stack([known, loss, *within, *below]).astype(np.float64)  # [M, T, V]
        row: Doubles = (each * known).sum(axis=1).T.ravel()
        return row

    def figures(self, totals: Doubles) -> dict[str, Doubles]:
        """Every share and loss, of sums [..., V·M], by its value's place and its own."""
        values = totals.reshape(*totals.shape[:-1], len(self.target.names), -1)
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = values[..., 1:] / values[..., :1]
        return {
            f"{v}, {k}": shares[..., v, k]
            for v in range(len(self.target.names))
            for k in range(shares.shape[-1])
        }

    def scores(self, sums: Doubles) -> list[FanScores]:
        """Of each value that is known somewhere."""
        found = intervals(self, sums)
        scores = [self._scores(v, found) for v in range(len(self.target.names))]
        return [each for each in scores if not np.isnan(each.pinball.value)]

    def _scores(self, v: int, found: Mapping[str, Interval]) -> FanScores:
        target, count = self.target, len(self.pairs)
        levels = target.quantiles
        coverage = [
            Coverage(levels[a], levels[b], found[f"{v}, {1 + k}"])
            for k, (a, b) in enumerate(self.pairs)
        ]
        below = {level: found[f"{v}, {1 + count + k}"] for k, level in enumerate(levels)}
        return FanScores(target.names[v], target.units[v], found[f"{v}, 0"], coverage, below)


def fans_of(
    target: Target, outputs: Sequence[Floats], targets: Sequence[Floats]
) -> list[FanScores]:
    """What sessions' quantiles come to; nothing where the target has none."""
    if not target.quantiles:
        return []
    scorer = FanScorer(target)
    return scorer.scores(scorer.sums(outputs, targets))
