"""Whether a device updates arenas in place: the server's own probe, and what a step costs as the
arena grows. A hidden copy of the arena at each run would make the cost grow with it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from benchmarks.models import Shape, rows_of
from server.bundle.repository import Bundle
from server.engine.device import Device
from server.engine.engine import Engine, EngineRows
from server.engine.probe import probe
from server.errors import BadModel

BATCH, ROUNDS = 128, 100


@dataclass(frozen=True)
class InPlace:
    """One capacity: its arenas' size, a step's median time, and what was wrong, if anything."""

    model: str
    graph: str
    capacity: int
    state_bytes: int
    step_seconds: float
    problem: str


def check(shape: Shape, device: Device, capacities: list[int]) -> list[InPlace]:
    """Probe an arena of each capacity and time runs of 128 rows in it, graph by graph."""
    bundle, batch = shape.bundle(), min(BATCH, *capacities)
    return [row for each in capacities for row in _check(shape, bundle, device, each, batch)]


def flat(rows: list[InPlace]) -> bool:
    """Whether the largest arena's steps cost about what the smallest's do, for each graph."""
    for graph in {row.graph for row in rows}:
        costs = [row.step_seconds for row in rows if row.graph == graph]
        if costs[-1] > 2 * costs[0] + 200e-6:
            return False
    return True


def _check(
    shape: Shape, bundle: Bundle, device: Device, capacity: int, batch: int
) -> list[InPlace]:
    engine = Engine(bundle, device, capacity)
    addresses, problem = _addresses(engine), _probe(engine, Engine(bundle, device, 2))
    results = []
    for graph, width in (("single", 1), ("ragged", 16)):
        features = np.ones((batch, width, shape.inputs), dtype=np.float32)
        seconds = _median(engine, rows_of(features))
        if _addresses(engine) != addresses:
            problem = problem or "an arena has moved"
        size = engine.state_bytes
        results.append(InPlace(shape.name, graph, capacity, size, seconds, problem))
    return results


def _addresses(engine: Engine) -> list[int]:
    return [int(arena.value.data_ptr()) for arena in engine.arenas]


def _probe(engine: Engine, tiny: Engine) -> str:
    """What the server's own check finds wrong, if anything."""
    try:
        probe(engine, tiny)
    except BadModel as error:
        return str(error)
    return ""


def _median(engine: Engine, rows: EngineRows) -> float:
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        engine.run(rows)
        times.append(time.perf_counter() - started)
    return float(np.median(times))
