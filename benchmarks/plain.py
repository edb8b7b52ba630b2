"""onnxruntime with nothing of ours around it: ONNX's LSTM operator, its states handed in and out.

What one would write who served a single caller: no sessions, no numbers, nothing remembered. The
weights are those of the measured model, so that its answers can be compared.
"""

from __future__ import annotations

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto

from benchmarks.models import Shape
from training.graphs.builder import FLOAT, Builder, value
from training.graphs.encode import encode
from training.graphs.layers import Cell, operator_over_time
from training.graphs.whole import OPSETS

Floats = NDArray[np.float32]


class PlainLstm:
    """A model of one layer, for `batch` callers who step together, all from the start."""

    def __init__(self, shape: Shape, batch: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            _graph(shape).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._h = self._c = np.zeros((batch, shape.hidden), np.float32)

    def step(self, features: Floats) -> Floats:
        """The next step of all: features f32 [B, I] to outputs f32 [B, O]."""
        given = {"input": features, "h": self._h, "c": self._c}
        output, self._h, self._c = self._session.run(["output", "h.next", "c.next"], given)
        return np.asarray(output)


def _graph(shape: Shape) -> ModelProto:
    network, b = shape.weights(), Builder()
    row = b.unsqueeze(encode(b, network, "input"), 0)
    cell, state = Cell(network.layers[0], 0, "float32"), {"h": "h", "c": "c"}
    _, after = operator_over_time(b, cell, row, "", state)
    head = (b.constant("head_w", network.head_w.T), b.constant("head_b", network.head_b))
    b.add("Gemm", after["h"], *head, outputs=["output"])
    for name in state:
        b.add("Identity", after[name], outputs=[f"{name}.next"])
    states = [value(name, FLOAT, "B", shape.hidden) for name in state]
    following = [value(f"{name}.next", FLOAT, "B", shape.hidden) for name in state]
    inputs = [value("input", FLOAT, "B", shape.inputs), *states]
    outputs = [value("output", FLOAT, "B", network.outputs), *following]
    return b.model("plain", inputs, outputs, OPSETS[0])
