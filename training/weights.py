"""A trained LSTM as plain arrays: what the trainer hands to the graphs and to the reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class LstmLayer:
    """One layer: w [4H, I], r [4H, H], b [4H]; rows in blocks for gates i, f, g, o, as in torch."""

    w: Floats
    r: Floats
    b: Floats

    @property
    def hidden(self) -> int:
        """Units in the layer."""
        return int(self.r.shape[1])


@dataclass(frozen=True)
class Mirror:
    """Features to negate where feature `by` is 1 (and to leave where it is 0); flip [I] is 0 or 1.

    A watch on the other arm sees a movement's mirror image; with this, both arms train one model.
    """

    by: int
    flip: tuple[float, ...]


@dataclass(frozen=True)
class LstmWeights:
    """Mirror, normalise by mean and std [I], clip to ±clip, layers, linear head [O, H], softmax."""

    mean: Floats
    std: Floats
    clip: float
    layers: tuple[LstmLayer, ...]
    head_w: Floats
    head_b: Floats
    softmax: bool
    mirror: Mirror | None = None

    @property
    def inputs(self) -> int:
        """Features in one observation."""
        return len(self.mean)

    @property
    def outputs(self) -> int:
        """Values in one step's output."""
        return len(self.head_b)


def random_weights(
    inputs: int, hidden: int, layers: int, outputs: int, seed: int, softmax: bool = True
) -> LstmWeights:
    """Weights drawn as torch draws them, for tests and measurements."""
    rng = np.random.default_rng(seed)
    bound = hidden**-0.5

    def draw(*shape: int) -> Floats:
        return rng.uniform(-bound, bound, shape).astype(np.float32)

    stack = [
        LstmLayer(
            draw(4 * hidden, inputs if depth == 0 else hidden),
            draw(4 * hidden, hidden),
            draw(4 * hidden),
        )
        for depth in range(layers)
    ]
    mean = rng.normal(size=inputs).astype(np.float32)
    std = rng.uniform(0.5, 2.0, inputs).astype(np.float32)
    return LstmWeights(mean, std, 20.0, tuple(stack), draw(outputs, hidden), draw(outputs), softmax)
