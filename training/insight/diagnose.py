"""All that `diagnose` draws, in the order of the questions: does it learn, remember, hold? And what
to try next.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.insight.advice import Measured, advice
from training.insight.evaluation import Evaluation, Subject
from training.insight.gates import LONGEST, draw_gates, draw_memory, look
from training.insight.gradients import draw_gradients
from training.insight.picture import Picture
from training.insight.positions import by_history, by_quarter, draw_history, draw_positions
from training.insight.trace import trace
from training.table.session import Session


@dataclass(frozen=True)
class Diagnosis:
    """Pictures of the trained network on its held-out sessions, and what to try next."""

    pictures: list[Picture]
    advice: list[str]


def diagnose(subject: Subject, evaluation: Evaluation) -> Diagnosis:
    """Look at the network.

    Raises:
        TrainingError: the held-out sessions are too short.
    """
    shown, history = telling(evaluation), by_history(subject, evaluation)
    measured = Measured(
        history,
        by_quarter(evaluation),
        subject.recipe.loop.window,
        subject.provenance["curve"],
        evaluation.target.classes,
        subject.provenance.get("linear"),
    )
    pictures = [
        draw_gradients(subject),
        draw_gates(subject, shown, trace(subject.network, shown.x).detached()),
        draw_memory(subject, look(subject.network, evaluation.sessions)),
        draw_positions(evaluation),
        draw_history(history, evaluation),
    ]
    return Diagnosis(pictures, advice(measured))


def telling(evaluation: Evaluation) -> Session:
    """The beginning of a session of middling length, in which there is something to see: as many
    classes, or changes of class, as there are in one, or the widest range of the value."""
    ordered = sorted(evaluation.sessions, key=len)
    middle = ordered[len(ordered) // 4 :]
    measure = _changes if evaluation.target.classes else _range
    return max(middle, key=measure).part(0, LONGEST)


def _changes(session: Session) -> tuple[int, int]:
    y = session.y[:LONGEST, 0]
    known = y[~np.isnan(y)]
    return len(np.unique(known)), int((np.diff(known) != 0).sum())


def _range(session: Session) -> float:
    y = session.y[:LONGEST, 0]
    known = y[~np.isnan(y)]
    return float(np.ptp(known)) if len(known) else 0.0
