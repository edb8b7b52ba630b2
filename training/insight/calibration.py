"""Whether the network is as sure as it is right (classes), or errs to one side (values)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from training.insight.drawing import BLUE, GREY, ORANGE, axes, name, with_unit
from training.insight.judged import Value
from training.insight.picture import Picture, picture

BINS, PARTS = 15, 10
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Reliability:
    """For each of 15 equal-width bins (k/15, (k+1)/15] of confidence: steps, mean confidence and
    share right (NaN where empty); `error` is the expected calibration error (Guo et al. 2017)."""

    counts: NDArray[np.int64]
    confidence: Doubles
    right: Doubles
    error: float


def reliability(confidence: NDArray[np.floating], right: NDArray[np.bool_]) -> Reliability:
    """From the confidence [N > 0] of each step's predicted class, and whether it was right [N]."""
    sure = confidence.astype(np.float64)
    index = np.clip(np.ceil(sure * BINS).astype(np.int64) - 1, 0, BINS - 1)
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
    upper.set(xlim=(0, 1), ylim=(0, 1))
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


def in_order(by: Doubles, parts: int = PARTS) -> list[NDArray[np.intp]]:
    """The indices of `by` [N > 0] in ascending order, in up to `parts` parts of like size."""
    return np.array_split(np.argsort(by, kind="stable"), min(parts, len(by)))


def draw_residuals(k: int, value: Value) -> Picture:
    """Mean residual and spread of errors by tenths of the predicted value."""
    tenths, error = in_order(value.guess), value.guess - value.true
    means = [(float(value.guess[part].mean()), float(error[part].mean())) for part in tenths]
    figure, (left, right) = axes(3.0, 2)
    left.axhline(0, color=GREY, linestyle="--", linewidth=1)
    left.plot(*zip(*means, strict=True), "o-", color=BLUE, ms=4)
    across = with_unit("mean of predicted - true", value.unit)
    name(left, with_unit("predicted", value.unit), across, "Bias")
    _spread(right, [error[part] for part in tenths])
    across = with_unit("predicted - true", value.unit)
    name(right, "tenth of the predictions, lowest first", across, "Spread")
    caption = (
        f"{value.name}: held-out steps in order of the predicted value, in {len(tenths)} parts of "
        "about equal size. Left, how far predictions are above the truth on average; right, how "
        "widely they scatter. Without bias, the line on the left lies on the dashed one."
    )
    title = f"{value.name}: bias and spread by predicted value"
    return picture(f"residuals{k}", title, caption, figure)


def _spread(axis: Axes, errors: list[Doubles]) -> None:
    places = np.arange(1, len(errors) + 1)
    low, high = (np.array([np.quantile(part, q) for part in errors]) for q in (0.05, 0.95))
    axis.bar(places, high - low, bottom=low, color="#bcd3ea", label="5 % to 95 %")
    deviations = [float(part.std()) for part in errors]
    axis.plot(places, deviations, "o", color=ORANGE, ms=4, label="standard deviation")
    axis.set_xticks(places)
    axis.legend(fontsize=7, frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
