"""Checks at load what onnxruntime does not promise: that a run updates the arenas in place.

One row is stepped; the others must stay as they were, and the step must not cost more in a large
arena than in a tiny one, as it would if a hidden copy of the arena were made at each run. Rows are
looked at from all over the arena, not all of them: that would take several times its memory. Every
state must change in one of the trials: a counter may come to just the mark that lay there, and a
model may answer zeros with a number that is not finite, so that its row keeps the state it had.

A run that takes too long is stopped; one of as many rows as a run may have shows what that needs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from server.engine.engine import Engine, EngineRows
from server.engine.graph import first_line
from server.errors import BadModel

RUN_SECONDS = 60.0  # after which a run is stopped
ROUNDS = 30
MANY = 1024  # rows of the largest run, if the model allows as many
NEAR, BETWEEN = 64, 256  # slots looked at, at either end and elsewhere
# What lies in the arenas before the step, and the features' deviation.
TRIALS = ((1, 0.0), (0, 0.0), (1, 1.0), (0, 1.0))


def probe(engine: Engine, tiny: Engine) -> None:
    """Refuse a model whose arenas are not updated in place; also warms both graphs up.

    Args:
        engine: the engine to serve with, its sessions all unused; left as it was found.
        tiny: the same model with an arena of a few rows, for comparison.

    Raises:
        BadModel: a run touches other rows, does not step its own, fails, takes too long, or copies
            arenas.
    """
    where = f"{engine.manifest.name}/{engine.manifest.version}"
    patience = _Patience()
    try:
        with patience.with_runs_of(engine, tiny):
            _Probe(engine, tiny, where, patience).all()
    except BadModel:
        raise
    except Exception as error:
        if patience.ended:
            raise BadModel(f"{where}: a run takes more than {RUN_SECONDS:g} s") from error
        raise BadModel(f"{where} does not run: {first_line(error)}") from error


@dataclass
class _Patience:
    """Has onnxruntime stop a run that takes too long, between two of its operators."""

    options: onnxruntime.RunOptions = field(default_factory=onnxruntime.RunOptions)
    began: float = field(default_factory=time.monotonic)

    @property
    def ended(self) -> bool:
        """Whether a run was stopped."""
        return bool(self.options.terminate)

    def anew(self) -> None:
        """A run begins."""
        self.began = time.monotonic()

    @contextmanager
    def with_runs_of(self, *engines: Engine) -> Iterator[None]:
        over = threading.Event()
        watch = threading.Thread(target=self._watch, args=(over,), name="probe", daemon=True)
        for engine in engines:
            engine.stop_with(self.options)
        watch.start()
        try:
            yield
        finally:
            over.set()
            watch.join()
            for engine in engines:
                engine.stop_with(None)

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(min(1.0, RUN_SECONDS / 2)):
            if time.monotonic() - self.began > RUN_SECONDS:
                self.options.terminate = True


@dataclass(frozen=True)
class _Probe:
    engine: Engine
    tiny: Engine
    where: str
    patience: _Patience

    def all(self) -> None:
        for width in sorted({1, self.engine.manifest.max_chunk}):
            self._check_rows(width)
            self._check_cost(width)
        self._check_many()

    def _check_rows(self, width: int) -> None:
        """Steps slot 1 of marked arenas until every state has changed, then clears the marks."""
        engine, looked_at = self.engine, _sample(self.engine.capacity)
        found = engine.read(looked_at)
        left = {arena.name for arena in engine.arenas}
        for mark, deviation in TRIALS:
            engine.write(looked_at, [np.full_like(state, mark) for state in found])
            left -= self._changed(looked_at, _rows(engine, np.array([1]), width, deviation))
            if not left:
                break
        engine.write(looked_at, found)
        for name in sorted(left):
            raise BadModel(f"{self.where}: a step leaves state {name!r} where it was; the arena "
                           "is not updated in place")  # fmt: skip

    def _changed(self, looked_at: NDArray[np.int64], rows: EngineRows) -> set[str]:
        """Step slot 1 and tell which states did so; the other rows looked at must stay."""
        self.patience.anew()
        engine, before = self.engine, self.engine.read(looked_at)
        outputs = engine.run(rows)
        if outputs.shape != (*rows.features.shape[:2], engine.manifest.outputs_width):
            width = rows.features.shape[1]
            raise BadModel(
                f"{self.where} answers a step of width {width} with shape {outputs.shape}"
            )
        changed = set()
        for arena, old, new in zip(engine.arenas, before, engine.read(looked_at), strict=True):
            if not np.array_equal(new[1:], old[1:]):
                raise BadModel(
                    f"{self.where}: stepping one session changes others in state {arena.name!r}"
                )
            if not np.array_equal(new[0], old[0]):
                changed.add(arena.name)
        return changed

    def _check_cost(self, width: int) -> None:
        large, small, rows = np.inf, np.inf, _rows(self.engine, np.array([0]), width)
        for _ in range(ROUNDS):  # the best of interleaved rounds, so that noise hits both
            large = min(large, self._seconds(self.engine, rows))
            small = min(small, self._seconds(self.tiny, rows))
        if large > 4 * small + 200e-6:
            raise BadModel(
                f"{self.where}: a step takes {large * 1e6:.0f} µs with {self.engine.capacity} "
                f"slots and {small * 1e6:.0f} µs with {self.tiny.capacity}; the arena is not "
                "updated in place"
            )

    def _seconds(self, engine: Engine, rows: EngineRows) -> float:
        self.patience.anew()
        started = time.perf_counter()
        engine.run(rows)
        return time.perf_counter() - started

    def _check_many(self) -> None:
        """A step of as many sessions as one run may have, whose states are put back."""
        self.patience.anew()
        engine = self.engine
        slots = np.arange(1, min(MANY, engine.capacity, engine.manifest.max_batch) + 1)
        found = engine.read(slots)
        engine.run(_rows(engine, slots, 1))
        engine.write(slots, found)


def _rows(
    engine: Engine, slots: NDArray[np.int64], width: int, deviation: float = 0.0
) -> EngineRows:
    shape = (len(slots), width, engine.manifest.inputs_width)
    features = np.random.default_rng(0).normal(0.0, deviation, shape).astype(np.float32)
    return EngineRows(
        slots=slots.astype(np.int64),
        fresh=np.ones(len(slots), dtype=np.bool_),
        lengths=np.full(len(slots), width, dtype=np.int32),
        features=features,
    )


def _sample(capacity: int) -> NDArray[np.int64]:
    """Slots to look at, ascending: the first ones, the last ones, and some between."""
    ends = np.arange(1, min(capacity, NEAR) + 1), np.arange(max(1, capacity - NEAR), capacity + 1)
    between = np.random.default_rng(0).integers(1, capacity + 1, BETWEEN)
    return np.unique(np.concatenate([*ends, between]))
