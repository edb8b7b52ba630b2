"""All that `diagnose` draws, in the order of the questions: does it learn, remember, hold?"""

from __future__ import annotations

import numpy as np

from training.insight.gates import draw_gates
from training.insight.gradients import draw_gradients
from training.insight.history import draw_history
from training.insight.judged import Judged
from training.insight.memory import LONGEST, draw_memory, look
from training.insight.picture import Picture
from training.insight.positions import draw_positions
from training.insight.subject import Subject
from training.insight.walk import walk
from training.table.session import Session


def diagnose(subject: Subject, judged: Judged) -> list[Picture]:
    """Pictures of the trained network on its held-out sessions.

    Raises:
        TrainingError: the held-out sessions are too short.
    """
    shown = _telling(judged)
    return [
        draw_gradients(subject),
        draw_gates(subject, shown, walk(subject.network, shown.x).detached()),
        draw_memory(subject, look(subject.network, judged.sessions)),
        draw_positions(judged),
        draw_history(subject, judged),
    ]


def _telling(judged: Judged) -> Session:
    """The beginning of a session of middling length, with as many classes as there are in one."""
    ordered = sorted(judged.sessions, key=len)
    middle = ordered[len(ordered) // 4 :]
    if judged.target.classes:
        middle = sorted(middle, key=_classes, reverse=True)
    return middle[0].part(0, LONGEST)


def _classes(session: Session) -> int:
    y = session.y[:LONGEST, 0]
    return len(np.unique(y[~np.isnan(y)]))
