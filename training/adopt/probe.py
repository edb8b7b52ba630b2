"""Does the merged graph do what the file does? Both are stepped before anything is written."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.adopt.candidate import Candidate
from training.adopt.close import COARSE, FINE, apart
from training.adopt.frames import Frames
from training.adopt.original import Original
from training.adopt.plain import Plain, Rows
from training.adopt.plan import Plan
from training.errors import TrainingError
from training.network import Floats

STEPS = 50
HISTORIES = (1, 2, 3, 5, 8, 13, 21)
AHEAD = 8
MAIN, OTHER = 1, 2


@dataclass(frozen=True)
class Walk:
    """What a session saw and answered, and its state at the end."""

    frames: Floats
    outputs: list[Floats]
    end: Rows


@dataclass(frozen=True)
class Probe:
    """The candidate beside the original."""

    candidate: Candidate
    original: Original
    plan: Plan
    frames: Frames

    @property
    def limit(self) -> float:
        """How far values may be apart."""
        return COARSE if self.plan.coarse else FINE

    def draw(self, count: int) -> Floats:
        """Random observations as callers send them."""
        return self.frames.draw(count, self.plan.sent, self.plan.input.dtype)


def probe_steps(probe: Probe) -> float:
    """All that must hold of a session alone; the largest difference from the original.

    Raises:
        TrainingError: the first that does not hold.
    """
    _check_same_twice(probe)
    walk, difference = _beside_original(probe)
    _check_fresh(probe, walk)
    _check_states(probe, walk)
    return difference


def _check_same_twice(probe: Probe) -> None:
    candidate, frames = probe.candidate, probe.draw(2)
    candidate.step([MAIN], frames[:1], [True])
    start = candidate.rows(MAIN)
    first = candidate.step([MAIN], frames[1:], [False]), candidate.rows(MAIN)
    candidate.put(start, MAIN)
    second = candidate.step([MAIN], frames[1:], [False]), candidate.rows(MAIN)
    outputs = apart([first[0]], [second[0]])
    states = [apart([first[1][name]], [second[1][name]]) for name in candidate.names]
    if max(outputs, *states) > probe.limit:
        raise TrainingError("the graph is random: a step made twice gave two results")


def _beside_original(probe: Probe) -> tuple[Walk, float]:
    """Step by step from the same state, so that roundings do not add up."""
    plain, frames = Plain(probe.original, probe.plan), probe.draw(STEPS)
    outputs, largest = [], 0.0
    for k, frame in enumerate(frames):
        expected = plain.step(frame)
        outputs.append(probe.candidate.step([MAIN], frame[None], [k == 0])[0])
        rows = probe.candidate.rows(MAIN)
        _check_finite(k, expected, plain.rows)
        differences = {"the outputs": apart([outputs[-1]], [expected])}
        for name, row in rows.items():
            differences[f"state {name!r}"] = apart([row], [plain.rows[name]])
        for what, difference in differences.items():
            if difference > probe.limit:
                raise TrainingError(f"{what} of step {k} differ from the original's by "
                                    f"{difference:.1e} of the largest value")  # fmt: skip
        largest = max(largest, *differences.values())
        plain.rows = rows
    return Walk(frames, outputs, rows), largest


def _check_finite(k: int, outputs: Floats, rows: Rows) -> None:
    named = {"an output": outputs} | {f"state {name!r}": row for name, row in rows.items()}
    for what, values in named.items():
        if not np.isfinite(values).all():
            raise TrainingError(f"{what} is not finite at random step {k}: say what range the "
                                "inputs have with --range LOW,HIGH")  # fmt: skip


def _check_fresh(probe: Probe, walk: Walk) -> None:
    """The slot still holds the state that the walk ended with."""
    for k, frame in enumerate(walk.frames):
        again = probe.candidate.step([MAIN], frame[None], [k == 0])[0]
        if apart([again], [walk.outputs[k]]) > probe.limit:
            raise TrainingError("a new session does not begin with the initial state")


def _check_states(probe: Probe, walk: Walk) -> None:
    """Other values of a state, from another session or the beginning, must change an output."""
    others, ahead = _histories(probe), probe.draw(AHEAD)
    usual = _outputs(probe, walk.end, ahead)
    for name in probe.candidate.names:
        changed = ({**walk.end, name: each[name]} for each in others)
        if all(np.array_equal(_outputs(probe, rows, ahead), usual) for rows in changed):
            raise TrainingError(
                f"state {name!r} does not matter: other values in it changed no output"
            )


def _histories(probe: Probe) -> list[Rows]:
    found, frames = [probe.plan.start()], probe.draw(max(HISTORIES))
    for k, frame in enumerate(frames):
        probe.candidate.step([OTHER], frame[None], [k == 0])
        if k + 1 in HISTORIES:
            found.append(probe.candidate.rows(OTHER))
    return found


def _outputs(probe: Probe, rows: Rows, frames: Floats) -> Floats:
    probe.candidate.put(rows, OTHER)
    steps = [probe.candidate.step([OTHER], frame[None], [False]) for frame in frames]
    return np.concatenate(steps)
