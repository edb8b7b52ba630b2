"""An arena: one state tensor of all sessions, a row a slot, on the device. Row 0 is scratch.

Graphs bind it as input and as output at once, so onnxruntime updates it in place (see `graph`).
"""

from __future__ import annotations

import numpy as np
import onnxruntime

from server.bundle.manifest import State
from server.engine.device import Device


class Arena:
    """The buffer `[capacity + 1, *state.shape]` behind `state.<name>`."""

    def __init__(self, state: State, capacity: int, device: Device) -> None:
        shape = (capacity + 1, *state.shape)
        # On the CPU the OrtValue lies on top of this array: pages are touched as slots are used.
        self._zeros = np.zeros(shape, dtype=state.dtype)
        self.name = state.name
        self.value = onnxruntime.OrtValue.ortvalue_from_numpy(
            self._zeros, device.kind, device.index
        )
        self.nbytes = self._zeros.nbytes
        if device.kind != "cpu":
            del self._zeros
