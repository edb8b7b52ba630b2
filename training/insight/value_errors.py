"""How far predicted values are from the true ones: over all steps, by value, by session, and
whether they err to one side.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from training.figures import rmse
from training.insight.evaluation import Evaluation, Track, Value
from training.insight.picture import (
    BLUE,
    GREY,
    ORANGE,
    Picture,
    axes,
    counted,
    name,
    picture,
    short,
    with_unit,
)

Doubles = NDArray[np.float64]
DRAWN_STEPS, NAMED_SESSIONS = 400, 30
MOST_VALUES = 6
"""So many values are drawn, lest the page grow without end."""


def draw_errors(evaluation: Evaluation) -> list[Picture]:
    """Four pictures of each value that is known somewhere, of the first six at the most."""
    found = list[Picture]()
    for k in range(min(len(evaluation.target.names), MOST_VALUES)):
        value = evaluation.value(k)
        if value.tracks:
            found += [_against(k, value), _where(k, value), _example(k, value)]
            found.append(_residuals(k, value))
    return found


def _against(k: int, value: Value) -> Picture:
    figure, (left, right) = axes(3.2, 2)
    cells = left.hexbin(
        value.true, value.guess, gridsize=36, bins="log", mincnt=1, cmap="Blues", lw=0.1
    )
    figure.colorbar(cells, ax=left, label="steps")
    ends = np.array([min(value.true.min(), value.guess.min()),
                     max(value.true.max(), value.guess.max())])  # fmt: skip
    left.plot(ends, ends, "--", color=GREY, lw=1)
    name(left, with_unit("true", value.unit), with_unit("predicted", value.unit), "All steps")
    right.hist(value.guess - value.true, bins=60, color=BLUE)
    right.axvline(0, color=GREY, linestyle="--", linewidth=1)
    right.set_yscale("log")  # or the few that are far off would not be seen
    name(right, with_unit("predicted - true", value.unit), "steps", "Errors")
    title = f"{value.name}: predicted against true"
    return picture(f"errors{k}", title, _against_caption(value), figure)


def _against_caption(value: Value) -> str:
    error = value.guess - value.true
    middle, ninety = np.quantile(np.abs(error), [0.5, 0.9])
    return (
        f"{value.name}, {len(error):,} held-out steps: RMSE "
        f"{_told(value, rmse(value.guess, value.true))}, mean error {_told(value, error.mean())}; "
        f"half of all errors are within {_told(value, middle)}, nine in ten within "
        f"{_told(value, ninety)}. The dashed lines are where nothing is wrong."
    )


def _where(k: int, value: Value) -> Picture:
    figure, (left, right) = axes(3.4, 2)
    tenths = _in_order(value.true)
    places = np.arange(1, len(tenths) + 1)
    scores = [rmse(value.guess[part], value.true[part]) for part in tenths]
    left.bar(places, scores, color=BLUE)
    left.set_xticks(places)
    unit = with_unit("RMSE", value.unit)
    name(left, "tenth of the true values, lowest first", unit, "By true value")
    ranked = sorted(value.tracks, key=lambda track: track.rmse)
    name(right, _sessions(right, ranked), unit, "By session")
    ends = [_told(value, value.true[part].mean()) for part in (tenths[0], tenths[-1])]
    caption = (
        f"{value.name}: where it errs. Left, steps in order of the true value, in {len(tenths)} "
        f"parts of about equal size; the mean of the first is {ends[0]}, of the last {ends[1]}. "
        f"Right, each session: from {_told(value, ranked[0].rmse)} ({ranked[0].session}) to "
        f"{_told(value, ranked[-1].rmse)} ({ranked[-1].session})."
    )
    return picture(f"where{k}", f"{value.name}: RMSE by value and by session", caption, figure)


def _sessions(axis: Axes, ranked: list[Track]) -> str:
    """Draw each session's RMSE; returns what the axis is to be called."""
    places = np.arange(1, len(ranked) + 1)
    axis.plot(places, [track.rmse for track in ranked], "o", ms=3.5, color=BLUE)
    axis.set_ylim(bottom=0)
    if len(ranked) > NAMED_SESSIONS:
        return f"the {len(ranked):,} sessions, best first"
    names = [short(track.session) for track in ranked]
    axis.set_xticks(places, names, rotation=90, fontsize=7)
    axis.set_xlim(0.4, len(ranked) + 0.6)
    return "session, best first"


def _example(k: int, value: Value) -> Picture:
    """Of the sessions whose error is middling, the stretch in which the value ranges widest."""
    ranked = sorted(value.tracks, key=lambda track: track.rmse)
    middling = ranked[len(ranked) // 4 : 3 * len(ranked) // 4 + 1]
    start, track = max(
        ((start, track) for track in middling for start in range(0, len(track.y), DRAWN_STEPS)),
        key=lambda each: _range(each[1].y[each[0] : each[0] + DRAWN_STEPS]),
    )
    steps = np.arange(start, min(len(track.y), start + DRAWN_STEPS))
    figure, (axis,) = axes(2.8)
    axis.plot(steps, track.y[steps], color=GREY, lw=1.6, label="true")
    axis.plot(steps, track.guess[steps], color=ORANGE, lw=1.1, label="predicted")
    figure.legend(fontsize=8, frameon=False, ncols=2, loc="outside upper right")
    name(axis, "step of the session", with_unit(value.name, value.unit))
    ahead = value.horizon
    what = f"the value {counted(ahead, 'step')} later" if ahead else "the value of that step"
    caption = (
        f"{value.name} in session {track.session}, whose RMSE, {_told(value, track.rmse)}, is in "
        f"the middle half of all: {len(steps):,} of its {len(track.y):,} steps. Each step has "
        f"{what}, as it was and as it was predicted at that step."
    )
    return picture(f"example{k}", f"{value.name}: an example session", caption, figure)


def _range(y: Doubles) -> float:
    known = y[~np.isnan(y)]
    return float(np.ptp(known)) if len(known) else 0.0


def _told(value: Value, number: float) -> str:
    return f"{number:.4g} {value.unit}".strip()


def _in_order(by: Doubles, parts: int = 10) -> list[NDArray[np.intp]]:
    """The indices of `by` [N > 0] in ascending order, in up to `parts` parts of like size."""
    return np.array_split(np.argsort(by, kind="stable"), min(parts, len(by)))


def _residuals(k: int, value: Value) -> Picture:
    """Mean residual and spread of errors by tenths of the predicted value."""
    tenths, error = _in_order(value.guess), value.guess - value.true
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
