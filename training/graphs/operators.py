"""A layer over time by ONNX's LSTM, GRU or RNN operator: x [T, B, I] -> h of every step."""

from __future__ import annotations

import numpy as np

from training.graphs.builder import FLOAT, FLOAT16, Builder
from training.graphs.cells import Cell, State
from training.network import Floats, Layer

# Blocks of gates as torch has them, in the operator's order: i, o, f, c and z, r, h.
ORDER = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}


def over_time(b: Builder, cell: Cell, x: str, lengths: str, state: State) -> tuple[str, State]:
    """h of every step [T, B, H], zeros from a row's length on, and the state after its last.

    `lengths` is int32 [B], or "" where every row has T steps.
    """
    layer, k, precision = cell.layer, cell.k, cell.precision
    first, kind = b.integers(0), np.float16 if precision == "float16" else np.float32
    starts = [_in(b, b.add("Unsqueeze", each, first), precision) for each in state.values()]
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
    bias = np.concatenate([_ordered(layer, layer.b), _ordered(layer, own)])
    blocks = {f"w{k}": _ordered(layer, layer.w), f"r{k}": _ordered(layer, layer.r), f"b{k}": bias}
    return {name: block[None] for name, block in blocks.items()}


def _ordered(layer: Layer, rows: Floats) -> Floats:
    blocks = rows.reshape(-1, layer.hidden, *rows.shape[1:])
    return blocks[list(ORDER[layer.cell])].reshape(rows.shape)


def _in(b: Builder, x: str, precision: str) -> str:
    return b.add("Cast", x, to=FLOAT16) if precision == "float16" else x


def _out(b: Builder, x: str, precision: str) -> str:
    return b.add("Cast", x, to=FLOAT) if precision == "float16" else x
