"""The LSTM in plain NumPy, written from its equations (Gers, Schmidhuber & Cummins 2000).

For an observation x and a session's hidden and cell state h, c:

    f = sigmoid(W_f x + R_f h + b_f)      forget gate: how much of the cell to keep
    i = sigmoid(W_i x + R_i h + b_i)      input gate: how much of the candidate to let in
    o = sigmoid(W_o x + R_o h + b_o)      output gate: how much of the cell to show
    g = tanh(W_g x + R_g h + b_g)         candidate
    c' = f * c + i * g
    h' = o * tanh(c')

Every other implementation here is compared with this one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.network import Layer, Network

Array = NDArray[np.floating]
State = list[tuple[Array, Array]]


class NumpyNetwork:
    """Steps one session at a time, in float32 or float64."""

    def __init__(self, weights: Network, dtype: type[np.floating] = np.float32) -> None:
        self._weights, self._dtype = weights, dtype

    def initial(self) -> State:
        """The state before the first step: zeros."""
        sizes = [layer.hidden for layer in self._weights.layers]
        return [(np.zeros(n, self._dtype), np.zeros(n, self._dtype)) for n in sizes]

    def run(self, x: Array, state: State) -> tuple[Array, State]:
        """Step through x [T, I]; returns outputs [T, O] and the state after the last step."""
        outputs = np.empty((len(x), self._weights.outputs), self._dtype)
        for t, observation in enumerate(x.astype(self._dtype)):
            outputs[t], state = self._step(observation, state)
        return outputs, state

    def _step(self, x: Array, state: State) -> tuple[Array, State]:
        weights = self._weights
        if weights.mirror is not None:
            x = x * (1 - 2 * x[weights.mirror.by] * np.array(weights.mirror.flip, self._dtype))
        signal = np.clip((x - weights.mean) / weights.std, -weights.clip, weights.clip)
        after: State = []
        for layer, (h, c) in zip(weights.layers, state, strict=True):
            signal, c = _cell(layer, signal.astype(self._dtype), h, c)
            after.append((signal, c))
        return self._head(signal), after

    def _head(self, hidden: Array) -> Array:
        logits = self._weights.head_w.astype(self._dtype) @ hidden + self._weights.head_b
        if not self._weights.softmax:
            return np.asarray(logits)
        powers = np.exp(logits - logits.max())
        probabilities: Array = powers / powers.sum()
        return probabilities


def _cell(layer: Layer, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    sums = layer.w.astype(x.dtype) @ x + layer.r.astype(x.dtype) @ h + layer.b
    i, f, g, o = np.split(sums, 4)
    c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
    return _sigmoid(o) * np.tanh(c), c


def _sigmoid(x: Array) -> Array:
    return np.asarray((1.0 + np.tanh(0.5 * x)) * 0.5)
