"""How much history a network makes use of: the same steps predicted from more and more of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.engine.engine import Engine
from training.graphs.walks import rows
from training.insight.drawing import BLUE, GREY, axes, name
from training.insight.judged import Judged, engine_of
from training.insight.picture import Picture, picture
from training.insight.positions import figure_of, measure, scores
from training.insight.subject import Subject

STEPS, LONGEST = 400, 1024
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class History:
    """The figure at the same `steps` steps after `lengths` steps from zeros, and after all."""

    lengths: list[int]
    figures: list[float]
    whole: float
    steps: int


def by_history(subject: Subject, judged: Judged) -> History:
    """At up to 400 steps, drawn evenly from all that have the longest history and a target."""
    most = _longest(judged)
    places = _places(judged, most)
    lengths = [2**k for k in range(most.bit_length())]
    engine = engine_of(subject, len(places))
    figures = [figure_of(judged, _scores(engine, judged, places, length)) for length in lengths]
    every = scores(judged)
    whole = figure_of(judged, np.array([every[session][t] for session, t in places]))
    return History(lengths, figures, whole, len(places))


def draw_history(subject: Subject, judged: Judged) -> Picture:
    """The figure against the steps seen, and that with the whole session behind it."""
    found = by_history(subject, judged)
    figure, (axis,) = axes(3.0)
    axis.plot(found.lengths, found.figures, color=BLUE, marker=".")
    axis.axhline(found.whole, color=GREY, linestyle="--", lw=1, label="all that came before")
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axis.legend(fontsize=8, frameon=False)
    name(axis, "steps seen, the last included", measure(judged))
    pairs = zip(found.lengths, found.figures, strict=True)
    caption = (
        f"The same {found.steps} held-out steps, predicted from a fresh state after so many steps. "
        f"With {'; '.join(f'{steps}: {value:.3g}' for steps, value in pairs)}; "
        f"with all that came before in the session: {found.whole:.3g}."
    )
    return picture("history", "By the history given", caption, figure)


def _longest(judged: Judged) -> int:
    """The longest history, a power of 2, that leaves half of the longer sessions' steps."""
    longer = float(np.percentile([len(session) for session in judged.sessions], 75))
    return min(LONGEST, 1 << int(np.log2(max(longer / 2, 1))))


def _places(judged: Judged, most: int) -> list[tuple[int, int]]:
    known = [
        (k, t)
        for k, session in enumerate(judged.sessions)
        for t in np.flatnonzero(~np.isnan(session.y[:, 0])).tolist()
        if t + 1 >= most
    ]
    chosen = np.linspace(0, len(known) - 1, min(STEPS, len(known))).astype(int)
    return [known[k] for k in chosen]


def _scores(engine: Engine, judged: Judged, places: list[tuple[int, int]], length: int) -> Doubles:
    """Of the last of `length` steps that end at each place."""
    parts = [judged.sessions[k].x[t + 1 - length : t + 1] for k, t in places]
    for step in range(length):
        now = np.stack([part[step] for part in parts])[:, None]
        last = engine.run(rows(range(len(parts)), now, np.full(len(parts), step == 0)))
    truth = np.array([judged.sessions[k].y[t, 0] for k, t in places], np.float64)
    if judged.target.classes:
        return np.asarray(last[:, 0].argmax(axis=1) == truth, np.float64)
    return np.asarray((last[:, 0, 0] - truth) ** 2)
