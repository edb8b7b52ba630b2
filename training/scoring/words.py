"""Figures, differences and what they come to, in words: what sentences and lines are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping

from training.scoring.intervals import Interval
from training.scoring.scorer import is_better_high

NAMES = {
    "accuracy_per_step": "accuracy per step",
    "macro_f1": "macro F1",
    "accuracy_at_session_end": "accuracy at session end",
    "rmse_relative": "RMSE as a share of each value's deviation",
}


def verdict(figure: str, difference: Interval) -> str:
    """What a difference says of the first of two: "better", "worse", or "not told apart" where the
    interval holds zero or there is none."""
    if not difference.has_ends or difference.low <= 0 <= difference.high:
        return "not told apart"
    return "better" if (difference.low > 0) == is_better_high(figure) else "worse"


def told(figure: str, unit: str, value: float, sign: bool = False) -> str:
    """A figure as sentences have it."""
    form = ("+" if sign else "") + (".3f" if is_better_high(figure) else ".4g")
    return f"{value:{form}} {unit}".rstrip()


def told_difference(
    figure: str, unit: str, difference: Interval, count: int, what: str = "session"
) -> str:
    """A difference with its interval, in words; `count` of `what` were drawn again."""
    apart = told(figure, unit, difference.value, sign=True)
    if not difference.has_ends:
        return f"a difference of {apart} ({count} {what}(s) give no interval)"
    low, high = (told(figure, "", end, sign=True) for end in (difference.low, difference.high))
    return f"a difference of {apart} (95 % interval {low} to {high}, {count} {what}s)"


def name_of(figure: str) -> str:
    """A figure's name in words."""
    if figure.startswith("mae_"):
        return figure.replace("mae_", "mean absolute error of ", 1)
    return NAMES.get(figure, figure.replace("rmse_", "RMSE of ", 1))


def figure_lines(figures: Mapping[str, Interval]) -> list[str]:
    """Each figure with its interval."""
    return [f"{name_of(name)} {told_interval(each)}" for name, each in figures.items()]


def told_interval(figure: Interval) -> str:
    """A figure, and where there is one its interval in brackets."""
    if math.isnan(figure.value):
        return "–"
    ends = f" [{figure.low:.4g}, {figure.high:.4g}]" if figure.has_ends else ""
    return f"{figure.value:.4g}{ends}"
