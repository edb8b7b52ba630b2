"""Somebody's graph within the bundle's: rows from the arenas go in, the next rows and outputs come
out, and a row that came out with a number that is not finite keeps the state it had.

Everything in their graph is renamed, so that it can stand beside the bundle's own names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, ValueInfoProto, numpy_helper

from training.graphs.arenas import arenas, gather, read_graph, row_inputs, scatter, write_graph
from training.graphs.builder import FLOAT, INT32, Builder, kind_of, value
from training.importer.original import main_opset
from training.importer.plan import Plan, State

PREFIX = "model/"
OPSET = 18  # of the graphs that only read and write
FLOATS = ("float16", "float32", "float64")


def merged(model: ModelProto, plan: Plan) -> dict[str, bytes]:
    """The bundle's four graphs by file name.

    Raises:
        ValueError: a graph is larger than a file of ONNX can be, which is 2 GiB.
    """
    models = {
        "step.onnx": _stepping(model, plan, time=True),
        "single.onnx": _stepping(model, plan, time=False),
        "read.onnx": read_graph(plan.rows, OPSET),
        "write.onnx": write_graph(plan.rows, OPSET),
    }
    return {name: m.SerializeToString(deterministic=True) for name, m in models.items()}


def _stepping(model: ModelProto, plan: Plan, time: bool) -> ModelProto:
    """One step for each row: input [B, F] -> output [B, O], or with `time` [B, 1, F] and O."""
    before = Builder("in.", main_opset(model) or OPSET)
    behind = Builder("out.", before.opset, constants=before.constants)
    after = _feed(before, plan, time)
    answer = _answer(behind, plan)
    after |= {state.name: _leaving(behind, state) for state in plan.states}
    good = _guard(behind, plan, answer, after)
    _put_out(behind, answer, good, plan.width if time else None)
    scatter(behind, plan.rows, after, good)
    return _assemble(model, plan, before, behind, _edges(plan, time))


def _feed(b: Builder, plan: Plan, time: bool) -> dict[str, str]:
    """Give the graph its states and its input; returns the context as it will be."""
    rows = gather(b, plan.rows)
    for state in plan.states:
        _moved(b, rows[state.name], _into(state.axis, len(state.row)), PREFIX + state.enters)
    frame = b.add("Reshape", "input", b.integers(-1, plan.sent)) if time else "input"
    after = {}
    if plan.context:
        frame = b.add("Concat", rows[plan.context_name], frame, axis=1)
        cut = (b.integers(-plan.context), b.integers(plan.input.width), b.integers(1))
        after[plan.context_name] = b.add("Slice", frame, *cut)
    shaped = b.add("Reshape", frame, b.integers(-1, *plan.input.row))
    cast = b.add("Cast", shaped, to=kind_of(plan.input.dtype))
    _moved(b, cast, _into(plan.input.axis, len(plan.input.row)), PREFIX + plan.input.name)
    return after


def _answer(b: Builder, plan: Plan) -> str:
    """The outputs side by side, float32 [B, O]."""
    parts = []
    for output in plan.outputs:
        out = _moved(b, PREFIX + output.name, _out_of(output.axis, output.rank))
        flat = b.add("Reshape", out, b.integers(-1, output.width))
        parts.append(b.add("Cast", flat, to=FLOAT))
    return b.add("Concat", *parts, axis=1)


def _leaving(b: Builder, state: State) -> str:
    """The next rows [B, ...] of a state."""
    return _moved(b, PREFIX + state.leaves, _out_of(state.axis, len(state.row)))


def _guard(b: Builder, plan: Plan, answer: str, after: dict[str, str]) -> str:
    """Whether all of a row's values are finite, bool [B, 1]: x * 0 is 0 for every finite x."""
    watched = {answer: (plan.width, "float32")}
    for name, row in plan.rows.items():
        if row.dtype in FLOATS:
            watched[after[name]] = (prod(row.shape), row.dtype)
    good = [_finite(b, name, width, dtype) for name, (width, dtype) in watched.items()]
    whole = good[0]
    for each in good[1:]:
        whole = b.add("And", whole, each)
    return whole


def _finite(b: Builder, name: str, width: int, dtype: str) -> str:
    flat = b.add("Reshape", name, b.integers(-1, width))
    exact = "float64" if dtype == "float64" else "float32"
    zero = b.constant(f"zero_{exact}", np.zeros((), exact))
    ones = b.constant(f"ones_{exact}_{width}", np.ones((width, 1), exact))
    poison = b.add("Mul", b.add("Cast", flat, to=kind_of(exact)), zero)
    return b.add("Equal", b.add("MatMul", poison, ones), zero)


def _put_out(b: Builder, answer: str, good: str, width: int | None) -> None:
    """A row that is not kept says so by NaN, also where only its state went wrong."""
    if width is None:
        b.add("Where", good, answer, b.number(np.nan), outputs=["output"])
        return
    told = b.add("Where", good, answer, b.number(np.nan))
    b.add("Reshape", told, b.integers(-1, 1, width), outputs=["output"])


def _edges(plan: Plan, time: bool) -> tuple[list[ValueInfoProto], list[ValueInfoProto]]:
    steps = (1,) if time else ()
    inputs = [value("input", FLOAT, "B", *steps, plan.sent), *row_inputs(), *arenas(plan.rows)]
    if time:
        inputs.append(value("lengths", INT32, "B"))
    return inputs, [value("output", FLOAT, "B", *steps, plan.width), *arenas(plan.rows, ".next")]


def _assemble(
    model: ModelProto,
    plan: Plan,
    before: Builder,
    behind: Builder,
    edges: tuple[list[ValueInfoProto], list[ValueInfoProto]],
) -> ModelProto:
    """The model as it was (its functions, opsets and version), with the nodes around its own."""
    body = _prefixed(model.graph)
    folded = [numpy_helper.from_array(v, PREFIX + name) for name, v in plan.constants.items()]
    whole = ModelProto()
    whole.CopyFrom(model)
    del whole.training_info[:]
    whole.graph.Clear()
    whole.graph.name = "step"
    whole.graph.node.extend([*before.nodes, *body.node, *behind.nodes])
    whole.graph.initializer.extend([*before.constants.values(), *body.initializer, *folded])
    whole.graph.input.extend(edges[0])
    whole.graph.output.extend(edges[1])
    return whole


def _moved(b: Builder, name: str, order: Sequence[int], to: str = "") -> str:
    """The tensor with its axes in that order."""
    outputs = [to] if to else []
    if list(order) == sorted(order):
        return b.add("Identity", name, outputs=outputs)
    return b.add("Transpose", name, outputs=outputs, perm=list(order))


def _into(axis: int, rank: int) -> list[int]:
    """Axes of [B, *row] such that the batch axis comes to lie at `axis`."""
    return [*range(1, axis + 1), 0, *range(axis + 1, rank + 1)]


def _out_of(axis: int, rank: int) -> list[int]:
    """Axes of a tensor whose batch axis is `axis` such that it comes first."""
    return [axis, *(k for k in range(rank + 1) if k != axis)]


def _prefixed(graph: GraphProto) -> GraphProto:
    """A copy whose tensors and nodes all begin with `PREFIX`, those within If, Loop and Scan too.

    A body may name what lies outside of it; as every name changes alike, it still does. What is
    only declared (shapes of intermediate values, annotations) is left out: onnxruntime infers it,
    and a declared size must not be taken for one of the bundle's.
    """
    copy = GraphProto()
    copy.CopyFrom(graph)
    _rename(copy)
    return copy


def _rename(graph: GraphProto) -> None:
    for node in graph.node:
        _rename_node(node)
    for tensor in graph.initializer:
        tensor.name = PREFIX + tensor.name
    for edge in (*graph.input, *graph.output):
        _rename_edge(edge)
    del graph.value_info[:]
    del graph.quantization_annotation[:]


def _rename_node(node: NodeProto) -> None:
    node.name = PREFIX + node.name if node.name else ""
    node.input[:] = _names(node.input)
    node.output[:] = _names(node.output)
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            _rename(attribute.g)
        for body in attribute.graphs:
            _rename(body)


def _names(names: Iterable[str]) -> list[str]:
    """An empty name is an input or output left out, and stays empty."""
    return [name and PREFIX + name for name in names]


def _rename_edge(edge: ValueInfoProto) -> None:
    edge.name = PREFIX + edge.name
    for size in edge.type.tensor_type.shape.dim:
        if size.dim_param:
            size.dim_param = PREFIX + size.dim_param
