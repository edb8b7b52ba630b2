"""h64 for Triton's Python backend: the state of each sequence by its correlation id, in numpy.

Runs inside tritonserver. All requests that the sequence batcher hands over at once are stepped as
one batch, so that the numpy work is a few matrix products whatever their number.
"""

from pathlib import Path

import numpy as np
import triton_python_backend_utils as backend


class TritonPythonModel:
    """One layer of an LSTM and a linear head, as training/reference.py has them."""

    def initialize(self, args):
        """Read the weights beside this file."""
        folder = Path(args["model_repository"]) / args["model_version"]
        weights = np.load(folder / "weights.npz")
        self.mean, self.std, self.clip = weights["mean"], weights["std"], weights["clip"]
        self.kernel = np.concatenate([weights["w"], weights["r"]], axis=1).T.copy()
        self.bias = weights["b"]
        self.head, self.head_bias = weights["head_w"].T.copy(), weights["head_b"]
        self.hidden = weights["r"].shape[1]
        self.rows = {}
        self.free = list(range(8192))
        self.h = np.zeros((8192, self.hidden), np.float32)
        self.c = np.zeros((8192, self.hidden), np.float32)

    def execute(self, requests):
        """One step of each request's sequence."""
        x = np.concatenate([_tensor(each, "input") for each in requests])
        rows = np.array([self.row(each) for each in requests])
        y = self.step(x, rows)
        return [
            backend.InferenceResponse([backend.Tensor("y", y[k : k + 1])])
            for k in range(len(requests))
        ]

    def row(self, request):
        """Where the sequence's state lies; zeros at its start."""
        sequence = int(_tensor(request, "CORRID")[0, 0])
        if _tensor(request, "START")[0, 0]:
            row = self.rows[sequence] = self.free.pop()
            self.h[row] = self.c[row] = 0.0
        row = self.rows[sequence]
        if _tensor(request, "END")[0, 0]:
            # At the far end, so that no START in this batch takes it.
            self.free.insert(0, self.rows.pop(sequence))
        return row

    def step(self, x, rows):
        """The equations of the cell, over a batch."""
        x = np.clip((x - self.mean) / self.std, -self.clip, self.clip)
        z = np.concatenate([x, self.h[rows]], axis=1) @ self.kernel + self.bias
        i, f, g, o = np.split(z, 4, axis=1)
        c = _sigmoid(f) * self.c[rows] + _sigmoid(i) * np.tanh(g)
        h = _sigmoid(o) * np.tanh(c)
        self.h[rows], self.c[rows] = h, c
        return (h @ self.head + self.head_bias).astype(np.float32)


def _tensor(request, name):
    return backend.get_input_tensor_by_name(request, name).as_numpy()


def _sigmoid(z):
    return 1.0 / (1.0 + np.exp(-z))
