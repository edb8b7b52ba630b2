"""The original file stepped by plain onnxruntime, a session at a time: what imports must equal."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.adopt.original import Original
from training.adopt.plan import Output, Plan, State
from training.errors import TrainingError
from training.network import Floats

Rows = dict[str, NDArray[Any]]


def run_once(
    original: Original, plan: Plan, frame: Floats, rows: Rows
) -> tuple[list[NDArray[Any]], Rows]:
    """One step of a session: the frame [width] and its states' rows [1, ...] by their names in the
    bundle. Returns the outputs as the graph shapes them, and the next rows.

    Raises:
        TrainingError: it does not run, or a state comes out with another shape than it went in.
    """
    taken, outputs = plan.input, [each.name for each in plan.outputs]
    given = frame.reshape(1, *taken.row).astype(taken.dtype)
    feeds = {taken.name: np.moveaxis(given, 0, taken.axis), **plan.constants}
    feeds |= {each.enters: np.moveaxis(rows[each.name], 0, each.axis) for each in plan.states}
    got = original.run(feeds, [*outputs, *(each.leaves for each in plan.states)])
    after = zip(plan.states, got[len(outputs) :], strict=True)
    return got[: len(outputs)], {each.name: _row(each, left) for each, left in after}


class Plain:
    """One session of the original. `rows` is its state, and may be changed between steps."""

    def __init__(self, original: Original, plan: Plan) -> None:
        self._original, self._plan = original, plan
        self.rows = plan.start()

    def step(self, sent: Floats) -> Floats:
        """One observation as callers send it; the outputs side by side, float32 [O]."""
        plan = self._plan
        before = self.rows[plan.context_name][0] if plan.context else np.empty(0, np.float32)
        frame = np.concatenate([before, sent])
        got, self.rows = run_once(self._original, plan, frame, self.rows)
        if plan.context:
            self.rows[plan.context_name] = frame[None, -plan.context :]
        return np.concatenate(list(map(_flat, plan.outputs, got)))


def _row(state: State, left: NDArray[Any]) -> NDArray[Any]:
    whole = [*state.row[: state.axis], 1, *state.row[state.axis :]]
    if list(left.shape) != whole:
        raise TrainingError(
            f"state {state.enters!r} is {whole} for one session, "
            f"and {state.leaves!r} comes out as {list(left.shape)}"
        )
    return np.ascontiguousarray(np.moveaxis(left, state.axis, 0))


def _flat(output: Output, value: NDArray[Any]) -> Floats:
    with np.errstate(over="ignore"):  # too large for float32 is infinite here as in the graph
        return np.moveaxis(np.atleast_1d(value), output.axis, 0).astype(np.float32).ravel()
