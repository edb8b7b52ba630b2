"""The rows' way out of the arenas and back into them; the graphs that do only this; the guard."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto, ValueInfoProto

from training.graphs.builder import BOOL, FLOAT, INT64, Builder, value
from training.network import Network


def read_graph(network: Network, opset: int) -> ModelProto:
    """Slots -> rows."""
    b = Builder()
    states = list(network.states())
    for name, _ in states:
        b.add("Gather", f"state.{name}", "slots", outputs=[f"row.{name}"], axis=0)
    inputs = [value("slots", INT64, "B"), *arenas(network)]
    return b.model("read", inputs, [value(f"row.{n}", FLOAT, "B", w) for n, w in states], opset)


def write_graph(network: Network, opset: int) -> ModelProto:
    """Slots, rows -> arenas."""
    b = Builder()
    _put(b, {name: f"row.{name}" for name, _ in network.states()})
    rows = [value(f"row.{name}", FLOAT, "B", width) for name, width in network.states()]
    inputs = [value("slots", INT64, "B"), *rows, *arenas(network)]
    return b.model("write", inputs, arenas(network, ".next"), opset)


def row_inputs() -> list[ValueInfoProto]:
    """Which slot each row is of, and whether it starts from the initial state."""
    return [value("slots", INT64, "B"), value("fresh", BOOL, "B")]


def arenas(network: Network, suffix: str = "") -> list[ValueInfoProto]:
    """The arenas as inputs, or with the suffix ".next" as outputs."""
    return [value(f"state.{name}{suffix}", FLOAT, "N", width) for name, width in network.states()]


def gather(b: Builder, network: Network) -> dict[str, str]:
    """Each state's rows, or the initial zeros where the session is fresh."""
    fresh = b.add("Unsqueeze", "fresh", b.integers(1))
    rows = {}
    for name, _ in network.states():
        row = b.add("Gather", f"state.{name}", "slots", outputs=[f"before.{name}"], axis=0)
        rows[name] = b.add("Where", fresh, b.number(0.0), row)
    return rows


def scatter(b: Builder, after: dict[str, str], good: str) -> None:
    """Put the rows back, last of all; a row that is not `good` [B, 1] keeps its former state."""
    _put(b, {name: b.add("Where", good, row, f"before.{name}") for name, row in after.items()})


def guard(b: Builder, watched: Sequence[str], rank: int) -> str:
    """Whether all of a row's values are finite, bool [B, 1]; tensors are [B, n] or [T, B, n].

    x * 0 is 0 for every finite x and NaN otherwise.
    """
    totals = [_total(b, each, [1] if rank == 2 else [0, 2]) for each in watched]
    total = totals[0] if len(totals) == 1 else b.add("Sum", *totals)
    return b.add("Unsqueeze", b.add("Equal", total, b.number(0.0)), b.integers(1))


def _total(b: Builder, x: str, axes: list[int]) -> str:
    poison = b.add("Mul", x, b.number(0.0))
    return b.add("ReduceSum", poison, b.integers(*axes), keepdims=0)


def _put(b: Builder, rows: dict[str, str]) -> None:
    index = b.add("Unsqueeze", "slots", b.integers(1))
    for name, row in rows.items():
        b.add("ScatterND", f"state.{name}", index, row, outputs=[f"state.{name}.next"])
