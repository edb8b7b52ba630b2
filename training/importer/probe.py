"""Does the merged graph do what the file does? Both are stepped before anything is written.

The merged graphs run in the server's own engine, so that what is probed is served: first a session
alone, beside the original; then several rows of one run, against each row alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.engine.device import Device
from server.engine.engine import Engine, EngineRows
from server.errors import BadModel
from training.errors import TrainingError
from training.graphs.stepping import engine_of
from training.importer.original import Original, Plain, Values, first_line
from training.importer.plan import Plan
from training.network import Floats

CPU = Device("cpu")
FINE, COARSE = 1e-5, 1e-2
"""How far values may be apart, in shares of the largest; coarse where float16 is at an edge."""

ROUNDED = 1e-3
ROUNDING = (
    ". That may be rounding of inputs unlike the model's: say what range they have with "
    "--range=LOW,HIGH, and it may be batched"
)

STEPS, AHEAD = 50, 8
HISTORIES = (1, 2, 3, 5, 8, 13, 21)
MAIN, OTHER = 1, 2

ROWS, STEPS_TOGETHER = 5, 20
TOGETHER = tuple(range(1, ROWS + 1))
ALONE = tuple(range(ROWS + 1, 2 * ROWS + 1))


@dataclass(frozen=True)
class Frames:
    """Evenly drawn from `low` to `high` where they are given; else normal, or 0 and 1 where the
    graph takes whole numbers."""

    span: tuple[float, float] | None = None
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def draw(self, count: int, width: int, dtype: str) -> Floats:
        """`count` frames [count, width]."""
        shape = (count, width)
        whole = np.dtype(dtype).kind != "f"
        if self.span is None and not whole:
            return self.rng.normal(0.0, 1.0, shape).astype(np.float32)
        low, high = self.span or (0.0, 1.0)
        if whole:
            return self.rng.integers(int(low), int(high) + 1, shape).astype(np.float32)
        return self.rng.uniform(low, high, shape).astype(np.float32)

    def entry(self, dtype: str) -> dict[str, float]:
        """How a feature lies, as its entry in the manifest says it."""
        if self.span is None and np.dtype(dtype).kind == "f":
            return {"mean": 0.0, "std": 1.0}
        low, high = self.span or (0.0, 1.0)
        return {"mean": (low + high) / 2, "std": (high - low) / 4, "min": low, "max": high}


def apart(found: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]) -> float:
    """The largest difference, in shares of the largest value expected; infinite where only one of
    the two is a number."""
    ours, theirs = (np.stack(list(each)).astype(np.float64) for each in (found, expected))
    if not np.array_equal(np.isfinite(ours), np.isfinite(theirs)):
        return float("inf")
    gone = ~np.isfinite(theirs)
    ours[gone] = theirs[gone] = 0.0
    largest = float(np.abs(theirs).max(initial=0.0))
    return float(np.abs(ours - theirs).max(initial=0.0)) / (largest or 1.0)


@dataclass(frozen=True)
class Candidate:
    """Sessions in slots 1, 2, ... of an engine."""

    engine: Engine

    @property
    def names(self) -> list[str]:
        """The states'."""
        return [arena.name for arena in self.engine.arenas]

    def step(self, slots: Sequence[int], frames: Floats, fresh: Sequence[bool]) -> Floats:
        """One step of each slot: frames [B, F] -> outputs [B, O].

        Raises:
            TrainingError: onnxruntime cannot run it.
        """
        lengths = np.ones(len(slots), np.int32)
        features = np.ascontiguousarray(frames[:, None])
        rows = EngineRows(np.array(slots, np.int64), np.array(fresh), lengths, features)
        try:
            return np.array(self.engine.run(rows)[:, 0])
        except RuntimeError as error:
            raise TrainingError(f"the graph does not run: {first_line(error)}") from error

    def rows(self, *slots: int) -> Values:
        """The states of the slots, by name."""
        found = self.engine.read(np.array(slots, np.int64))
        return {name: np.array(row) for name, row in zip(self.names, found, strict=True)}

    def put(self, rows: Values, *slots: int) -> None:
        """Write the states of the slots."""
        self.engine.write(np.array(slots, np.int64), [rows[name] for name in self.names])


def make_engine(manifest: Mapping[str, Any], files: Mapping[str, bytes], sessions: int) -> Engine:
    """The merged graphs as the server would run them on the CPU.

    Raises:
        TrainingError: the manifest is malformed, or onnxruntime does not load a graph.
    """
    try:
        return engine_of(manifest, files, sessions, CPU)
    except BadModel as error:
        raise TrainingError(str(error).splitlines()[0]) from error


@dataclass(frozen=True)
class Stepped:
    """What a session saw and answered, and its state at the end."""

    frames: Floats
    outputs: list[Floats]
    end: Values


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
    stepped, difference = _beside_original(probe)
    _check_fresh(probe, stepped)
    _check_states(probe, stepped)
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


def _beside_original(probe: Probe) -> tuple[Stepped, float]:
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
    return Stepped(frames, outputs, rows), largest


def _check_finite(k: int, outputs: Floats, rows: Values) -> None:
    named = {"an output": outputs} | {f"state {name!r}": row for name, row in rows.items()}
    for what, values in named.items():
        if not np.isfinite(values).all():
            raise TrainingError(f"{what} is not finite at random step {k}: say what range the "
                                "inputs have with --range=LOW,HIGH")  # fmt: skip


def _check_fresh(probe: Probe, stepped: Stepped) -> None:
    """The slot still holds the state that those steps ended with."""
    for k, frame in enumerate(stepped.frames):
        again = probe.candidate.step([MAIN], frame[None], [k == 0])[0]
        if apart([again], [stepped.outputs[k]]) > probe.limit:
            raise TrainingError("a new session does not begin with the initial state")


def _check_states(probe: Probe, stepped: Stepped) -> None:
    """Other values of a state, from another session or the beginning, must change an output."""
    others, ahead = _histories(probe), probe.draw(AHEAD)
    usual = _outputs(probe, stepped.end, ahead)
    for name in probe.candidate.names:
        changed = ({**stepped.end, name: each[name]} for each in others)
        if all(np.array_equal(_outputs(probe, rows, ahead), usual) for rows in changed):
            raise TrainingError(
                f"state {name!r} does not matter: other values in it changed no output"
            )


def _histories(probe: Probe) -> list[Values]:
    found, frames = [probe.plan.start()], probe.draw(max(HISTORIES))
    for k, frame in enumerate(frames):
        probe.candidate.step([OTHER], frame[None], [k == 0])
        if k + 1 in HISTORIES:
            found.append(probe.candidate.rows(OTHER))
    return found


def _outputs(probe: Probe, rows: Values, frames: Floats) -> Floats:
    probe.candidate.put(rows, OTHER)
    steps = [probe.candidate.step([OTHER], frame[None], [False]) for frame in frames]
    return np.concatenate(steps)


def why_alone(probe: Probe) -> str:
    """Why sessions must be stepped one at a time, or '' where they need not."""
    if probe.plan.fixed:
        return probe.plan.fixed
    _set_apart(probe)
    for k in range(STEPS_TOGETHER):
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
            said = f"{what} of {ROWS} sessions in one run are {difference:.1e} off theirs alone"
            return said + (ROUNDING if difference < ROUNDED and not probe.frames.span else "")
    return ""


def _states(probe: Probe, slots: Sequence[int]) -> Values:
    return {f"state {name!r}": row for name, row in probe.candidate.rows(*slots).items()}
