"""Whether a device computes what the CPU does, and updates arenas in place.

Parity compares outputs and states over sessions of many steps. In place is the server's own probe,
and what a step costs as the arena grows: a hidden copy of the arena at each run would make the cost
grow with it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.models import Shape, rows_of
from server.bundle.repository import Bundle
from server.engine.device import Device
from server.engine.engine import Engine, EngineRows
from server.engine.opening import open_engine
from server.engine.probe import probe
from server.errors import BadModel

SESSIONS, RUNS, CHUNK = 16, 40, 8
TOLERANCE = 1e-3
BATCH, ROUNDS = 128, 100


@dataclass(frozen=True)
class Parity:
    """The largest difference of any output and state, relative to the CPU's largest value."""

    model: str
    graph: str
    steps: int
    outputs: float
    states: float

    @property
    def good(self) -> bool:
        """Within 1e-3; a NaN is not."""
        return self.outputs <= TOLERANCE and self.states <= TOLERANCE


def compare_with_cpu(shape: Shape, device: Device) -> list[Parity]:
    """Single steps, ragged chunks, and the two mixed, on `device` and on the CPU."""
    bundle = shape.bundle()
    return [
        _compare(
            shape,
            graph,
            widths,
            open_engine(bundle, device, SESSIONS),
            open_engine(bundle, Device("cpu"), SESSIONS),
        )
        for graph, widths in (("single", [1]), ("ragged", [CHUNK]), ("mixed", [1, CHUNK]))
    ]


def _compare(shape: Shape, graph: str, widths: list[int], ours: Engine, theirs: Engine) -> Parity:
    rng = np.random.default_rng(5)
    worst, steps = 0.0, 0
    ours.begin()
    for k in range(RUNS):
        rows = _rows(rng, shape, widths[k % len(widths)], fresh=k == 0)
        mask = np.arange(rows.features.shape[1]) < rows.lengths[:, None]
        worst = max(worst, _difference(ours.run(rows)[mask], theirs.run(rows)[mask]))
        steps += int(rows.lengths.sum())
    slots = np.arange(1, SESSIONS + 1, dtype=np.int64)
    pairs = zip(ours.read(slots), theirs.read(slots), strict=True)
    return Parity(shape.name, graph, steps, worst, max(_difference(a, b) for a, b in pairs))


def _rows(rng: np.random.Generator, shape: Shape, width: int, fresh: bool) -> EngineRows:
    """Some sessions, at first all, in another order each time, by 1 to `width` steps."""
    count = SESSIONS if fresh else int(rng.integers(1, SESSIONS + 1))
    return EngineRows(
        slots=rng.permutation(np.arange(1, SESSIONS + 1, dtype=np.int64))[:count],
        fresh=np.full(count, fresh, dtype=np.bool_),
        lengths=rng.integers(1, width + 1, count).astype(np.int32),
        features=rng.normal(size=(count, width, shape.inputs)).astype(np.float32),
    )


def _difference(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
    # max() passes a NaN over; infinity it keeps.
    return float(difference) if np.isfinite(difference) else float("inf")


@dataclass(frozen=True)
class InPlace:
    """One capacity: its arenas' size, a step's median time, and what was wrong, if anything."""

    model: str
    graph: str
    capacity: int
    state_bytes: int
    step_seconds: float
    problem: str


def check_in_place(shape: Shape, device: Device, capacities: list[int]) -> list[InPlace]:
    """Probe an arena of each capacity and time runs of 128 rows in it, graph by graph."""
    bundle, batch = shape.bundle(), min(BATCH, *capacities)
    return [
        row for each in capacities for row in _check_capacity(shape, bundle, device, each, batch)
    ]


def is_flat(rows: list[InPlace]) -> bool:
    """Whether the largest arena's steps cost about what the smallest's do, for each graph."""
    for graph in {row.graph for row in rows}:
        costs = [row.step_seconds for row in rows if row.graph == graph]
        if costs[-1] > 2 * costs[0] + 200e-6:
            return False
    return True


def _check_capacity(
    shape: Shape, bundle: Bundle, device: Device, capacity: int, batch: int
) -> list[InPlace]:
    engine = open_engine(bundle, device, capacity)
    addresses, problem = _addresses(engine), _probe(engine, open_engine(bundle, device, 2))
    engine.begin()
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
    return [arena.address for arena in engine.arenas]


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
