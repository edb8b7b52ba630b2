"""The graphs of a bundle, in each form that they can be written in.

`single.onnx` steps every row once, and `single.cuda.onnx` does so in the way that suits CUDA.
`step.onnx` steps ragged chunks. `read.onnx` and `write.onnx` move rows between arenas and the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, ValueInfoProto

from training.graphs.arenas import (
    Row,
    arenas,
    gather,
    gather_packed,
    guard,
    may_pack,
    packed_arena,
    read_graph,
    row_inputs,
    scatter,
    scatter_elements,
    scatter_packed,
    write_graph,
)
from training.graphs.builder import FLOAT, INT32, INT64, Builder, value
from training.graphs.encode import encode
from training.graphs.lags import over_time, present
from training.graphs.layers import Cell, State, operator_over_time, scan_over_time
from training.graphs.outputs import write_outputs
from training.network import EPSILON, LAGS, Network

OPERATOR, GEMM, JOINED, SCAN = "operator", "gemm", "joined", "scan"
OPSETS = (18, 21, 23)
PRECISIONS = ("float32", "float16", "int8")


@dataclass(frozen=True)
class Form:
    """One of the ways to write step.onnx, single.onnx and single.cuda.onnx.

    step: "operator" (ONNX LSTM, GRU, RNN) or "scan" (one cell in a loop over time).
    single: one cell without a time axis, "joined" (one product of input and h a layer, where that
    can be) or "gemm" (a product each); or "operator" (the operator at T = 1).
    cuda: as `single`.
    packed: single.cuda.onnx takes all states as one tensor, where all are of one width.
    precision: what matrix products of the recurrent layers are computed in; states, gates, inputs
    and the head are float32 in all.
    """

    step: str = OPERATOR
    single: str = JOINED
    opset: int = OPSETS[0]
    precision: str = "float32"
    cuda: str = JOINED
    packed: bool = True

    def allows(self, network: Network) -> bool:
        """ONNX's operators know neither projections nor products in int8."""
        plain = self.step == SCAN and OPERATOR not in (self.single, self.cuda)
        projects = any(layer.project is not None for layer in network.layers)
        return plain or not (projects or self.precision == "int8")


def usual_form(network: Network, precision: str = "float32") -> Form:
    """What is written where nothing was measured."""
    form = Form(precision=precision)
    return form if form.allows(network) else Form(step=SCAN, precision=precision)


def graphs(network: Network, form: Form) -> dict[str, bytes]:
    """All by file name; the same bytes for the same network and form. None for CUDA in int8, of
    which CUDA knows no products."""
    rows = rows_of(network)
    models = {
        "step.onnx": step_graph(network, form),
        "single.onnx": single_graph(network, form),
        "read.onnx": read_graph(rows, form.opset),
        "write.onnx": write_graph(rows, form.opset),
    }
    if form.precision != "int8":
        models["single.cuda.onnx"] = single_graph(network, form, for_cuda=True)
    return {name: m.SerializeToString(deterministic=True) for name, m in models.items()}


def rows_of(network: Network) -> dict[str, Row]:
    """A session's share of each state."""
    return {name: Row((width,), finite=True) for name, width in network.states()}


def single_graph(network: Network, form: Form, for_cuda: bool = False) -> ModelProto:
    """One step for each row: input [B, F] -> output [B, O]."""
    b, how = Builder(), form.cuda if for_cuda else form.single
    states = rows_of(network)
    packed = for_cuda and form.packed and may_pack(states)
    before = gather_packed(b, states) if packed else gather(b, states, for_cuda)
    after, hs = dict[str, str](), list[str]()
    encoded = signal = encode(b, network, "input")
    for k, layer in enumerate(network.layers):
        cell = Cell(layer, k, form.precision, gates_apart=not for_cuda)
        h, state = _one_step(b, cell, signal, _own(cell, before), how)
        after |= {f"{kind}{k}": name for kind, name in state.items()}
        signal = _out(b, cell, h, signal)
        hs.append(h)
    said = ""
    if network.linear is not None:
        said, after[LAGS] = present(b, network, "input", before[LAGS])
    _head(b, network, signal, "input", "output", said)
    watched = _watched(network, hs, encoded, form, how)
    good = guard(b, ["output", *watched], rank=2)
    put = scatter_packed if packed else scatter_elements if for_cuda else scatter
    put(b, states, after, good)
    held = packed_arena if packed else arenas
    inputs = [value("input", FLOAT, "B", network.inputs), *row_inputs(), *held(states)]
    outputs = [value("output", FLOAT, "B", network.outputs), *held(states, ".next")]
    return b.model("single", inputs, outputs, form.opset)


def step_graph(network: Network, form: Form) -> ModelProto:
    """Ragged chunks: input [B, T, F], lengths [B] -> output [B, T, O]."""
    b = Builder()
    states = rows_of(network)
    before, after, hs = gather(b, states), dict[str, str](), list[str]()
    raw, valid = _without_padding(b)
    encoded = signal = encode(b, network, raw)
    for k, layer in enumerate(network.layers):
        cell = Cell(layer, k, form.precision)
        every, state = _chunk(b, cell, signal, valid, _own(cell, before), form.step)
        after |= {f"{kind}{k}": name for kind, name in state.items()}
        signal = _out(b, cell, every, signal)
        hs.append(every)
    said = ""
    if network.linear is not None:
        said, after[LAGS] = over_time(b, network, raw, before[LAGS])
    _head(b, network, signal, raw, "by_time", said)
    b.add("Transpose", "by_time", outputs=["output"], perm=[1, 0, 2])
    watched = _watched(network, hs, encoded, form, form.step)
    scatter(b, states, after, guard(b, ["by_time", *watched], rank=3))
    return b.model("step", *_step_values(network), form.opset)


def _step_values(network: Network) -> tuple[list[ValueInfoProto], list[ValueInfoProto]]:
    states = rows_of(network)
    inputs = [
        value("input", FLOAT, "B", "T", network.inputs),
        value("lengths", INT32, "B"),
        *row_inputs(),
        *arenas(states),
    ]
    return inputs, [value("output", FLOAT, "B", "T", network.outputs), *arenas(states, ".next")]


def _without_padding(b: Builder) -> tuple[str, str]:
    """The input [T, B, F] with zeros behind each row's length, and valid bool [T, B, 1].

    So padding can neither be poison nor cost a row its step.
    """
    raw = b.add("Transpose", "input", perm=[1, 0, 2])
    steps = b.add("Squeeze", b.add("Shape", raw, start=0, end=1), b.integers(0))
    zero, one = (b.constant(f"step_{k}", np.array(k, np.int64)) for k in (0, 1))
    time = b.unsqueeze(b.add("Range", zero, steps, one), 1)
    before_end = b.add("Less", time, b.add("Cast", "lengths", to=INT64))
    valid = b.unsqueeze(before_end, 2)
    return b.add("Where", valid, raw, b.number(0.0)), valid


def _own(cell: Cell, before: dict[str, str]) -> State:
    return {kind: before[f"{kind}{cell.k}"] for kind, _ in cell.layer.states}


def _out(b: Builder, cell: Cell, h: str, x: str) -> str:
    """What a layer puts out, [..., P] of h and its input x."""
    layer = cell.layer
    if layer.gain is not None and layer.shift is not None:
        by = [b.constant(f"{name}{cell.k}", getattr(layer, name)) for name in ("gain", "shift")]
        h = b.add("LayerNormalization", h, *by, epsilon=EPSILON)
    return b.add("Add", h, x) if layer.residual else h


def _one_step(b: Builder, cell: Cell, x: str, state: State, how: str) -> tuple[str, State]:
    if how == JOINED:
        after = cell.joined(b, x, state)
        return after["h"], after
    if how == GEMM:
        after = cell.step(b, cell.from_input(b, x), state)
        return after["h"], after
    row = b.unsqueeze(x, 0)
    _, after = operator_over_time(b, cell, row, "", state)
    return after["h"], after


def _chunk(b: Builder, cell: Cell, x: str, valid: str, state: State, how: str) -> tuple[str, State]:
    if how == SCAN:
        return scan_over_time(b, cell, x, valid, state)
    return operator_over_time(b, cell, x, "lengths", state)


def _watched(network: Network, hs: Sequence[str], encoded: str, form: Form, how: str) -> list[str]:
    """What must be finite beside the output, which shows all else that goes wrong.

    A NaN in what a cell is given goes into h, and from there into every later layer and the output;
    onnxruntime's operators alone make finite numbers of it, and what is rounded to int8, so that
    every h is watched that goes in there. c grows by at most 1 a step. But an h that a projection
    made infinite only saturates the gates of the layer above.
    """
    if form.precision == "int8":
        return list(hs)
    layers = zip(network.layers, hs, strict=True)
    projected = [h for layer, h in layers if layer.project is not None]
    return [*projected, encoded] if how == OPERATOR else projected


def _head(b: Builder, network: Network, hidden: str, raw: str, name: str, said: str) -> None:
    """Write `name` [..., O] from hidden [..., P], raw [..., F], and what the linear path said, the
    bias with it, if there is one."""
    scores = b.add("MatMul", hidden, b.constant("head_w", network.head_w.T))
    bias = said or b.constant("head_b", network.head_b)
    if network.softmax or network.add is not None or network.fan is not None:
        write_outputs(b, network, b.add("Add", scores, bias), raw, name)
    else:
        b.add("Add", scores, bias, outputs=[name])
