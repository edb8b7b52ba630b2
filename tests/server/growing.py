"""A model that overflows: its output passes the largest float32 at the third step of 0.3."""

from __future__ import annotations

import numpy as np

from training.network import Layer, Network


def growing() -> Network:
    """One feature, two units whose cells grow by tanh(x) a step, one output of 3e38 (h + h)."""
    gates = [40.0, 40.0, 0.0, 40.0]  # in and forget open, candidate tanh(x), out open
    layer = Layer(
        w=np.array([[0.0], [0.0], [1.0], [0.0]], np.float32).repeat(2, axis=0),
        r=np.zeros((8, 2), np.float32),
        b=np.array(gates, np.float32).repeat(2),
    )
    zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
    head = np.full((1, 2), 3e38, np.float32)
    return Network(zero, one, 20.0, (layer,), head, zero, softmax=False)
