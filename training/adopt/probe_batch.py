"""May sessions be stepped side by side? Several rows of one run, against each row alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training.adopt.close import apart
from training.adopt.plain import Rows
from training.adopt.probe import Probe
from training.errors import TrainingError
from training.network import Floats

ROWS, STEPS = 5, 20
TOGETHER = tuple(range(1, ROWS + 1))
ALONE = tuple(range(ROWS + 1, 2 * ROWS + 1))


def why_alone(probe: Probe) -> str:
    """Why sessions must be stepped one at a time, or '' where they need not."""
    if probe.plan.fixed:
        return probe.plan.fixed
    _set_apart(probe)
    for k in range(STEPS):
        frames = probe.draw(ROWS)
        # Some begin in the midst of the others.
        fresh = [k == 5 * row for row in range(ROWS)]
        problem = _step(probe, frames, fresh)
        if problem:
            return problem
    return ""


def _set_apart(probe: Probe) -> None:
    """Give each row a history of its own, by steps alone."""
    for row, slot in enumerate(TOGETHER):
        for k, frame in enumerate(probe.draw(row + 2)):
            probe.candidate.step([slot], frame[None], [k == 0])


def _step(probe: Probe, frames: Floats, fresh: list[bool]) -> str:
    """One step of all rows, from the same states together and alone."""
    candidate = probe.candidate
    candidate.put(candidate.rows(*TOGETHER), *ALONE)
    try:
        together = candidate.step(TOGETHER, frames, fresh)
    except TrainingError as error:
        return f"in a run of {ROWS} sessions {error}"
    alone = [
        candidate.step([slot], frames[row : row + 1], fresh[row : row + 1])[0]
        for row, slot in enumerate(ALONE)
    ]
    if together.shape[0] != ROWS:
        return f"a run of {ROWS} sessions gives {together.shape[0]} outputs"
    return _difference(probe, together, np.stack(alone))


def _difference(probe: Probe, together: Floats, alone: Floats) -> str:
    found = {"the outputs": together, **_states(probe, TOGETHER)}
    expected = {"the outputs": alone, **_states(probe, ALONE)}
    for what, values in found.items():
        difference = apart([values], [expected[what]])
        if difference > probe.limit:
            return f"{what} of {ROWS} sessions in one run are {difference:.1e} off theirs alone"
    return ""


def _states(probe: Probe, slots: Sequence[int]) -> Rows:
    return {f"state {name!r}": row for name, row in probe.candidate.rows(*slots).items()}
