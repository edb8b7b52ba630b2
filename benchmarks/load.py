"""What every load checks: one session's outputs are compared with the NumPy LSTM's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.models import H64
from training.reference import NumpyNetwork

Floats = NDArray[np.float32]
# Each session is fed these many different observations, in turn.
CYCLE = 4
TOLERANCE = 1e-5


class WrongAnswer(AssertionError):
    """A reply is not what the load's inputs ask for; the message says which."""


def check_outputs(observations: Floats, outputs: Floats, tolerance: float = TOLERANCE) -> int:
    """Compare outputs [T, O] of a session with the NumPy h64's; returns T.

    The session was fed `observations` [K, I] in turn, over and over, from its first step.

    Raises:
        WrongAnswer: an output is off by more than `tolerance`, or there is none.
    """
    if not len(outputs):
        raise WrongAnswer("no step was answered")
    inputs = np.resize(observations, (len(outputs), H64.inputs))
    model = NumpyNetwork(H64.weights())
    expected, _ = model.run(inputs, model.initial())
    error = np.abs(outputs - expected).max(axis=1)
    if not error.max() <= tolerance:
        raise WrongAnswer(f"step {int(error.argmax())} is off by {error.max():.2g}")
    return len(outputs)


class FollowedSession:
    """All outputs of one of a load's sessions, which is fed `observations` [K, I] in turn."""

    def __init__(self, observations: Floats) -> None:
        self._observations = observations
        self._outputs: list[Floats] = []

    def answered(self, outputs: Floats) -> None:
        """Keep the outputs [O] of the session's next step."""
        self._outputs.append(outputs)

    def check(self, tolerance: float = TOLERANCE) -> int:
        """Compare them with the NumPy h64's; returns how many steps that was.

        Raises:
            WrongAnswer: as `check_outputs`.
        """
        outputs = np.array(self._outputs, np.float32)
        return check_outputs(self._observations, outputs, tolerance)
