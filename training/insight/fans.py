"""Quantiles drawn: whether each holds what its level says, and a session within them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes

from training.insight.evaluation import Doubles, Evaluation
from training.insight.picture import (
    BLUE,
    GREY,
    ORANGE,
    Picture,
    axes,
    counted,
    name,
    picture,
    with_unit,
)
from training.recipe.recipe import MEDIAN
from training.scoring.fans import FanScores, fans_of
from training.scoring.scorer import targets_of
from training.scoring.words import told_interval
from training.table.session import Session

STEPS, MOST_VALUES = 80, 6


def draw_fans(evaluation: Evaluation) -> list[Picture]:
    """A picture of each value that is known somewhere, of the first six at the most; none where the
    target has no quantiles."""
    target, targets = evaluation.target, targets_of(evaluation.sessions)
    found = fans_of(target, evaluation.outputs, targets)
    return [_draw(evaluation, each) for each in found[:MOST_VALUES]]


def _draw(evaluation: Evaluation, scores: FanScores) -> Picture:
    k = evaluation.target.names.index(scores.name)
    figure, (left, right) = axes(3.2, 2, width_ratios=[1, 1.9])
    _levels(left, scores)
    start, session, fans = _example(evaluation, k)
    _stretch(right, session.y[:, k], fans, start, evaluation.target.quantiles.index(MEDIAN))
    name(right, "step of the session", with_unit(scores.name, scores.unit), "An example")
    parts = "; ".join(
        f"between {each.low:g} and {each.high:g}: {each.nominal:.1%} nominal, "
        f"{told_interval(each.seen)} seen"
        for each in scores.coverage
    )
    ahead = evaluation.target.horizons[k]
    what = f"the value {counted(ahead, 'step')} later" if ahead else "the value of that step"
    caption = (
        f"{scores.name}: left, the share of held-out truths at or below each quantile, with its "
        "95 % interval by sessions, against the quantile's level; on the dashed line it holds what "
        f"it says. Of the intervals {parts or 'there are none'}. Mean pinball loss "
        f"{told_interval(scores.pinball)} {scores.unit}".rstrip()
        + f". Right, {counted(len(fans), 'step')} of session {session.name}: each has {what}, "
        "within the quantiles that were said at that step."
    )
    return picture(f"fan{k}", f"{scores.name}: does the fan hold?", caption, figure)


def _levels(axis: Axes, scores: FanScores) -> None:
    axis.plot([0, 1], [0, 1], "--", color=GREY, lw=1)
    levels = np.array(list(scores.below))
    shares = list(scores.below.values())
    for level, share in zip(levels, shares, strict=True):
        if share.has_ends:
            axis.plot([level, level], [share.low, share.high], color=BLUE, lw=1.4)
    axis.plot(levels, [each.value for each in shares], "o", ms=3.5, color=BLUE)
    axis.set(xlim=(0, 1), ylim=(0, 1))
    name(axis, "level of the quantile", "share of truths below", "All steps")


def _stretch(axis: Axes, y: np.ndarray, fans: Doubles, start: int, middle: int) -> None:
    """Bands between quantiles, darker within."""
    steps, count = np.arange(start, start + len(fans)), fans.shape[1]
    for k in range(count // 2):
        axis.fill_between(steps, fans[:, k], fans[:, count - 1 - k], color=ORANGE,
                          alpha=0.22, linewidth=0)  # fmt: skip
    axis.plot(steps, y[steps], color=GREY, lw=1.4, label="true")
    axis.plot(steps, fans[:, middle], color=ORANGE, lw=1.1, label="median")
    axis.legend(fontsize=8, frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))


def _example(evaluation: Evaluation, k: int) -> tuple[int, Session, Doubles]:
    """Of all stretches the one in which the value ranges middlingly."""
    ranked = sorted(_stretches(evaluation, k), key=lambda each: each[0])
    _, start, place = ranked[len(ranked) // 2]
    session, outputs = evaluation.sessions[place], evaluation.outputs[place]
    fans = evaluation.target.fans(outputs)[start : start + STEPS, k]
    return start, session, fans.astype(np.float64)


def _stretches(evaluation: Evaluation, k: int) -> Iterator[tuple[float, int, int]]:
    """How far the value ranges in each, where it starts, and the place of its session."""
    for place, session in enumerate(evaluation.sessions):
        for start in range(0, max(1, len(session) - STEPS // 2), STEPS):
            part = session.y[start : start + STEPS, k]
            if not np.isnan(part).all():
                yield float(np.nanmax(part) - np.nanmin(part)), start, place
