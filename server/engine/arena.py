"""An arena: one state tensor of all sessions, a row a slot, in the host's memory. Row 0 is scratch.

Graphs bind it as input and as output at once, so onnxruntime updates it in place (see `graph`).
"""

from __future__ import annotations

import numpy as np
import onnxruntime

from server.bundle.manifest import State


class Arena:
    """The buffer `[capacity + 1, *state.shape]` behind `state.<name>`."""

    def __init__(self, state: State, rows: int) -> None:
        shape = (rows, *state.shape)
        # The OrtValue lies on top of this array: pages are touched as slots are used.
        self._zeros = np.zeros(shape, dtype=state.dtype)
        self.name = state.name
        self.value = onnxruntime.OrtValue.ortvalue_from_numpy(self._zeros)
        self.nbytes = self._zeros.nbytes

    @property
    def address(self) -> int:
        """Where the buffer begins."""
        return int(self.value.data_ptr())
