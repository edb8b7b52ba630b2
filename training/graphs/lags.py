"""The linear path beside the layers: what it says of the last steps, and the lags that it keeps.

The lags are a state like any other, a row [lags * W] of an arena, the oldest step first. Always in
float32: it says most of what there is to say, in units.
"""

from __future__ import annotations

import numpy as np

from training.graphs.arenas import MOST_PACKED
from training.graphs.builder import BOOL, FLOAT, INT64, Builder, value
from training.graphs.encode import see
from training.network import Linear, Network


def present(b: Builder, network: Network, raw: str, before: str) -> tuple[str, str]:
    """Of one step: raw [B, F] and the lags before [B, lags * W] to what is said, the head's bias
    with it [B, O], and the lags after."""
    linear = _linear(network)
    seen, unseen = see(b, network, raw)
    before = _begun(b, linear, seen, before)
    if unseen:
        last = _from(b, before, (linear.lags - 1) * linear.width)
        seen = b.add("Where", unseen, last, seen)
    steps = b.add("Concat", before, seen, axis=1)
    bias = b.constant("head_b", network.head_b)
    said = b.add("Gemm", steps, b.constant("linear_w", linear.w.T), bias)
    return said, _from(b, steps, linear.width)


def over_time(b: Builder, network: Network, raw: str, before: str) -> tuple[str, str]:
    """The same of ragged chunks: raw [T, B, F] to what is said at each step [T, B, O], and the lags
    after the last one of each row, by "lengths"."""
    linear = _linear(network)
    seen, unseen = see(b, network, raw)
    first = b.add("Gather", seen, b.constant("step_0", np.array(0, np.int64)), axis=0)
    before = _begun(b, linear, first, before)
    if unseen:
        last = _from(b, before, (linear.lags - 1) * linear.width)
        seen = _filled(b, linear, seen, unseen, last)
    lags = b.add("Reshape", before, b.integers(0, linear.lags, linear.width))
    by_row = b.add("Transpose", seen, perm=[1, 0, 2])
    steps = b.add("Concat", lags, by_row, axis=1)
    return _said(b, network, steps, seen), _last(b, linear, steps)


def _linear(network: Network) -> Linear:
    assert network.linear is not None
    return network.linear


def _begun(b: Builder, linear: Linear, first: str, before: str) -> str:
    """The lags before a chunk whose first step is `first` [B, W]: before a session is its first."""
    return b.add("Where", b.unsqueeze("fresh", 1), _repeated(b, first, linear.lags), before)


def _repeated(b: Builder, x: str, times: int) -> str:
    """x [B, W] so many times side by side; a Tile where a Concat could not be captured."""
    if times == 1:
        return x
    if times > MOST_PACKED:
        return b.add("Tile", x, b.integers(1, times))
    return b.add("Concat", *[x] * times, axis=1)


def _from(b: Builder, x: str, column: int) -> str:
    """The columns of x from that one on."""
    if not column:
        return x
    last = b.integers(np.iinfo(np.int64).max)
    return b.add("Slice", x, b.integers(column), last, b.integers(1))


def _filled(b: Builder, linear: Linear, seen: str, unseen: str, last: str) -> str:
    """seen [T, B, W] with what is unseen as it was last, step by step."""
    inner = b.body("known_")
    p = inner.prefix
    inner.add("Where", f"{p}unseen", f"{p}last", f"{p}seen", outputs=[f"{p}now"])
    inner.add("Identity", f"{p}now", outputs=[f"{p}every"])
    edges = {name: value(f"{p}{name}", FLOAT, "B", linear.width)
             for name in ("last", "seen", "now", "every")}  # fmt: skip
    given = [edges["last"], edges["seen"], value(f"{p}unseen", BOOL, "B", linear.width)]
    body = inner.graph("known", given, [edges["now"], edges["every"]])
    names = ["last_known", "all_known"]
    b.add("Scan", last, seen, unseen, outputs=names, body=body, num_scan_inputs=2)
    return names[1]


def _said(b: Builder, network: Network, steps: str, seen: str) -> str:
    """From steps [B, lags + T, W], the lags first, to what is said [T, B, O]."""
    linear = _linear(network)
    count = b.add("Squeeze", b.add("Shape", seen, start=0, end=1), b.integers(0))
    zero, one = (b.constant(f"step_{k}", np.array(k, np.int64)) for k in (0, 1))
    starts = b.unsqueeze(b.add("Range", zero, count, one), 1)
    places = b.add("Add", starts, b.integers(*range(linear.lags + 1)))
    windows = b.add("Gather", steps, places, axis=1)
    rows = b.add("Reshape", windows, b.integers(0, 0, linear.w.shape[1]))
    said = b.add("MatMul", rows, b.constant("linear_w", linear.w.T))
    said = b.add("Add", said, b.constant("head_b", network.head_b))
    return b.add("Transpose", said, perm=[1, 0, 2])


def _last(b: Builder, linear: Linear, steps: str) -> str:
    """The last lags of each row [B, lags * W], which end where the row does."""
    lengths = b.unsqueeze(b.add("Cast", "lengths", to=INT64), 1)
    places = b.add("Add", lengths, b.integers(*range(linear.lags)))
    lags = b.add("GatherND", steps, b.unsqueeze(places, 2), batch_dims=1)
    return b.add("Reshape", lags, b.integers(0, linear.lags * linear.width))
