"""How good a network is at each position in a session: does it hold to the end of long ones?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.insight.drawing import BLUE, GREY, axes, name, with_unit
from training.insight.judged import Judged
from training.insight.picture import Picture, picture

BINS, RESAMPLES, FEWEST = 20, 200, 3
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Bin:
    """Steps `start` to `stop` of the sessions that reach them: figure, and its band of 90 %."""

    start: int
    stop: int
    sessions: int
    figure: float
    low: float
    high: float


def scores(judged: Judged) -> list[Doubles]:
    """Of each session at each step: 1 or 0 for right or wrong, or the first value's squared error;
    NaN where nothing is known."""
    return [_scores(judged, session.y, outputs)
            for session, outputs in zip(judged.sessions, judged.outputs, strict=True)]  # fmt: skip


def figure_of(judged: Judged, found: Doubles) -> float:
    """Accuracy, or root mean square error, of scores known."""
    mean = float(np.nanmean(found))
    return mean if judged.target.classes else mean**0.5


def by_position(judged: Judged) -> list[Bin]:
    """Even bins up to the longest session that has company; bands by drawing sessions anew."""
    each = scores(judged)
    longest = sorted(map(len, each))[-min(FEWEST, len(each))]
    edges = np.unique(np.linspace(0, longest, BINS + 1).astype(int))
    found = []
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        parts = [part[start:stop] for part in each]
        parts = [part for part in parts if not np.isnan(part).all()]
        if parts:
            found.append(_bin(judged, parts, start, stop))
    return found


def by_quarter(judged: Judged) -> tuple[float, float]:
    """Of the longer half of the sessions: the figure in the second and in the last quarter."""
    each = sorted(scores(judged), key=len)[len(judged.sessions) // 2 :]
    second = np.concatenate([part[len(part) // 4 : len(part) // 2] for part in each])
    last = np.concatenate([part[3 * len(part) // 4 :] for part in each])
    return figure_of(judged, second), figure_of(judged, last)


def draw_positions(judged: Judged) -> Picture:
    """The figure by position, and how many sessions it rests on."""
    bins = by_position(judged)
    middle = [(each.start + each.stop) / 2 for each in bins]
    drawn, (axis, counts) = axes(3.8, rows=2, sharex=True, height_ratios=[3, 1])
    axis.plot(middle, [each.figure for each in bins], color=BLUE, marker=".")
    axis.fill_between(middle, [each.low for each in bins], [each.high for each in bins],
                      color=BLUE, alpha=0.2, linewidth=0)  # fmt: skip
    counts.step(middle, [each.sessions for each in bins], where="mid", color=GREY)
    counts.set_ylim(0)
    axis.set_ylim(0, 1.02 if judged.target.classes else None)
    name(axis, "", measure(judged))
    name(counts, "position in the session, steps", "sessions")
    return picture("positions", "By the position in the session", _caption(judged), drawn)


def measure(judged: Judged) -> str:
    """What is drawn, with its unit."""
    target = judged.target
    if target.classes:
        return "accuracy"
    return with_unit(f"RMSE of {target.names[0]}", target.units[0] if target.units else "")


def _caption(judged: Judged) -> str:
    second, last = by_quarter(judged)
    return (
        f"Held-out sessions ({judged.part} part), each from a fresh state; the band is 90 % of "
        "what other draws of the same sessions would show. In the longer half of the sessions the "
        f"{measure(judged)} is {second:.4g} in the second quarter and {last:.4g} in the last: what "
        "a state has come through so far."
    )


def _bin(judged: Judged, parts: Sequence[Doubles], start: int, stop: int) -> Bin:
    rng = np.random.default_rng(0)
    sums = np.array([[np.nansum(part), (~np.isnan(part)).sum()] for part in parts])
    drawn = rng.integers(0, len(parts), (RESAMPLES, len(parts)))
    total, known = sums[drawn].sum(axis=1).T
    figures = total / known if judged.target.classes else np.sqrt(total / known)
    low, high = np.percentile(figures, [5, 95])
    whole = figure_of(judged, np.concatenate(parts))
    return Bin(start, stop, len(parts), whole, float(low), float(high))


def _scores(judged: Judged, y: NDArray[np.floating], outputs: NDArray[np.floating]) -> Doubles:
    truth = y[:, 0].astype(np.float64)
    if judged.target.classes:
        return np.where(np.isnan(truth), np.nan, outputs.argmax(axis=1) == truth)
    return (outputs[:, 0] - truth) ** 2
