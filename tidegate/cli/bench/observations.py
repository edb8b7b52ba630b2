"""Random observations, drawn before the load begins: drawing is not what is measured."""

from collections.abc import Iterator

import numpy as np

from tidegate.model import FloatArray

STEPS = 4096
"""Drawn steps; all sessions read them, each from a place of its own."""


class Observations:
    """Standard normal values, what normalised features look like."""

    def __init__(self, features: int, chunk: int) -> None:
        self._chunk = chunk
        drawn = np.random.default_rng().standard_normal((STEPS + chunk, features))
        self._drawn = drawn.astype(np.float32)

    def of(self, number: int) -> Iterator[FloatArray]:
        """The endless observations of one session: [I], or [chunk, I]."""
        at = number * 977 % STEPS  # a prime, so that neighbours begin far apart
        while True:
            yield self._drawn[at] if self._chunk == 1 else self._drawn[at : at + self._chunk]
            at = (at + self._chunk) % STEPS
