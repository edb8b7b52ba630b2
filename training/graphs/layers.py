"""A layer as ONNX nodes: its matrix products, one step of its cell, and its way over time.

A layer's input and its h meet in sums of gates. The half that needs no state (`from_input`) is
apart, so that a loop over time computes it for all steps at once. Over time a layer goes by ONNX's
LSTM, GRU or RNN operator, or by a loop (Scan) around one step: what the operators cannot write.

Products are in float32, float16 or int8; in and out are float32. int8 takes every row by its own
scale, so that what else is in the batch cannot touch it: one scale a batch, as in
DynamicQuantizeLinear, would make a session's output depend on its neighbours. Weights are int8 with
a scale for each output. Rows have 7 bits, 64 is zero and the largest value 63 away: x86 without
VNNI sums products of uint8 and int8 in pairs in 16 bits, where 8 bits saturate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.graphs.builder import BOOL, FLOAT, FLOAT16, Builder, value
from training.network import Floats, Layer

ROW_STEPS, ROW_ZERO, WEIGHT_STEPS = 63, 64, 127
# Blocks of gates as torch has them, in the operator's order: i, o, f, c and z, r, h.
ORDER = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}

State = dict[str, str]
"""A layer's state tensors [rows, width] by kind: "h", and "c" for an lstm."""


@dataclass(frozen=True)
class Cell:
    """Layer `k` of a network; `precision` as in `Form`.

    gates_apart: where both halves are `joined`, each gate of an lstm has a product of its own: on
    the CPU to cut gates from their sums takes as long as a third of the product; on CUDA these are
    more kernels.
    """

    layer: Layer
    k: int
    precision: str
    gates_apart: bool = False

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

    def joined(self, b: Builder, x: str, state: State) -> State:
        """Both halves in one product, of x and h side by side: the product of h would copy the sums
        that it adds to, and on CUDA that saves two of four kernels. Not where the halves differ in
        precision, nor for a gru, whose candidate takes them apart."""
        if self.precision != "float32" or self.layer.cell == "gru":
            return self.step(b, self.from_input(b, x), state)
        beside = b.add("Concat", x, state["h"], axis=1)
        if not (self.gates_apart and self.layer.cell == "lstm"):
            (sums,) = self._sums(b, beside, 1)
            return self._from_sums(b, sums, state)
        *gates, candidate = self._sums(b, beside, len(ORDER["lstm"]))
        return self._from_gates(b, [b.add("Sigmoid", each) for each in gates], candidate, state)

    def _sums(self, b: Builder, beside: str, products: int) -> list[str]:
        """x and h, side by side, into the sums of gates."""
        both = np.concatenate([self._ordered(self.layer.w), self._ordered(self.layer.r)], axis=1)
        rows, biases = (np.split(each, products) for each in (both, self._ordered(self.layer.b)))
        sums = []
        for part, (weights, bias) in enumerate(zip(rows, biases, strict=True)):
            name = f"{self.k}_{part}" if products > 1 else f"{self.k}"
            addend = b.constant(f"b{name}", bias)
            sums.append(affine(b, f"wr{name}", beside, weights, addend, self.precision))
        return sums

    def _from_sums(self, b: Builder, sums: str, state: State) -> State:
        if self.layer.cell == "rnn":
            return {"h": b.add("Tanh", sums)}
        width = self.layer.hidden
        together, candidate = _split(b, sums, 3 * width, width)
        gates = _split(b, b.add("Sigmoid", together), *[width] * 3)
        return self._from_gates(b, gates, candidate, state)

    def _from_gates(self, b: Builder, gates: list[str], candidate: str, state: State) -> State:
        """An lstm's, from i, f and o, and the sums of its candidate."""
        i, f, o = gates
        let_in = b.add("Mul", i, b.add("Tanh", candidate))
        c = b.add("Add", b.add("Mul", f, state["c"]), let_in)
        h = b.add("Mul", o, b.add("Tanh", c))
        if self.layer.project is not None:
            h = product(b, f"p{self.k}", h, self.layer.project, self.precision)
        return {"h": h, "c": c}

    def _lstm(self, b: Builder, given: str, state: State) -> State:
        weights = self._ordered(self.layer.r)
        sums = affine(b, f"r{self.k}", state["h"], weights, given, self.precision)
        return self._from_sums(b, sums, state)

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
        return self._from_sums(b, sums, state)

    def _ordered(self, rows: Floats) -> Floats:
        """An lstm's gates as i, f, o, g, so that one sigmoid may serve three."""
        if self.layer.cell != "lstm":
            return rows
        i, f, g, o = np.split(rows, 4)
        return np.concatenate([i, f, o, g])


def _split(b: Builder, x: str, *widths: int) -> list[str]:
    names = [f"{b.prefix}part_{len(b.nodes)}_{k}" for k in range(len(widths))]
    sizes: NDArray[np.int64] = np.array(widths, np.int64)
    b.add("Split", x, b.integers(*sizes.tolist()), outputs=names, axis=1)
    return names


def operator_over_time(
    b: Builder, cell: Cell, x: str, lengths: str, state: State
) -> tuple[str, State]:
    """h of every step [T, B, H], zeros from a row's length on, and the state after its last.

    `lengths` is int32 [B], or "" where every row has T steps.
    """
    layer, k, precision = cell.layer, cell.k, cell.precision
    first, kind = b.integers(0), np.float16 if precision == "float16" else np.float32
    starts = [_in(b, b.unsqueeze(each, 0), precision) for each in state.values()]
    names = [f"all{k}", *(f"last_{name}{k}" for name in state)]
    more = {"linear_before_reset": 1} if layer.cell == "gru" else {}
    b.add(
        layer.cell.upper(),
        _in(b, x, precision),
        *(b.constant(name, each.astype(kind)) for name, each in _weights(layer, k).items()),
        lengths,
        *starts,
        outputs=names,
        hidden_size=layer.hidden,
        **more,
    )
    every = _out(b, b.add("Squeeze", names[0], b.integers(1)), precision)
    last = (_out(b, b.add("Squeeze", name, first), precision) for name in names[1:])
    return every, dict(zip(state, last, strict=True))


def _weights(layer: Layer, k: int) -> dict[str, Floats]:
    own = np.zeros_like(layer.b) if layer.rb is None else layer.rb
    bias = np.concatenate([_for_operator(layer, layer.b), _for_operator(layer, own)])
    blocks = {
        f"w{k}": _for_operator(layer, layer.w),
        f"r{k}": _for_operator(layer, layer.r),
        f"b{k}": bias,
    }
    return {name: block[None] for name, block in blocks.items()}


def _for_operator(layer: Layer, rows: Floats) -> Floats:
    blocks = rows.reshape(-1, layer.hidden, *rows.shape[1:])
    return blocks[list(ORDER[layer.cell])].reshape(rows.shape)


def _in(b: Builder, x: str, precision: str) -> str:
    return b.add("Cast", x, to=FLOAT16) if precision == "float16" else x


def _out(b: Builder, x: str, precision: str) -> str:
    return b.add("Cast", x, to=FLOAT) if precision == "float16" else x


def scan_over_time(b: Builder, cell: Cell, x: str, valid: str, state: State) -> tuple[str, State]:
    """x [T, B, I], valid bool [T, B, 1] -> h of every step [T, B, P] and the state after.

    Where a step is not valid, h and c stay as they were.
    """
    layer, k = cell.layer, cell.k
    rows = b.add("Reshape", x, b.integers(-1, layer.w.shape[1]))
    given = cell.from_input(b, rows)
    shape = b.add("Shape", x, end=2)
    shape = b.add("Concat", shape, b.integers(len(layer.w)), axis=0)
    given = b.add("Reshape", given, shape)
    names = [f"last_{name}{k}" for name in state]
    b.add(
        "Scan",
        *state.values(),
        given,
        valid,
        outputs=[*names, f"all{k}"],
        body=_body(b, cell),
        num_scan_inputs=2,
    )
    return f"all{k}", dict(zip(state, names, strict=True))


def _body(b: Builder, cell: Cell) -> object:
    """One step: the state's tensors, given [B, G·H] and valid [B, 1] in; state and h out."""
    inner = b.body(f"loop{cell.k}_")
    p, layer = inner.prefix, cell.layer
    before = {name: f"{p}{name}" for name, _ in layer.states}
    after = cell.step(inner, f"{p}given", before)
    outputs = {name: f"{p}{name}_next" for name in before}
    for name, each in outputs.items():
        inner.add("Where", f"{p}valid", after[name], before[name], outputs=[each])
    inner.add("Identity", outputs["h"], outputs=[f"{p}every"])
    widths = dict(layer.states)
    inputs = [value(each, FLOAT, "B", widths[name]) for name, each in before.items()]
    inputs += [value(f"{p}given", FLOAT, "B", len(layer.w)), value(f"{p}valid", BOOL, "B", 1)]
    results = [value(each, FLOAT, "B", widths[name]) for name, each in outputs.items()]
    results.append(value(f"{p}every", FLOAT, "B", layer.width))
    return inner.graph(f"step{cell.k}", inputs, results)


def affine(b: Builder, name: str, x: str, weights: Floats, addend: str, precision: str) -> str:
    """x [rows, in] @ weights.T + addend, which is a vector [out] or a matrix [rows, out]."""
    if precision == "float32":
        return b.add("Gemm", x, b.constant(name, weights.T), addend)
    return b.add("Add", product(b, name, x, weights, precision), addend)


def product(b: Builder, name: str, x: str, weights: Floats, precision: str) -> str:
    """x [rows, in] @ weights.T."""
    if precision == "int8":
        return _by_rows(b, name, x, weights)
    if precision == "float16":
        half = b.constant(name, weights.T.astype(np.float16))
        return b.add("Cast", b.add("MatMul", b.add("Cast", x, to=FLOAT16), half), to=FLOAT)
    return b.add("MatMul", x, b.constant(name, weights.T))


def _by_rows(b: Builder, name: str, x: str, weights: Floats) -> str:
    scale = np.maximum(np.abs(weights).max(axis=1), np.finfo(np.float32).tiny) / WEIGHT_STEPS
    whole = b.constant(name, np.round(weights / scale[:, None]).T.astype(np.int8))
    rows, quantised = _quantised(b, x)
    zero = b.constant("zero_point", np.array(ROW_ZERO, np.uint8))
    sums = b.add("Cast", b.add("MatMulInteger", quantised, whole, zero), to=FLOAT)
    scaled = b.add("Mul", sums, b.constant(f"{name}_scale", scale.astype(np.float32)))
    return b.add("Mul", scaled, rows)


def _quantised(b: Builder, x: str) -> tuple[str, str]:
    """Each row's scale [rows, 1] and the rows in uint8. ReduceMax may pass a NaN over, and then
    finite numbers come of it: whoever guards a graph watches what goes in here."""
    last = b.integers(1)
    largest = b.add("ReduceMax", b.add("Abs", x), last, keepdims=1)
    scale = b.add("Mul", b.add("Max", largest, b.number(1e-12)), b.number(1.0 / ROW_STEPS))
    flat = b.add("Squeeze", scale, last)
    zero = b.constant("zero_points", np.array([ROW_ZERO], np.uint8))
    zeros = b.add("Expand", zero, b.add("Shape", flat))
    return scale, b.add("QuantizeLinear", x, flat, zeros, axis=0)
