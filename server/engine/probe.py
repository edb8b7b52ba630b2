"""Checks at load what onnxruntime does not promise: that a run updates the arenas in place.

One row is stepped; the others must stay as they were, and the step must not cost more in a large
arena than in a tiny one, as it would if a hidden copy of the arena were made at each run. Rows are
looked at from all over the arena, not all of them: that would take several times its memory. Every
state must change in one of the trials: a counter may come to just the mark that lay there, and a
model may answer zeros with a number that is not finite, so that its row keeps the state it had.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from server.engine.engine import Engine, EngineRows
from server.errors import BadModel

ROUNDS = 30
NEAR, BETWEEN = 64, 256  # slots looked at, at either end and elsewhere
# What lies in the arenas before the step, and the features' deviation.
TRIALS = ((1, 0.0), (0, 0.0), (1, 1.0), (0, 1.0))


def probe(engine: Engine, tiny: Engine) -> None:
    """Refuse a model whose arenas are not updated in place; also warms both graphs up.

    Args:
        engine: the engine to serve with, its sessions all unused; left as it was found.
        tiny: the same model with an arena of a few rows, for comparison.

    Raises:
        BadModel: a run touches other rows, does not step its own, fails, or copies arenas.
    """
    where = f"{engine.manifest.name}/{engine.manifest.version}"
    try:
        for width in sorted({1, engine.manifest.max_chunk}):
            _check_rows(engine, width, where)
            _check_cost(engine, tiny, width, where)
    except BadModel:
        raise
    except Exception as error:
        raise BadModel(f"{where} does not run: {error}") from error


def _rows(engine: Engine, slot: int, width: int, deviation: float = 0.0) -> EngineRows:
    shape = (1, width, engine.manifest.inputs_width)
    features = np.random.default_rng(0).normal(0.0, deviation, shape).astype(np.float32)
    return EngineRows(
        slots=np.array([slot], dtype=np.int64),
        fresh=np.ones(1, dtype=np.bool_),
        lengths=np.full(1, width, dtype=np.int32),
        features=features,
    )


def _check_rows(engine: Engine, width: int, where: str) -> None:
    """Steps slot 1 of marked arenas until every state has changed, then clears the marks."""
    looked_at = _sample(engine.capacity)
    found = engine.read(looked_at)
    left = {arena.name for arena in engine.arenas}
    for mark, deviation in TRIALS:
        engine.write(looked_at, [np.full_like(state, mark) for state in found])
        left -= _changed(engine, looked_at, _rows(engine, 1, width, deviation), where)
        if not left:
            break
    engine.write(looked_at, found)
    for name in sorted(left):
        raise BadModel(f"{where}: a step leaves state {name!r} where it was; the arena "
                       "is not updated in place")  # fmt: skip


def _sample(capacity: int) -> NDArray[np.int64]:
    """Slots to look at, ascending: the first ones, the last ones, and some between."""
    ends = np.arange(1, min(capacity, NEAR) + 1), np.arange(max(1, capacity - NEAR), capacity + 1)
    between = np.random.default_rng(0).integers(1, capacity + 1, BETWEEN)
    return np.unique(np.concatenate([*ends, between]))


def _changed(
    engine: Engine, looked_at: NDArray[np.int64], rows: EngineRows, where: str
) -> set[str]:
    """Step slot 1 and tell which states did so; the other rows looked at must stay."""
    before = engine.read(looked_at)
    outputs = engine.run(rows)
    if outputs.shape != (*rows.features.shape[:2], engine.manifest.outputs_width):
        width = rows.features.shape[1]
        raise BadModel(f"{where} answers a step of width {width} with shape {outputs.shape}")
    changed = set()
    for arena, old, new in zip(engine.arenas, before, engine.read(looked_at), strict=True):
        if not np.array_equal(new[1:], old[1:]):
            raise BadModel(f"{where}: stepping one session changes others in state {arena.name!r}")
        if not np.array_equal(new[0], old[0]):
            changed.add(arena.name)
    return changed


def _check_cost(engine: Engine, tiny: Engine, width: int, where: str) -> None:
    large, small = np.inf, np.inf
    for _ in range(ROUNDS):  # the best of interleaved rounds, so that noise hits both
        large = min(large, _seconds(engine, width))
        small = min(small, _seconds(tiny, width))
    if large > 4 * small + 200e-6:
        raise BadModel(
            f"{where}: a step takes {large * 1e6:.0f} µs with {engine.capacity} slots and "
            f"{small * 1e6:.0f} µs with {tiny.capacity}; the arena is not updated in place"
        )


def _seconds(engine: Engine, width: int) -> float:
    rows = _rows(engine, 0, width)
    started = time.perf_counter()
    engine.run(rows)
    return time.perf_counter() - started
