"""Observations to stream, and what the model makes of them by the equations."""

import numpy as np

from tests.client.bundles import EXERCISE
from tidegate.model import FloatArray
from training.reference import NumpyNetwork

TOLERANCE = 1e-5


def observations(steps: int, seed: int = 0) -> FloatArray:
    """Raw features, [steps, 6]."""
    draws = np.random.default_rng(seed).normal(size=(steps, EXERCISE.inputs))
    return draws.astype(np.float32)


def expected(features: FloatArray) -> FloatArray:
    """The outputs of a session that saw exactly these."""
    lstm = NumpyNetwork(EXERCISE)
    return lstm.run(features, lstm.initial())[0].astype(np.float32)


def assert_close(outputs: FloatArray, wanted: FloatArray) -> None:
    """Outputs as the equations have them."""
    assert outputs.dtype == np.float32
    assert outputs.shape == wanted.shape
    np.testing.assert_allclose(outputs, wanted, rtol=0, atol=TOLERANCE)
