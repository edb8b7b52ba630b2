"""How long a run takes, by model, graph and batch: what the server's batcher waits for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.models import Shape, rows_of
from server.engine.device import Device
from server.engine.engine import Engine, EngineRows

WARM_UP_RUNS, FEWEST_RUNS = 5, 5


@dataclass(frozen=True)
class Latency:
    """Runs of `batch` rows of `width` steps: from features on the host to outputs on the host."""

    model: str
    width: int
    batch: int
    runs: int
    p50: float
    p99: float
    steps_per_second: float


def measure(
    shape: Shape, device: Device, batches: list[int], widths: list[int], seconds: float
) -> Iterator[Latency]:
    """Run each width and batch for about `seconds`."""
    engine = Engine(shape.bundle(), device, max(batches))
    for width in widths:
        for batch in batches:
            features = np.random.default_rng(batch).normal(size=(batch, width, shape.inputs))
            times = _times(engine, rows_of(features.astype(np.float32)), seconds)
            p50, p99 = np.percentile(times, [50, 99])
            rate = batch * width * len(times) / sum(times)
            yield Latency(shape.name, width, batch, len(times), float(p50), float(p99), float(rate))


def _times(engine: Engine, rows: EngineRows, seconds: float) -> list[float]:
    for _ in range(WARM_UP_RUNS):
        engine.run(rows)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < FEWEST_RUNS or time.perf_counter() < end:
        started = time.perf_counter()
        engine.run(rows)
        times.append(time.perf_counter() - started)
    return times
