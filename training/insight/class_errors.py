"""How classes are mistaken: which for which, how each fares, and whether the network is as sure of
them as it is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from training.insight.picture import (
    BLUE,
    GREY,
    ORANGE,
    WIDTH,
    Picture,
    axes,
    name,
    picture,
    short,
)
from training.scoring.calibration import BINS, bins_of

Counts = NDArray[np.int64]
Doubles = NDArray[np.float64]
FEW = 12
"""Up to so many classes, a cell has room for its share beside its count."""


@dataclass(frozen=True)
class ClassFigures:
    """How one class fares: its steps, the share of them found, and of its predictions right."""

    label: str
    steps: int
    recall: float
    precision: float


def confusion(y: NDArray[np.int64], guess: NDArray[np.int64], classes: int) -> Counts:
    """Counts [true class, predicted class]."""
    counts: Counts = np.bincount(y * classes + guess, minlength=classes**2).astype(np.int64)
    return counts.reshape(classes, classes)


def by_class(labels: Sequence[str], counts: Counts) -> list[ClassFigures]:
    """Recall and precision of each class; NaN where it never is, or is never predicted."""
    right = np.diag(counts)
    with np.errstate(invalid="ignore"):
        recall, precision = right / counts.sum(axis=1), right / counts.sum(axis=0)
    return [
        ClassFigures(label, int(counts[k].sum()), float(recall[k]), float(precision[k]))
        for k, label in enumerate(labels)
    ]


def draw_confusion(key: str, title: str, labels: Sequence[str], counts: Counts) -> Picture:
    """A row is a true class: colours are shares of it, numbers are counts."""
    count = len(labels)
    side = WIDTH if count <= FEW else max(WIDTH, 1.6 + 0.3 * count)
    figure = Figure(figsize=(side, side * 0.86), layout="constrained")
    axis = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axis.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1, edgecolors="white", lw=0.5)
    figure.colorbar(image, ax=axis, label="share of the true class", shrink=0.8)
    _ticks(axis, labels)
    _write(axis, counts, shares)
    text = f"{title}: {int(np.trace(counts)):,} of {int(counts.sum()):,} right."
    caption = (
        f"{text} A row is a true class; colours{' and percentages' if count <= FEW else ''} are "
        "shares of the row, whole numbers are counts. Empty cells are zero."
    )
    return picture(key, title, caption, figure)


def _ticks(axis: Axes, labels: Sequence[str]) -> None:
    at, names = np.arange(len(labels)) + 0.5, [short(label) for label in labels]
    upright = len(labels) > FEW or max(map(len, names)) > 5
    size = 8 if len(labels) <= FEW else 7
    axis.set_xticks(at, names, rotation=90 if upright else 0, fontsize=size)
    axis.set_yticks(at, names, fontsize=size)
    axis.tick_params(length=0)
    axis.invert_yaxis()
    axis.set_aspect("equal")
    axis.spines[:].set_visible(False)
    name(axis, "predicted class", "true class")


def _write(axis: Axes, counts: Counts, shares: NDArray[np.float64]) -> None:
    few = len(counts) <= FEW
    for row, column in zip(*np.nonzero(counts), strict=True):
        share, count = shares[row, column], str(counts[row, column])
        text = f"{share:.0%}\n{count}" if few else count
        colour = "white" if share > 0.55 else "#1a202c"
        size = 7.5 if few else 5.5 if len(count) < 5 else 4.5
        axis.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=colour, size=size)


@dataclass(frozen=True)
class Reliability:
    """For each bin of confidence, as `calibration` has them: steps, mean confidence and share right
    (NaN where empty); `error` is the expected calibration error (Guo et al. 2017)."""

    counts: NDArray[np.int64]
    confidence: Doubles
    right: Doubles
    error: float


def reliability(confidence: NDArray[np.floating], right: NDArray[np.bool_]) -> Reliability:
    """From the confidence [N > 0] of each step's predicted class, and whether it was right [N]."""
    sure = confidence.astype(np.float64)
    index = bins_of(sure)
    counts = np.bincount(index, minlength=BINS)
    with np.errstate(invalid="ignore"):
        means = np.bincount(index, sure, BINS) / counts
        shares = np.bincount(index, right, BINS) / counts
    gaps = np.nan_to_num(np.abs(means - shares))
    return Reliability(counts, means, shares, float((counts * gaps).sum() / len(sure)))


def draw_reliability(found: Reliability) -> Picture:
    """Share right against confidence, over how many steps each bin holds."""
    figure, (upper, lower) = axes(5.2, rows=2, height_ratios=[2.4, 1], sharex=True)
    centres, filled = (np.arange(BINS) + 0.5) / BINS, found.counts > 0
    upper.bar(centres[filled], found.right[filled], 0.92 / BINS, color=BLUE, label="share right")
    upper.plot([0, 1], [0, 1], "--", color="#1a202c", lw=1, zorder=3, label="as sure as right")
    mean = found.confidence[filled]
    upper.plot(mean, found.right[filled], "o", ms=4, color=ORANGE, label="at the mean confidence")
    upper.set(xlim=(0, 1.02), ylim=(0, 1.05))  # the highest points whole
    upper.legend(fontsize=8, frameon=False, loc="upper left")
    name(upper, "", "share of steps right")
    lower.bar(centres, found.counts, 0.92 / BINS, color=GREY)
    name(lower, "confidence: probability of the predicted class", "steps")
    return picture("reliability", "Reliability diagram", _caption(found), figure)


def _caption(found: Reliability) -> str:
    steps = int(found.counts.sum())
    mean = float(np.nansum(found.confidence * found.counts) / steps)
    right = float(np.nansum(found.right * found.counts) / steps)
    return (
        f"Expected calibration error {found.error:.4f}: the mean distance of share right and mean "
        f"confidence over {BINS} bins of equal width, weighted by their steps (Guo et al. 2017). "
        f"Over all {steps:,} steps the mean confidence is {mean:.1%}, and {right:.1%} are right. "
        "Bars below the dashed line are steps the network is surer of than it should be."
    )
