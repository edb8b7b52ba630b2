"""A forecast: what a session would answer next, rolled forward from a copy of its state.

It runs in the arena's scratch row, a few steps between two runs, and keeps the state on the host
meanwhile, so that a long forecast holds nobody up.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from server.bundle.manifest import Manifest
from server.engine.engine import Engine, EngineRows
from server.errors import BadInput, NotFinite
from server.names import own
from server.sessions import validation

Floats = NDArray[np.float32]

SCRATCH = np.zeros(1, dtype=np.int64)
STEPS_A_TURN = 32
SECONDS_A_TURN = 2e-3  # a large model's turn ends sooner, after the run that passed this


class Forecast:
    """`steps` steps ahead: `given` features [m, I] first, then the outputs fed back.

    Raises:
        BadInput: there is nothing to feed the steps after those given with.
    """

    def __init__(self, manifest: Manifest, steps: int, given: Floats) -> None:
        self._manifest, self._given = manifest, given
        self._outputs = np.empty((steps, manifest.outputs_width), dtype=np.float32)
        self._done = 0
        self._states: list[NDArray[np.float32]] = []
        self._fresh = False
        self._session_id = ""
        _check(manifest, steps, given)

    def start(self, session_id: str, states: list[Floats], fresh: bool, last: Floats) -> None:
        """Take over the state to begin from, rows [1, ...], and the latest output [0 or 1, O].

        Raises:
            BadInput: no features are given and the session has no output to begin with.
        """
        self._session_id, self._states, self._fresh = session_id, states, fresh
        self._last = last
        if not len(self._given) and not len(last):
            lacks = "has no output yet" if fresh else "came here without its latest output"
            raise BadInput(
                f"session {own(session_id)!r} {lacks}: give the first step's features",
                field="features",
            )

    @property
    def outputs(self) -> Floats | None:
        """The outputs [steps, O], once all are there."""
        return self._outputs if self._done == len(self._outputs) else None

    def advance(self, engine: Engine) -> None:
        """A few more steps, between two runs.

        Raises:
            NotFinite: the model overflowed on the way.
        """
        if self._states:
            engine.write(SCRATCH, self._states)
        end = min(len(self._outputs), self._done + STEPS_A_TURN)
        until = time.monotonic() + SECONDS_A_TURN
        while self._done < end:
            self._run(engine, self._next()[: end - self._done])
            if time.monotonic() > until:
                break
        self._states = engine.read(SCRATCH)

    def _next(self) -> Floats:
        """Features of the next run [T, I]: what is given in one go, fed outputs one by one."""
        given = self._given[self._done : self._done + self._manifest.max_chunk]
        if len(given):
            return given
        before = self._outputs[self._done - 1] if self._done else self._last[0]
        fed: Floats = before[None, list(self._manifest.feedback or ())]
        return fed

    def _run(self, engine: Engine, features: Floats) -> None:
        rows = EngineRows(
            slots=SCRATCH,
            fresh=np.array([self._fresh]),
            lengths=np.array([len(features)], dtype=np.int32),
            features=np.ascontiguousarray(features[None]),
        )
        outputs = engine.run(rows)[0]
        if not np.isfinite(outputs).all():
            raise NotFinite(self._session_id)
        self._outputs[self._done : self._done + len(features)] = outputs
        self._done += len(features)
        self._fresh = False


def _check(manifest: Manifest, steps: int, given: Floats) -> None:
    if len(given) > steps:
        text = f"features of {len(given)} steps are given for a forecast of {steps}"
        raise BadInput(text, field="features")
    if len(given) < steps and manifest.feedback is None:
        raise BadInput(
            f"model {manifest.name!r} does not put out all of its features, so none can be fed "
            f"back: give the features of all {steps} steps, not of {len(given)}",
            field="features",
        )
    if problem := validation.problem(given, manifest):
        raise problem
