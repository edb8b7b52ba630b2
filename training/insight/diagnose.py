"""All that `diagnose` draws, in the order of the questions: does it learn, remember, hold?"""

from __future__ import annotations

import numpy as np

from training.insight.evaluation import Evaluation, Subject
from training.insight.gates import LONGEST, draw_gates, draw_memory, look
from training.insight.gradients import draw_gradients
from training.insight.picture import Picture
from training.insight.positions import draw_history, draw_positions
from training.insight.trace import trace
from training.table.session import Session


def diagnose(subject: Subject, evaluation: Evaluation) -> list[Picture]:
    """Pictures of the trained network on its held-out sessions.

    Raises:
        TrainingError: the held-out sessions are too short.
    """
    shown = _telling(evaluation)
    return [
        draw_gradients(subject),
        draw_gates(subject, shown, trace(subject.network, shown.x).detached()),
        draw_memory(subject, look(subject.network, evaluation.sessions)),
        draw_positions(evaluation),
        draw_history(subject, evaluation),
    ]


def _telling(evaluation: Evaluation) -> Session:
    """The beginning of a session of middling length, with as many classes as there are in one."""
    ordered = sorted(evaluation.sessions, key=len)
    middle = ordered[len(ordered) // 4 :]
    if evaluation.target.classes:
        middle = sorted(middle, key=_classes, reverse=True)
    return middle[0].part(0, LONGEST)


def _classes(session: Session) -> int:
    y = session.y[:LONGEST, 0]
    return len(np.unique(y[~np.isnan(y)]))
