"""Accuracy along a session: by the position in it, and by the history that the network was given.

Does it hold to the end of long sessions? How much of what came before does it make use of?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.engine.engine import Engine
from training.graphs.stepping import rows
from training.insight.evaluation import Evaluation, Subject
from training.insight.picture import BLUE, GREY, Picture, axes, name, picture, with_unit
from training.network import Floats
from training.table.session import Target

BINS, RESAMPLES, FEWEST = 20, 200, 3
STEPS, LONGEST = 400, 1024
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


def scores(evaluation: Evaluation) -> list[Doubles]:
    """Of each session at each step: 1 or 0 for right or wrong, or the first value's squared error;
    NaN where nothing is known."""
    pairs = zip(evaluation.sessions, evaluation.outputs, strict=True)
    return [_scores(evaluation.target, session.y, outputs) for session, outputs in pairs]


def figure_of(evaluation: Evaluation, found: Doubles) -> float:
    """Accuracy, or root mean square error, of scores known."""
    mean = float(np.nanmean(found))
    return mean if evaluation.target.classes else mean**0.5


def by_position(evaluation: Evaluation) -> list[Bin]:
    """Even bins up to the longest session that has company; bands by drawing sessions anew."""
    each = scores(evaluation)
    longest = sorted(map(len, each))[-min(FEWEST, len(each))]
    edges = np.unique(np.linspace(0, longest, BINS + 1).astype(int))
    found = []
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        parts = [part[start:stop] for part in each]
        parts = [part for part in parts if not np.isnan(part).all()]
        if parts:
            found.append(_bin(evaluation, parts, start, stop))
    return found


def by_quarter(evaluation: Evaluation) -> tuple[float, float]:
    """Of the longer half of the sessions: the figure in the second and in the last quarter."""
    each = sorted(scores(evaluation), key=len)[len(evaluation.sessions) // 2 :]
    second = np.concatenate([part[len(part) // 4 : len(part) // 2] for part in each])
    last = np.concatenate([part[3 * len(part) // 4 :] for part in each])
    return figure_of(evaluation, second), figure_of(evaluation, last)


def draw_positions(evaluation: Evaluation) -> Picture:
    """The figure by position, and how many sessions it rests on."""
    bins = by_position(evaluation)
    middle = [(each.start + each.stop) / 2 for each in bins]
    drawn, (axis, counts) = axes(3.8, rows=2, sharex=True, height_ratios=[3, 1])
    axis.plot(middle, [each.figure for each in bins], color=BLUE, marker=".")
    axis.fill_between(middle, [each.low for each in bins], [each.high for each in bins],
                      color=BLUE, alpha=0.2, linewidth=0)  # fmt: skip
    counts.step(middle, [each.sessions for each in bins], where="mid", color=GREY)
    counts.set_ylim(0)
    axis.set_ylim(0, 1.02 if evaluation.target.classes else None)
    name(axis, "", measure(evaluation))
    name(counts, "position in the session, steps", "sessions")
    return picture("positions", "By the position in the session", _caption(evaluation), drawn)


def measure(evaluation: Evaluation) -> str:
    """What is drawn, with its unit."""
    target = evaluation.target
    if target.classes:
        return "accuracy"
    return with_unit(f"RMSE of {target.names[0]}", target.units[0] if target.units else "")


def _caption(evaluation: Evaluation) -> str:
    second, last = by_quarter(evaluation)
    return (
        f"Held-out sessions ({evaluation.part} part), each from a fresh state; the band is 90 % of "
        "what other draws of the same sessions would show. In the longer half of the sessions the "
        f"{measure(evaluation)} is {second:.4g} in the second quarter and {last:.4g} in the last: "
        "what a state has come through so far."
    )


def _bin(evaluation: Evaluation, parts: Sequence[Doubles], start: int, stop: int) -> Bin:
    rng = np.random.default_rng(0)
    sums = np.array([[np.nansum(part), (~np.isnan(part)).sum()] for part in parts])
    drawn = rng.integers(0, len(parts), (RESAMPLES, len(parts)))
    total, known = sums[drawn].sum(axis=1).T
    figures = total / known if evaluation.target.classes else np.sqrt(total / known)
    low, high = np.percentile(figures, [5, 95])
    whole = figure_of(evaluation, np.concatenate(parts))
    return Bin(start, stop, len(parts), whole, float(low), float(high))


def _scores(target: Target, y: Floats, outputs: Floats) -> Doubles:
    truth = y[:, 0].astype(np.float64)
    if target.classes:
        return np.where(np.isnan(truth), np.nan, outputs.argmax(axis=1) == truth)
    return np.asarray((target.single(outputs)[:, 0] - truth) ** 2)


@dataclass(frozen=True)
class History:
    """The figure at the same `steps` steps after `lengths` steps from zeros, and after all."""

    lengths: list[int]
    figures: list[float]
    whole: float
    steps: int


def by_history(subject: Subject, evaluation: Evaluation) -> History:
    """At up to 400 steps, drawn evenly from all that have the longest history and a target."""
    most = _longest(evaluation)
    places = _places(evaluation, most)
    lengths = [2**k for k in range(most.bit_length())]
    engine = subject.engine(len(places))
    found = (_last_scores(engine, evaluation, places, length) for length in lengths)
    figures = [figure_of(evaluation, each) for each in found]
    every = scores(evaluation)
    whole = figure_of(evaluation, np.array([every[session][t] for session, t in places]))
    return History(lengths, figures, whole, len(places))


def draw_history(found: History, evaluation: Evaluation) -> Picture:
    """The figure against the steps seen, and that with the whole session behind it."""
    figure, (axis,) = axes(3.0)
    axis.plot(found.lengths, found.figures, color=BLUE, marker=".")
    axis.axhline(found.whole, color=GREY, linestyle="--", lw=1, label="all that came before")
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axis.legend(fontsize=8, frameon=False)
    name(axis, "steps seen, the last included", measure(evaluation))
    pairs = zip(found.lengths, found.figures, strict=True)
    caption = (
        f"The same {found.steps} held-out steps, predicted from a fresh state after so many steps. "
        f"With {'; '.join(f'{steps}: {value:.3g}' for steps, value in pairs)}; "
        f"with all that came before in the session: {found.whole:.3g}."
    )
    return picture("history", "By the history given", caption, figure)


def _longest(evaluation: Evaluation) -> int:
    """The longest history, a power of 2, that leaves half of the longer sessions' steps."""
    longer = float(np.percentile([len(session) for session in evaluation.sessions], 75))
    return min(LONGEST, 1 << int(np.log2(max(longer / 2, 1))))


def _places(evaluation: Evaluation, most: int) -> list[tuple[int, int]]:
    known = [
        (k, t)
        for k, session in enumerate(evaluation.sessions)
        for t in np.flatnonzero(~np.isnan(session.y[:, 0])).tolist()
        if t + 1 >= most
    ]
    chosen = np.linspace(0, len(known) - 1, min(STEPS, len(known))).astype(int)
    return [known[k] for k in chosen]


def _last_scores(
    engine: Engine, evaluation: Evaluation, places: list[tuple[int, int]], length: int
) -> Doubles:
    """Of the last of `length` steps that end at each place."""
    parts = [evaluation.sessions[k].x[t + 1 - length : t + 1] for k, t in places]
    for step in range(length):
        now = np.stack([part[step] for part in parts])[:, None]
        last = engine.run(rows(range(len(parts)), now, np.full(len(parts), step == 0)))
    truth = np.array([evaluation.sessions[k].y[t, 0] for k, t in places], np.float64)
    if evaluation.target.classes:
        return np.asarray(last[:, 0].argmax(axis=1) == truth, np.float64)
    return np.asarray((evaluation.target.single(last[:, 0])[:, 0] - truth) ** 2)
