"""One step of one layer, of plain products and elementwise operators: all cells, all precisions.

A layer's input and its h meet in sums of gates. The half that needs no state (`from_input`) is
apart, so that a loop over time computes it for all steps at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.graphs.builder import Builder
from training.graphs.products import affine, product
from training.network import Floats, Layer

State = dict[str, str]
"""A layer's state tensors [rows, width] by kind: "h", and "c" for an lstm."""


@dataclass(frozen=True)
class Cell:
    """Layer `k` of a network; `precision` as in `Form`."""

    layer: Layer
    k: int
    precision: str

    def from_input(self, b: Builder, x: str) -> str:
        """x [rows, I] -> [rows, G·H].

        The first layer's is float32: its features are few, and the rest is built on them.
        """
        w, bias = (self._ordered(each) for each in (self.layer.w, self.layer.b))
        precision = "float32" if self.k == 0 else self.precision
        return affine(b, f"w{self.k}", x, w, b.constant(f"b{self.k}", bias), precision)

    def step(self, b: Builder, given: str, state: State) -> State:
        """From what `from_input` gave and the state before to the state after."""
        return {"lstm": self._lstm, "gru": self._gru, "rnn": self._rnn}[self.layer.cell](
            b, given, state
        )

    def _lstm(self, b: Builder, given: str, state: State) -> State:
        sums = affine(
            b, f"r{self.k}", state["h"], self._ordered(self.layer.r), given, self.precision
        )
        gates, candidate = _split(b, sums, 3 * self.layer.hidden, self.layer.hidden)
        i, f, o = _split(b, b.add("Sigmoid", gates), *[self.layer.hidden] * 3)
        let_in = b.add("Mul", i, b.add("Tanh", candidate))
        c = b.add("Add", b.add("Mul", f, state["c"]), let_in)
        h = b.add("Mul", o, b.add("Tanh", c))
        if self.layer.project is not None:
            h = product(b, f"p{self.k}", h, self.layer.project, self.precision)
        return {"h": h, "c": c}

    def _gru(self, b: Builder, given: str, state: State) -> State:
        n, h = self.layer.hidden, state["h"]
        assert self.layer.rb is not None
        bias = b.constant(f"rb{self.k}", self.layer.rb)
        own = affine(b, f"r{self.k}", h, self.layer.r, bias, self.precision)
        given_gates, given_n = _split(b, given, 2 * n, n)
        own_gates, own_n = _split(b, own, 2 * n, n)
        r, z = _split(b, b.add("Sigmoid", b.add("Add", given_gates, own_gates)), n, n)
        new = b.add("Tanh", b.add("Add", given_n, b.add("Mul", r, own_n)))
        kept = b.add("Mul", z, b.add("Sub", h, new))
        return {"h": b.add("Add", new, kept)}

    def _rnn(self, b: Builder, given: str, state: State) -> State:
        sums = affine(b, f"r{self.k}", state["h"], self.layer.r, given, self.precision)
        return {"h": b.add("Tanh", sums)}

    def _ordered(self, rows: Floats) -> Floats:
        """An lstm's gates as i, f, o, g, so that one sigmoid serves three."""
        if self.layer.cell != "lstm":
            return rows
        i, f, g, o = np.split(rows, 4)
        return np.concatenate([i, f, o, g])


def _split(b: Builder, x: str, *widths: int) -> list[str]:
    names = [f"{b.prefix}part_{len(b.nodes)}_{k}" for k in range(len(widths))]
    sizes: NDArray[np.int64] = np.array(widths, np.int64)
    b.add("Split", x, b.integers(*sizes.tolist()), outputs=names, axis=1)
    return names
