"""The rows' way out of the arenas and back into them; the graphs that do only this; the guard.

States may be of any shape and type, and the opset any from 11 on: an imported graph steps in the
one in which its model was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto

from training.graphs.builder import BOOL, INT64, Builder, kind_of, value


@dataclass(frozen=True)
class Row:
    """One session's share of a state: its shape, type, and what fills it at the start."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    initial: float = 0.0
    finite: bool = False
    """Whether no session's ever holds an infinity or NaN, so that times 0 it is 0: the guard keeps
    every other row, and the server takes none in."""


Rows = Mapping[str, Row]
"""Of all states, by name."""


def read_graph(rows: Rows, opset: int) -> ModelProto:
    """Slots -> rows."""
    b = Builder()
    for name in rows:
        b.add("Gather", f"state.{name}", "slots", outputs=[f"row.{name}"], axis=0)
    inputs = [value("slots", INT64, "B"), *arenas(rows)]
    return b.model("read", inputs, _alone(rows), opset)


def write_graph(rows: Rows, opset: int) -> ModelProto:
    """Slots, rows -> arenas."""
    b = Builder()
    _put(b, {name: f"row.{name}" for name in rows}, b.unsqueeze("slots", 1))
    inputs = [value("slots", INT64, "B"), *_alone(rows), *arenas(rows)]
    return b.model("write", inputs, arenas(rows, ".next"), opset)


def row_inputs() -> list[ValueInfoProto]:
    """Which slot each row is of, and whether it starts from the initial state."""
    return [value("slots", INT64, "B"), value("fresh", BOOL, "B")]


def arenas(rows: Rows, suffix: str = "") -> list[ValueInfoProto]:
    """The arenas as inputs, or with the suffix ".next" as outputs."""
    return [
        value(f"state.{name}{suffix}", kind_of(row.dtype), "N", *row.shape)
        for name, row in rows.items()
    ]


MOST_PACKED = 32
"""States: of more, onnxruntime's Concat cannot be captured."""


def may_pack(rows: Rows) -> bool:
    """Whether the states may lie side by side in one row, and there is any use in it."""
    alike = len({(row.shape, row.dtype, row.initial) for row in rows.values()}) == 1
    return alike and 2 <= len(rows) <= MOST_PACKED


def packed_arena(rows: Rows, suffix: str = "") -> list[ValueInfoProto]:
    """All arenas as one input, or with the suffix ".next" as one output."""
    first = next(iter(rows.values()))
    width = len(rows) * prod(first.shape)
    return [value(f"states{suffix}", kind_of(first.dtype), "N", width)]


def gather_packed(b: Builder, rows: Rows) -> dict[str, str]:
    """As `gather`, of vectors, in one go for all states."""
    first = next(iter(rows.values()))
    before = b.add("Gather", "states", "slots", outputs=["before"], axis=0)
    start = b.constant("initial", np.array(first.initial, np.dtype(first.dtype)))
    row = _choose(b, b.unsqueeze("fresh", 1), start, before, first.dtype)
    names = [f"row.{name}" for name in rows]
    b.add("Split", row, b.integers(*(prod(each.shape) for each in rows.values())),
          outputs=names, axis=1)  # fmt: skip
    return dict(zip(rows, names, strict=True))


def scatter_packed(b: Builder, rows: Rows, after: Mapping[str, str], good: str) -> None:
    """As `scatter`, by element, in one go for all states."""
    first = next(iter(rows.values()))
    row = b.add("Concat", *(after[name] for name in rows), axis=1)
    kept = _choose(b, good, row, "before", first.dtype)
    index = b.add("Expand", b.unsqueeze("slots", 1), b.integers(1, len(rows) * prod(first.shape)))
    b.add("ScatterElements", "states", index, kept, outputs=["states.next"], axis=0)


def gather(b: Builder, rows: Rows, for_cuda: bool = False) -> dict[str, str]:
    """Each state's rows, or its initial value where the session is fresh."""
    found = {
        name: b.add("Gather", f"state.{name}", "slots", outputs=[f"before.{name}"], axis=0)
        for name in rows
    }
    zeroed = {name: row for name, row in rows.items() if _by_product(row) and not for_cuda}
    if zeroed:
        kept = b.unsqueeze(b.add("Where", "fresh", b.number(0.0), b.number(1.0)), 1)
        found |= {name: b.add("Mul", found[name], kept) for name in zeroed}
    chosen = {name: row for name, row in rows.items() if name not in zeroed}
    fresh = _beside(b, "fresh", chosen)
    for name, row in chosen.items():
        start = b.constant(f"initial.{name}", np.array(row.initial, np.dtype(row.dtype)))
        found[name] = _choose(b, fresh[len(row.shape)], start, found[name], row.dtype)
    return found


def _by_product(row: Row) -> bool:
    """Whether it may start by a product: on the CPU a choice between a number and a row, by one
    flag a row, takes three times as long."""
    return row.finite and row.initial == 0.0 and len(row.shape) == 1


def scatter(b: Builder, rows: Rows, after: Mapping[str, str], good: str) -> None:
    """Put the rows back, last of all. One that is not `good` [B, 1] goes to the arena's scratch
    row, 0, so that its session keeps the state it had."""
    scratch = b.constant("scratch", np.array(0, np.int64))
    index = b.add("Where", good, b.unsqueeze("slots", 1), scratch)
    _put(b, {name: after[name] for name in rows}, index)


def scatter_elements(b: Builder, rows: Rows, after: Mapping[str, str], good: str) -> None:
    """As `scatter`, of states [width] alone, in the way that suits CUDA, whose ScatterND has one
    thread for all of a row. A row that is not good is put back as it was."""
    kept = {name: _choose(b, good, after[name], f"before.{name}", rows[name].dtype)
            for name in rows}  # fmt: skip
    _put_elements(b, rows, kept)


def guard(b: Builder, watched: Sequence[str], rank: int) -> str:
    """Whether all of a row's values are finite, bool [B, 1]; tensors are [B, n] or [T, B, n].

    x * 0 is 0 for every finite x and NaN otherwise.
    """
    totals = [_total(b, each, [1] if rank == 2 else [0, 2]) for each in watched]
    total = totals[0] if len(totals) == 1 else b.add("Sum", *totals)
    return b.unsqueeze(b.add("Equal", total, b.number(0.0)), 1)


def _total(b: Builder, x: str, axes: list[int]) -> str:
    poison = b.add("Mul", x, b.number(0.0))
    return b.add("ReduceSum", poison, b.integers(*axes), keepdims=0)


def _alone(rows: Rows) -> list[ValueInfoProto]:
    """Rows of all states on their own."""
    return [value(f"row.{name}", kind_of(row.dtype), "B", *row.shape) for name, row in rows.items()]


def _beside(b: Builder, flags: str, rows: Rows) -> dict[int, str]:
    """bool [B] as [B, 1, ...] beside rows of each number of axes."""
    found = {}
    for axes in sorted({len(row.shape) for row in rows.values()}):
        found[axes] = b.unsqueeze(flags, *range(1, axes + 1)) if axes else flags
    return found


def _choose(b: Builder, where: str, this: str, that: str, dtype: str) -> str:
    """`this` where it is true, else `that`; onnxruntime's Where does not know bool."""
    if dtype != "bool":
        return b.add("Where", where, this, that)
    numbers = [b.add("Cast", each, to=TensorProto.UINT8) for each in (this, that)]
    return b.add("Cast", b.add("Where", where, *numbers), to=BOOL)


def _put(b: Builder, rows: Mapping[str, str], index: str) -> None:
    for name, row in rows.items():
        b.add("ScatterND", f"state.{name}", index, row, outputs=[f"state.{name}.next"])


def _put_elements(b: Builder, rows: Rows, kept: Mapping[str, str]) -> None:
    """ScatterElements wants the slot of every value; states of a width share theirs."""
    slots, index = b.unsqueeze("slots", 1), dict[int, str]()
    for name, row in kept.items():
        (width,) = rows[name].shape
        if width not in index:
            index[width] = b.add("Expand", slots, b.integers(1, width))
        arena, after = f"state.{name}", f"state.{name}.next"
        b.add("ScatterElements", arena, index[width], row, outputs=[after], axis=0)
