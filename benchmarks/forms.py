"""The two step graphs beside each other on single steps: plain Gemms, and the LSTM operator.

`python -m benchmarks.forms`; medians of interleaved runs, so that noise hits both alike.
"""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import median

import numpy as np

from benchmarks.models import H64, rows_of
from server.bundle.manifest import SINGLE
from server.engine.device import choose
from server.engine.engine import Engine

BATCHES, ROUNDS = (1, 16, 128, 1024), 300


def main() -> None:
    """Print microseconds a run for h64: one layer of 64 units, 16 features, 32 outputs."""
    bundle = H64.bundle()
    graphs = {name: graph for name, graph in bundle.graphs.items() if name != SINGLE}
    device = choose("auto")
    gemms, operator = (
        Engine(each, device, max(BATCHES)) for each in (bundle, replace(bundle, graphs=graphs))
    )
    print(f"h64 on {device.name}, median of {ROUNDS} runs\n")
    print("| batch | single.onnx (Gemm), µs | step.onnx (LSTM operator), µs |\n|--:|--:|--:|")
    for batch in BATCHES:
        times = [(_seconds(gemms, batch), _seconds(operator, batch)) for _ in range(ROUNDS)]
        first, second = (median(column) * 1e6 for column in zip(*times, strict=True))
        print(f"| {batch:,} | {first:.0f} | {second:.0f} |")


def _seconds(engine: Engine, batch: int) -> float:
    rows = rows_of(np.ones((batch, 1, H64.inputs), np.float32))
    started = time.perf_counter()
    engine.run(rows)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
