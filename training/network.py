"""A trained network as plain arrays: what the trainer hands to the graphs and to the reference.

One observation x [F] of raw features goes through, in this order: the mirror; normalisation to
(x - mean) / std, clipped to ±clip; embeddings in place of categories; recurrent layers; a linear
head, whose outputs may be added to features; softmax, if the outputs are probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

GATES = {"lstm": 4, "gru": 3, "rnn": 1}


@dataclass(frozen=True)
class Layer:
    """One recurrent layer of H units, G gates a unit, P values out (P = H without a projection).

    w [G·H, I], r [G·H, P], b [G·H]; rows in blocks of gates as in torch: i, f, g, o (lstm),
    r, z, n (gru), one block (rnn, tanh). What b holds is the sum of torch's two biases, except for
    a gru, whose reset gate multiplies the recurrent one: that is `rb` [G·H].
    """

    w: Floats
    r: Floats
    b: Floats
    cell: str = "lstm"
    rb: Floats | None = None
    project: Floats | None = None
    """[P, H], lstm only: h = project @ (o * tanh(c)) (Sak, Senior & Beaufays 2014)."""
    residual: bool = False
    """Whether what the layer puts out is h + its input (of the same width); its state is h."""

    @property
    def hidden(self) -> int:
        """H: units in the layer."""
        return len(self.w) // GATES[self.cell]

    @property
    def width(self) -> int:
        """P: values it puts out."""
        return int(self.r.shape[1])

    @property
    def states(self) -> tuple[tuple[str, int], ...]:
        """Its state tensors and their widths: h, and for an lstm c."""
        h = ("h", self.width)
        return (h, ("c", self.hidden)) if self.cell == "lstm" else (h,)


@dataclass(frozen=True)
class Mirror:
    """Features to negate where feature `by` is 1 (and to leave where it is 0); flip [F] is 0 or 1.

    A watch on the other arm sees a movement's mirror image; with this, both arms train one model.
    """

    by: int
    flip: tuple[float, ...]


@dataclass(frozen=True)
class Embedding:
    """A categorical feature, sent as the index k of its label: row k of table [labels + 1, E].

    The last row stands for whatever is not 0..labels-1 (rounded), or missing.
    """

    feature: int
    table: Floats

    @property
    def labels(self) -> int:
        """How many labels are known."""
        return len(self.table) - 1


@dataclass(frozen=True)
class Network:
    """mean, std [F] of all features (unused where embedded); head_w [O, P], head_b [O].

    The first layer sees: the normalised features that are not embedded, in order; for each feature
    in `missing` a 1 where it was NaN, else 0; the embeddings in order. NaN is allowed in those of
    `missing` and in embedded features alone, and is normalised to 0. With `add` [O], output k is
    added to the raw feature add[k] (to its mean where NaN): the head says the change.
    """

    mean: Floats
    std: Floats
    clip: float
    layers: tuple[Layer, ...]
    head_w: Floats
    head_b: Floats
    softmax: bool
    mirror: Mirror | None = None
    embeddings: tuple[Embedding, ...] = ()
    missing: tuple[int, ...] = ()
    add: tuple[int, ...] | None = None

    @property
    def inputs(self) -> int:
        """F: features in one observation."""
        return len(self.mean)

    @property
    def outputs(self) -> int:
        """O: values in one step's output."""
        return len(self.head_b)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The features that are normalised: all that are not embedded."""
        embedded = {embedding.feature for embedding in self.embeddings}
        return tuple(k for k in range(self.inputs) if k not in embedded)

    def states(self) -> Iterator[tuple[str, int]]:
        """All state tensors in order, with their widths: h0, c0, h1, c1, ..."""
        for k, layer in enumerate(self.layers):
            yield from ((f"{kind}{k}", width) for kind, width in layer.states)


def random_network(
    inputs: int,
    hidden: int,
    layers: int,
    outputs: int,
    seed: int,
    softmax: bool = True,
    cell: str = "lstm",
) -> Network:
    """Weights drawn as torch draws them, for tests and measurements."""
    rng = np.random.default_rng(seed)
    bound = hidden**-0.5
    rows = GATES[cell] * hidden

    def draw(*shape: int) -> Floats:
        return rng.uniform(-bound, bound, shape).astype(np.float32)

    stack = [
        Layer(
            draw(rows, inputs if depth == 0 else hidden),
            draw(rows, hidden),
            draw(rows),
            cell,
            draw(rows) if cell == "gru" else None,
        )
        for depth in range(layers)
    ]
    mean = rng.normal(size=inputs).astype(np.float32)
    std = rng.uniform(0.5, 2.0, inputs).astype(np.float32)
    return Network(mean, std, 20.0, tuple(stack), draw(outputs, hidden), draw(outputs), softmax)
