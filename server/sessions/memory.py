"""Remembered replies: for each slot a ring of the last outputs, with a fingerprint of their inputs.

A retried step is answered from here and moves nothing. The fingerprint tells a retry (the same
features) from another observation sent under a number already used.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Memory:
    """Outputs of the last `depth` steps of every slot."""

    def __init__(self, capacity: int, depth: int, inputs: int, outputs: int) -> None:
        self.depth = depth
        self._outputs = np.zeros((capacity + 1, depth, outputs), dtype=np.float32)
        self._prints = np.zeros((capacity + 1, depth), dtype=np.uint64)
        # Odd multipliers make each feature's contribution reversible modulo 2**64.
        draws = np.random.default_rng(20240229).integers(1 << 62, size=inputs, dtype=np.uint64)
        self._weights = draws * np.uint64(2) + np.uint64(1)

    def keep(
        self,
        slots: NDArray[np.int64],
        counts: NDArray[np.int64],
        lengths: NDArray[np.int32],
        features: Floats,
        outputs: Floats,
    ) -> None:
        """Keep steps counts..counts+lengths of each slot: features [B, T, I], outputs [B, T, O]."""
        prints = self._fingerprints(features)
        for t in range(features.shape[1]):
            rows = slice(None) if t == 0 else np.flatnonzero(lengths > t)
            at = (counts[rows] + t) % self.depth
            self._outputs[slots[rows], at] = outputs[rows, t]
            self._prints[slots[rows], at] = prints[rows, t]

    def recall(self, slot: int, first: int, features: Floats) -> Floats | None:
        """Outputs of the steps from `first` on, or None where their features [T, I] were others."""
        at = (first + np.arange(len(features))) % self.depth
        if np.any(self._prints[slot, at] != self._fingerprints(features)):
            return None
        outputs: Floats = self._outputs[slot, at]
        return outputs

    def _fingerprints(self, features: Floats) -> NDArray[np.uint64]:
        bits = np.ascontiguousarray(features).view(np.uint32).astype(np.uint64)
        return (bits + np.uint64(1)) @ self._weights
