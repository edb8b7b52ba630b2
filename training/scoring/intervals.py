"""How sure a figure is: 95 % intervals by the bootstrap over sessions (Efron 1979).

A session's steps are alike, so what is drawn anew, with replacement, is whole sessions. The same
draws are used for whatever is compared: the difference of two networks, or of a network and a
baseline, is that of both on the same draw (paired), and surer than either figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from training.scoring.scorer import Scorer

Doubles = NDArray[np.float64]
RESAMPLES, AT_ONCE = 2000, 100
FEWEST = 5
"""Sessions from which on draws tell anything: three have ten different ones."""


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval, NaN where there is none."""

    value: float
    low: float = np.nan
    high: float = np.nan

    @property
    def has_ends(self) -> bool:
        """Whether there were sessions enough for an interval."""
        return not np.isnan(self.low)

    def plain(self) -> dict[str, float | None]:
        """For the manifest, which holds no NaN."""
        named = {"value": self.value, "low": self.low, "high": self.high}
        return {name: None if np.isnan(each) else float(each) for name, each in named.items()}


def read_interval(plain: Mapping[str, float | None]) -> Interval:
    """What `Interval.plain` made."""
    ends = (plain[name] for name in ("value", "low", "high"))
    return Interval(*(math.nan if each is None else each for each in ends))


def resampled(sums: Doubles, seed: int = 0) -> Doubles:
    """Sums [S, M] of sessions to those [R, M] of so many draws of S sessions; of the same draws
    for the same number of sessions."""
    rng, count = np.random.default_rng(seed), len(sums)
    if count < FEWEST:
        return np.full((1, sums.shape[1]), np.nan)
    parts = [_drawn(rng, count) @ sums for _ in range(RESAMPLES // AT_ONCE)]
    return np.concatenate(parts)


def _drawn(rng: np.random.Generator, count: int) -> Doubles:
    """How often each of `count` sessions is drawn, in so many draws of `count` each."""
    draws = (np.bincount(rng.integers(0, count, count), minlength=count) for _ in range(AT_ONCE))
    return np.stack(list(draws)).astype(np.float64)


class Measure(Protocol):
    """What makes figures [...] of sums [..., M]."""

    def figures(self, totals: Doubles) -> dict[str, Doubles]:
        """By name; NaN where there is nothing to tell one by."""
        ...


def intervals(scorer: Measure, sums: Doubles) -> dict[str, Interval]:
    """Every figure of sessions' sums [S, M]."""
    return _intervals(scorer.figures(sums.sum(axis=0)), scorer.figures(resampled(sums)))


def class_intervals(scorer: Scorer, sums: Doubles) -> list[dict[str, Interval]]:
    """Recall, precision and F1 of each class; without ends where it occurs in few sessions."""
    whole, drawn = scorer.by_class(sums.sum(axis=0)), scorer.by_class(resampled(sums))
    return [_of_class(k, whole, drawn, scorer.sessions_of(sums)) for k in _classes(scorer)]


def class_differences(scorer: Scorer, ours: Doubles, theirs: Doubles) -> list[dict[str, Interval]]:
    """The same of `ours` less that of `theirs`."""
    whole = _less(*(scorer.by_class(each.sum(axis=0)) for each in (ours, theirs)))
    drawn = _less(*(scorer.by_class(resampled(each)) for each in (ours, theirs)))
    return [_of_class(k, whole, drawn, scorer.sessions_of(ours)) for k in _classes(scorer)]


def _classes(scorer: Scorer) -> range:
    return range(scorer.target.outputs)


def _of_class(
    k: int,
    whole: Mapping[str, Doubles],
    drawn: Mapping[str, Doubles],
    sessions: NDArray[np.int64],
) -> dict[str, Interval]:
    """A class of one session would have the same figure in every draw: that is not sureness."""
    here = {name: each[k] for name, each in whole.items()}
    if sessions[k] < FEWEST:
        return {name: Interval(float(value)) for name, value in here.items()}
    return _intervals(here, {name: each[:, k] for name, each in drawn.items()})


def differences(scorer: Measure, ours: Doubles, theirs: Doubles) -> dict[str, Interval]:
    """Every figure of `ours` less that of `theirs`, sums [S, M] of the same sessions."""
    whole = _less(*(scorer.figures(each.sum(axis=0)) for each in (ours, theirs)))
    drawn = _less(*(scorer.figures(resampled(each)) for each in (ours, theirs)))
    return _intervals(whole, drawn)


def _less(ours: Mapping[str, Doubles], theirs: Mapping[str, Doubles]) -> dict[str, Doubles]:
    return {name: value - theirs[name] for name, value in ours.items()}


def _intervals(whole: Mapping[str, Doubles], drawn: Mapping[str, Doubles]) -> dict[str, Interval]:
    return {name: _interval(float(value), drawn[name]) for name, value in whole.items()}


def _interval(value: float, drawn: Doubles) -> Interval:
    """A draw may hold no step that tells the figure; the others do."""
    told = drawn[~np.isnan(drawn)]
    if np.isnan(value) or len(told) < RESAMPLES // 2:
        return Interval(value)
    low, high = np.quantile(told, [0.025, 0.975])
    return Interval(value, float(low), float(high))
