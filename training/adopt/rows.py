"""The rows' way out of the arenas and back, for states of any shape and type.

As `training.graphs.arenas`, with operators whose form is the same from opset 11 on: the graphs that
step are of the opset in which the model was written.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from training.adopt.plan import Plan
from training.graphs.builder import BOOL, INT64, Builder, value

OPSET = 18


def kind(dtype: str) -> int:
    """ONNX's number of a type."""
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def arenas(plan: Plan, suffix: str = "") -> list[ValueInfoProto]:
    """The arenas as inputs, or with the suffix ".next" as outputs."""
    return [
        value(f"state.{name}{suffix}", kind(dtype), "N", *row)
        for name, (row, dtype, _) in plan.rows.items()
    ]


def row_values(plan: Plan) -> list[ValueInfoProto]:
    """Rows of all states on their own."""
    return [
        value(f"row.{name}", kind(dtype), "B", *row) for name, (row, dtype, _) in plan.rows.items()
    ]


def read_graph(plan: Plan) -> ModelProto:
    """Slots -> rows."""
    b = Builder()
    for name in plan.rows:
        b.add("Gather", f"state.{name}", "slots", outputs=[f"row.{name}"], axis=0)
    inputs = [value("slots", INT64, "B"), *arenas(plan)]
    return b.model("read", inputs, row_values(plan), OPSET)


def write_graph(plan: Plan) -> ModelProto:
    """Slots, rows -> arenas."""
    b = Builder()
    put(b, {name: f"row.{name}" for name in plan.rows})
    inputs = [value("slots", INT64, "B"), *row_values(plan), *arenas(plan)]
    return b.model("write", inputs, arenas(plan, ".next"), OPSET)


def gather(b: Builder, plan: Plan) -> dict[str, str]:
    """Each state's rows, or its initial value where the session is fresh."""
    rows = {}
    for name, (row, dtype, initial) in plan.rows.items():
        before = b.add("Gather", f"state.{name}", "slots", outputs=[f"before.{name}"], axis=0)
        start = b.constant(f"initial.{name}", np.array(initial, np.dtype(dtype)))
        rows[name] = choose(b, _beside(b, "fresh", row), start, before, dtype)
    return rows


def scatter(b: Builder, plan: Plan, after: Mapping[str, str], good: str) -> None:
    """Put the rows back, last of all; a row that is not `good` [B, 1] keeps its former state."""
    kept = {}
    for name, (row, dtype, _) in plan.rows.items():
        kept[name] = choose(b, _beside(b, good, row), after[name], f"before.{name}", dtype)
    put(b, kept)


def choose(b: Builder, where: str, this: str, that: str, dtype: str) -> str:
    """`this` where it is true, else `that`; onnxruntime's Where does not know bool."""
    if dtype != "bool":
        return b.add("Where", where, this, that)
    numbers = [b.add("Cast", each, to=TensorProto.UINT8) for each in (this, that)]
    return b.add("Cast", b.add("Where", where, *numbers), to=BOOL)


def put(b: Builder, rows: Mapping[str, str]) -> None:
    """The nodes that write arenas."""
    index = b.add("Reshape", "slots", b.integers(-1, 1))
    for name, row in rows.items():
        b.add("ScatterND", f"state.{name}", index, row, outputs=[f"state.{name}.next"])


def _beside(b: Builder, flags: str, row: tuple[int, ...]) -> str:
    """bool [B] or [B, 1] as [B, 1, ...], beside rows of that shape."""
    return b.add("Reshape", flags, b.integers(-1, *(1 for _ in row)))
