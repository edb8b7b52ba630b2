"""onnxruntime alone: the server's engine called in a loop, with no server around it."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np

from benchmarks.models import H64, rows_of
from server.engine.device import Device
from server.engine.engine import Engine, EngineRows


@dataclass(frozen=True)
class Alone:
    """Speed at one batch size, on one core."""

    steps_per_second: float
    cpu_microseconds: float


def measure(batch: int, seconds: float, repeats: int) -> Alone:
    """The median of `repeats` rounds of `seconds`."""
    engine = Engine(H64.bundle(), Device("cpu"), batch)
    features = np.random.default_rng(batch).normal(size=(batch, 1, H64.inputs))
    rows = rows_of(features.astype(np.float32))
    _round(engine, rows, seconds / 4)
    rounds = [_round(engine, rows, seconds) for _ in range(repeats)]
    return Alone(
        statistics.median(each.steps_per_second for each in rounds),
        statistics.median(each.cpu_microseconds for each in rounds),
    )


def _round(engine: Engine, rows: EngineRows, seconds: float) -> Alone:
    steps, started, used = 0, time.perf_counter(), time.process_time()
    while (took := time.perf_counter() - started) < seconds:
        engine.run(rows)
        steps += len(rows.slots)
    return Alone(steps / took, (time.process_time() - used) / steps * 1e6)
