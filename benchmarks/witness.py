"""Follows one session of a load and compares its every output with the NumPy LSTM."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.network import Network
from training.reference import NumpyNetwork

Floats = NDArray[np.float32]
TOLERANCE = 1e-5


class WrongAnswer(AssertionError):
    """A reply is not what the load's inputs ask for; the message says which."""


class Witness:
    """Outputs of one session that is fed `observations` [K, I] in turn, over and over."""

    def __init__(self, observations: Floats) -> None:
        self._observations = observations
        self._outputs: list[Floats] = []

    def see(self, outputs: Floats) -> None:
        """Note the outputs [O] of the session's next step."""
        self._outputs.append(outputs)

    def check(self, weights: Network) -> int:
        """Compare all that was seen; returns how many steps that was.

        Raises:
            WrongAnswer: an output is off by more than 1e-5, or nothing was seen.
        """
        if not self._outputs:
            raise WrongAnswer("no step was answered")
        count = len(self._outputs)
        inputs = np.resize(self._observations, (count, self._observations.shape[1]))
        model = NumpyNetwork(weights)
        expected, _ = model.run(inputs, model.initial())
        error = np.abs(np.stack(self._outputs) - expected).max(axis=1)
        if not error.max() <= TOLERANCE:
            raise WrongAnswer(f"step {int(error.argmax())} is off by {error.max():.2g}")
        return count
