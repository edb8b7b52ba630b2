"""Whether a device's outputs and states are the CPU's, over sessions of many steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.models import Shape
from server.engine.device import Device
from server.engine.engine import Engine, EngineRows

SESSIONS, RUNS, CHUNK = 16, 40, 8
TOLERANCE = 1e-3


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


def compare(shape: Shape, device: Device) -> list[Parity]:
    """Single steps, ragged chunks, and the two mixed, on `device` and on the CPU."""
    bundle = shape.bundle()
    return [
        _compare(
            shape,
            graph,
            widths,
            Engine(bundle, device, SESSIONS),
            Engine(bundle, Device("cpu"), SESSIONS),
        )
        for graph, widths in (("single", [1]), ("ragged", [CHUNK]), ("mixed", [1, CHUNK]))
    ]


def _compare(shape: Shape, graph: str, widths: list[int], ours: Engine, theirs: Engine) -> Parity:
    rng = np.random.default_rng(5)
    worst, steps = 0.0, 0
    for k in range(RUNS):
        rows = _rows(rng, shape, widths[k % len(widths)], fresh=k == 0)
        mask = np.arange(rows.features.shape[1]) < rows.lengths[:, None]
        worst = max(worst, _difference(ours.run(rows)[mask], theirs.run(rows)[mask]))
        steps += int(rows.lengths.sum())
    slots = np.arange(1, SESSIONS + 1, dtype=np.int64)
    pairs = zip(ours.read(slots), theirs.read(slots), strict=True)
    return Parity(shape.name, graph, steps, worst, max(_difference(a, b) for a, b in pairs))


def _rows(rng: np.random.Generator, shape: Shape, width: int, fresh: bool) -> EngineRows:
    """Every session once, in another order each time, by 1 to `width` steps."""
    return EngineRows(
        slots=rng.permutation(np.arange(1, SESSIONS + 1, dtype=np.int64)),
        fresh=np.full(SESSIONS, fresh, dtype=np.bool_),
        lengths=rng.integers(1, width + 1, SESSIONS).astype(np.int32),
        features=rng.normal(size=(SESSIONS, width, shape.inputs)).astype(np.float32),
    )


def _difference(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
    # max() passes a NaN over; infinity it keeps.
    return float(difference) if np.isfinite(difference) else float("inf")
