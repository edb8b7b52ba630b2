"""The four graphs of a bundle.

`single.onnx` steps every row once. `step.onnx` steps ragged chunks. `read.onnx` and `write.onnx`
move rows between arenas and the host.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, ValueInfoProto

from training.graphs import operators, scan
from training.graphs.arenas import (
    arenas,
    gather,
    guard,
    read_graph,
    row_inputs,
    scatter,
    write_graph,
)
from training.graphs.builder import FLOAT, INT32, INT64, Builder, value
from training.graphs.cells import Cell, State
from training.graphs.form import OPERATOR, SCAN, Form
from training.graphs.head import head
from training.graphs.inputs import encode
from training.network import Network


def graphs(network: Network, form: Form) -> dict[str, bytes]:
    """All four by file name; the same bytes for the same network and form."""
    models = {
        "step.onnx": step_graph(network, form),
        "single.onnx": single_graph(network, form),
        "read.onnx": read_graph(network, form.opset),
        "write.onnx": write_graph(network, form.opset),
    }
    return {name: m.SerializeToString(deterministic=True) for name, m in models.items()}


def single_graph(network: Network, form: Form) -> ModelProto:
    """One step for each row: input [B, F] -> output [B, O]."""
    b = Builder()
    rows, after, hs = gather(b, network), dict[str, str](), list[str]()
    encoded = signal = encode(b, network, "input")
    for k, layer in enumerate(network.layers):
        cell = Cell(layer, k, form.precision)
        h, state = _one_step(b, cell, signal, _own(cell, rows), form.single)
        after |= {f"{kind}{k}": name for kind, name in state.items()}
        signal = b.add("Add", h, signal) if layer.residual else h
        hs.append(h)
    head(b, network, signal, "input", "output")
    watched = _watched(network, hs, encoded, form.single)
    scatter(b, after, guard(b, ["output", *watched], rank=2))
    inputs = [value("input", FLOAT, "B", network.inputs), *row_inputs(), *arenas(network)]
    outputs = [value("output", FLOAT, "B", network.outputs), *arenas(network, ".next")]
    return b.model("single", inputs, outputs, form.opset)


def step_graph(network: Network, form: Form) -> ModelProto:
    """Ragged chunks: input [B, T, F], lengths [B] -> output [B, T, O]."""
    b = Builder()
    rows, after, hs = gather(b, network), dict[str, str](), list[str]()
    raw, valid = _without_padding(b)
    encoded = signal = encode(b, network, raw)
    for k, layer in enumerate(network.layers):
        cell = Cell(layer, k, form.precision)
        every, state = _chunk(b, cell, signal, valid, _own(cell, rows), form.step)
        after |= {f"{kind}{k}": name for kind, name in state.items()}
        signal = b.add("Add", every, signal) if layer.residual else every
        hs.append(every)
    head(b, network, signal, raw, "by_time")
    b.add("Transpose", "by_time", outputs=["output"], perm=[1, 0, 2])
    watched = _watched(network, hs, encoded, form.step)
    scatter(b, after, guard(b, ["by_time", *watched], rank=3))
    return b.model("step", *_step_values(network), form.opset)


def _step_values(network: Network) -> tuple[list[ValueInfoProto], list[ValueInfoProto]]:
    inputs = [
        value("input", FLOAT, "B", "T", network.inputs),
        value("lengths", INT32, "B"),
        *row_inputs(),
        *arenas(network),
    ]
    return inputs, [value("output", FLOAT, "B", "T", network.outputs), *arenas(network, ".next")]


def _without_padding(b: Builder) -> tuple[str, str]:
    """The input [T, B, F] with zeros behind each row's length, and valid bool [T, B, 1].

    So padding can neither be poison nor cost a row its step.
    """
    raw = b.add("Transpose", "input", perm=[1, 0, 2])
    steps = b.add("Squeeze", b.add("Shape", raw, start=0, end=1), b.integers(0))
    zero, one = (b.constant(f"step_{k}", np.array(k, np.int64)) for k in (0, 1))
    time = b.add("Unsqueeze", b.add("Range", zero, steps, one), b.integers(1))
    before_end = b.add("Less", time, b.add("Cast", "lengths", to=INT64))
    valid = b.add("Unsqueeze", before_end, b.integers(2))
    return b.add("Where", valid, raw, b.number(0.0)), valid


def _own(cell: Cell, rows: dict[str, str]) -> State:
    return {kind: rows[f"{kind}{cell.k}"] for kind, _ in cell.layer.states}


def _one_step(b: Builder, cell: Cell, x: str, state: State, how: str) -> tuple[str, State]:
    if how != OPERATOR:
        after = cell.step(b, cell.from_input(b, x), state)
        return after["h"], after
    row = b.add("Unsqueeze", x, b.integers(0))
    _, after = operators.over_time(b, cell, row, "", state)
    return after["h"], after


def _chunk(b: Builder, cell: Cell, x: str, valid: str, state: State, how: str) -> tuple[str, State]:
    if how == SCAN:
        return scan.over_time(b, cell, x, valid, state)
    return operators.over_time(b, cell, x, "lengths", state)


def _watched(network: Network, hs: Sequence[str], encoded: str, how: str) -> list[str]:
    """What must be finite beside the output, which shows all else that goes wrong.

    A NaN in what a cell is given goes into h, and from there into every later layer and the
    output; onnxruntime's operators alone make finite numbers of it. c grows by at most 1 a step.
    But an h that a projection made infinite only saturates the gates of the layer above.
    """
    layers = zip(network.layers, hs, strict=True)
    projected = [h for layer, h in layers if layer.project is not None]
    return [*projected, encoded] if how == OPERATOR else projected
