"""Checks at load what onnxruntime does not promise: that a run updates the arenas in place.

One row is stepped; every other row must stay as it was, and the step must not cost more in a large
arena than in a tiny one, as it would if a hidden copy of the arena were made at each run.
"""

from __future__ import annotations

import time

import numpy as np

from server.engine.engine import Engine, EngineRows
from server.errors import BadModel

ROUNDS = 30


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


def _rows(engine: Engine, slot: int, width: int) -> EngineRows:
    features = np.zeros((1, width, engine.manifest.inputs_width), dtype=np.float32)
    return EngineRows(
        slots=np.array([slot], dtype=np.int64),
        fresh=np.ones(1, dtype=np.bool_),
        lengths=np.full(1, width, dtype=np.int32),
        features=features,
    )


def _check_rows(engine: Engine, width: int, where: str) -> None:
    """Steps slot 1 of an arena marked with ones, then clears the marks."""
    marked = np.arange(min(engine.capacity, 64) + 1, dtype=np.int64)
    zeros = engine.read(marked)
    engine.write(marked, [np.ones_like(state) for state in zeros])
    before = [arena.copy() for arena in engine.arenas]
    outputs = engine.run(_rows(engine, 1, width))
    if outputs.shape != (1, width, engine.manifest.outputs_width):
        raise BadModel(f"{where} answers a step of width {width} with shape {outputs.shape}")
    for arena, old in zip(engine.arenas, before, strict=True):
        new = arena.copy()
        if not np.array_equal(np.delete(new, 1, axis=0), np.delete(old, 1, axis=0)):
            raise BadModel(f"{where}: stepping one session changes others in state {arena.name!r}")
        if np.array_equal(new[1], old[1]):
            raise BadModel(f"{where}: a step leaves state {arena.name!r} where it was; the arena "
                           "is not updated in place")  # fmt: skip
    engine.write(marked, zeros)


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
