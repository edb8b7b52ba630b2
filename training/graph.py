"""Writes an LSTM as the bundle's four ONNX graphs, with the gather and scatter of states inside.

`single.onnx` steps every row once: plain Gemms, no time axis. `step.onnx` steps ragged chunks with
the ONNX LSTM operator. `read.onnx` and `write.onnx` move rows between arenas and the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto, checker, helper, numpy_helper

from training.network import Layer, Mirror, Network

OPSET = 18
IR_VERSION = 9
FLOAT, INT32, INT64, BOOL = (
    TensorProto.FLOAT,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.BOOL,
)


@dataclass
class Builder:
    """Collects a graph's nodes and constants; `add` names and returns a node's first output."""

    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def add(self, op: str, *inputs: str, outputs: Sequence[str] = (), **attributes: Any) -> str:
        """Append a node; outputs not named are numbered."""
        names = list(outputs) or [f"{op.lower()}_{len(self.nodes)}"]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names[0]

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """A tensor stored in the graph."""
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def model(
        self, name: str, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto]
    ) -> ModelProto:
        """The finished, checked model."""
        graph = helper.make_graph(self.nodes, name, inputs, outputs, self.constants)
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], producer_name="tidegate")
        model.ir_version = IR_VERSION
        checker.check_model(model)
        return model


def single_graph(weights: Network) -> ModelProto:
    """One step for each row: input [B, I] -> output [B, O]."""
    b = Builder()
    states = list(weights.states())
    rows = _gather(b, states)
    signal = _normalise(b, weights, "input")
    after: dict[str, str] = {}
    for k, layer in enumerate(weights.layers):
        signal, cell = _gemm_cell(b, layer, k, signal, rows[f"h{k}"], rows[f"c{k}"])
        after |= {f"h{k}": signal, f"c{k}": cell}
    _head(b, weights, signal)
    _scatter(b, states, after, axes=[1])
    inputs = [_value("input", FLOAT, "B", weights.inputs), *_row_inputs(), *_arenas(states)]
    outputs = [_value("output", FLOAT, "B", weights.outputs), *_arenas(states, ".next")]
    return b.model("single", inputs, outputs)


def step_graph(weights: Network) -> ModelProto:
    """Ragged chunks: input [B, T, I], lengths [B] -> output [B, T, O]."""
    b = Builder()
    states = list(weights.states())
    rows = _gather(b, states)
    signal = b.add("Transpose", _normalise(b, weights, "input"), perm=[1, 0, 2])
    after: dict[str, str] = {}
    for k, layer in enumerate(weights.layers):
        signal, hidden, cell = _lstm_layer(b, layer, k, signal, rows[f"h{k}"], rows[f"c{k}"])
        after |= {f"h{k}": hidden, f"c{k}": cell}
    _head(b, weights, b.add("Transpose", signal, perm=[1, 0, 2]))
    _scatter(b, states, after, axes=[1, 2])
    inputs = [
        _value("input", FLOAT, "B", "T", weights.inputs),
        _value("lengths", INT32, "B"),
        *_row_inputs(),
        *_arenas(states),
    ]
    outputs = [_value("output", FLOAT, "B", "T", weights.outputs), *_arenas(states, ".next")]
    return b.model("step", inputs, outputs)


def read_graph(weights: Network) -> ModelProto:
    """Slots -> rows."""
    b = Builder()
    states = list(weights.states())
    for name, _ in states:
        b.add("Gather", f"state.{name}", "slots", outputs=[f"row.{name}"], axis=0)
    inputs = [_value("slots", INT64, "B"), *_arenas(states)]
    return b.model("read", inputs, [_value(f"row.{n}", FLOAT, "B", w) for n, w in states])


def write_graph(weights: Network) -> ModelProto:
    """Slots, rows -> arenas."""
    b = Builder()
    states = list(weights.states())
    index = _column(b, "slots")
    for name, _ in states:
        b.add("ScatterND", f"state.{name}", index, f"row.{name}", outputs=[f"state.{name}.next"])
    rows = [_value(f"row.{name}", FLOAT, "B", width) for name, width in states]
    inputs = [_value("slots", INT64, "B"), *rows, *_arenas(states)]
    return b.model("write", inputs, _arenas(states, ".next"))


def _value(name: str, kind: int, *shape: int | str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def _row_inputs() -> list[ValueInfoProto]:
    return [_value("slots", INT64, "B"), _value("fresh", BOOL, "B")]


def _arenas(states: list[tuple[str, int]], suffix: str = "") -> list[ValueInfoProto]:
    return [_value(f"state.{name}{suffix}", FLOAT, "N", width) for name, width in states]


def _column(b: Builder, name: str) -> str:
    return b.add("Unsqueeze", name, b.constant("last_axis", np.array([1], np.int64)))


def _gather(b: Builder, states: list[tuple[str, int]]) -> dict[str, str]:
    """Each state's rows, or the initial zeros where the session is fresh."""
    zero = b.constant("zero", np.zeros((), np.float32))
    fresh = b.add("Unsqueeze", "fresh", b.constant("row_axis", np.array([1], np.int64)))
    rows = {}
    for name, _ in states:
        row = b.add("Gather", f"state.{name}", "slots", outputs=[f"before.{name}"], axis=0)
        rows[name] = b.add("Where", fresh, zero, row)
    return rows


def _normalise(b: Builder, weights: Network, name: str) -> str:
    """(x - mean) / std, clipped: no finite input, however large, can make the cell overflow."""
    if weights.mirror is not None:
        name = _mirror(b, weights.mirror, name)
    centred = b.add("Sub", name, b.constant("mean", weights.mean))
    scaled = b.add("Div", centred, b.constant("std", weights.std))
    limit = np.float32(weights.clip)
    return b.add(
        "Clip", scaled, b.constant("low", np.array(-limit)), b.constant("high", np.array(limit))
    )


def _mirror(b: Builder, mirror: Mirror, name: str) -> str:
    """x * (1 - 2 * x[by] * flip)."""
    by = b.constant("mirror_by", np.array([mirror.by], np.int64))
    twice = b.constant("mirror_flip", 2 * np.array(mirror.flip, np.float32))
    one = b.constant("one", np.ones((), np.float32))
    turned = b.add("Mul", b.add("Gather", name, by, axis=-1), twice)
    return b.add("Mul", name, b.add("Sub", one, turned))


def _gemm_cell(b: Builder, layer: Layer, k: int, x: str, h: str, c: str) -> tuple[str, str]:
    """One step of one layer. Gates are stored i, f, o, g, so that one sigmoid serves three."""
    n = layer.hidden
    order = np.r_[0 : 2 * n, 3 * n : 4 * n, 2 * n : 3 * n]
    weights = b.constant(f"w{k}", np.concatenate([layer.w, layer.r], axis=1)[order].T)
    both = b.add("Concat", x, h, axis=1)
    sums = b.add("Gemm", both, weights, b.constant(f"b{k}", layer.b[order]))
    parts = b.constant(f"parts{k}", np.array([3 * n, n], np.int64))
    b.add("Split", sums, parts, outputs=[f"gates{k}", f"candidate{k}"], axis=1)
    gates = b.add("Sigmoid", f"gates{k}")
    b.add("Split", gates, outputs=[f"i{k}", f"f{k}", f"o{k}"], axis=1, num_outputs=3)
    kept = b.add("Mul", f"f{k}", c)
    let_in = b.add("Mul", f"i{k}", b.add("Tanh", f"candidate{k}"))
    cell = b.add("Add", kept, let_in)
    return b.add("Mul", f"o{k}", b.add("Tanh", cell)), cell


def _lstm_layer(b: Builder, layer: Layer, k: int, x: str, h: str, c: str) -> tuple[str, str, str]:
    """A whole chunk of one layer by the LSTM operator, whose gates are i, o, f, c."""
    n = layer.hidden
    order = np.r_[0:n, 3 * n : 4 * n, n : 2 * n, 2 * n : 3 * n]
    w = b.constant(f"w{k}", layer.w[order][None])
    r = b.constant(f"r{k}", layer.r[order][None])
    bias = b.constant(f"b{k}", np.concatenate([layer.b[order], np.zeros(4 * n, np.float32)])[None])
    first = b.constant(f"axis{k}", np.array([0], np.int64))
    names = [f"all{k}", f"last_h{k}", f"last_c{k}"]
    starts = (b.add("Unsqueeze", h, first), b.add("Unsqueeze", c, first))
    b.add("LSTM", x, w, r, bias, "lengths", *starts, outputs=names, hidden_size=n)
    direction = b.constant(f"direction{k}", np.array([1], np.int64))
    every = b.add("Squeeze", names[0], direction)
    return every, b.add("Squeeze", names[1], first), b.add("Squeeze", names[2], first)


def _head(b: Builder, weights: Network, hidden: str) -> None:
    scores = b.add("MatMul", hidden, b.constant("head_w", weights.head_w.T))
    logits = "logits" if weights.softmax else "output"
    b.add("Add", scores, b.constant("head_b", weights.head_b), outputs=[logits])
    if weights.softmax:
        b.add("Softmax", logits, outputs=["output"], axis=-1)


def _scatter(
    b: Builder, states: list[tuple[str, int]], after: dict[str, str], axes: list[int]
) -> None:
    """Put the rows back, last of all; a row whose output is not finite keeps its former state.

    A state that is not finite shows in the output (h feeds the head, c feeds h), so only the output
    is looked at: x * 0 is 0 for every finite x and NaN otherwise.
    """
    poison = b.add("Mul", "output", "zero")
    total = b.add("ReduceSum", poison, b.constant("axes", np.array(axes, np.int64)), keepdims=0)
    good = b.add("Equal", total, "zero")
    good = b.add("Unsqueeze", good, "row_axis")
    index = b.add("Unsqueeze", "slots", "row_axis")
    kept = {name: b.add("Where", good, after[name], f"before.{name}") for name, _ in states}
    for name, _ in states:
        b.add("ScatterND", f"state.{name}", index, kept[name], outputs=[f"state.{name}.next"])
