"""A shadow: another version that steps the same inputs, unseen by callers, and is compared.

It has an engine and a thread of its own. The version that callers see does no more for it than copy
a run's columns into a bounded queue; what the shadow cannot keep up with is dropped and counted.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from server.bundle.manifest import Manifest
from server.engine.engine import Engine, EngineRows
from server.engine.thread import EngineThread
from server.serving.migration import By, check
from server.serving.model import ServedModel
from server.serving.shadow_course import Course
from server.serving.shadow_metrics import ShadowMetrics
from server.sessions.step_protocol import Applied

log = logging.getLogger(__name__)

MOST_STEPS = 16_384  # that wait

Floats = NDArray[np.float32]


class Shadow:
    """Steps `engine` beside `model`.

    Raises:
        CannotMigrate: their observations or outputs differ in width.
    """

    def __init__(
        self, model: ServedModel, engine: Engine, metrics: ShadowMetrics, most: int = MOST_STEPS
    ) -> None:
        check(model.manifest, engine.manifest, By.INPUTS)
        self.model, self._engine, self._metrics, self._most = model, engine, metrics, most
        self._course = Course(engine.capacity, model.directory.live)
        self._queue: deque[tuple[int, Applied]] = deque()
        self._steps = self._number = 0
        self._condition = threading.Condition()
        self._stopped = False
        name = f"shadow-{engine.manifest.name}-{engine.manifest.version}"
        self._thread = EngineThread(engine, self._live, name)

    def start(self) -> None:
        """Begin to step along.

        Raises:
            BadModel: as `Engine.begin`; nothing has begun.
        """
        try:
            self._thread.start()
        except BaseException:
            self._end()
            raise
        self.model.on_made, self.model.shadow = self.interrupt, self.note

    def stop(self) -> None:
        """Step no more; what waits is forgotten, and the engine's memory given back."""
        self.model.on_made, self.model.shadow = lambda _: None, None
        with self._condition:
            self._stopped = True
            self._condition.notify()
        self._thread.join()
        self._end()

    def _end(self) -> None:
        self._engine.release()
        self._metrics.remove()

    def note(self, applied: Applied) -> None:
        """Take a run over, in whichever thread holds the other engine; or drop it."""
        steps = applied.rows.steps
        with self._condition:
            self._number += 1
            number = self._number
            fits = self._steps + steps <= self._most and not self._stopped
            if fits:
                self._steps += steps
                self._queue.append((number, _copied(applied)))
                self._condition.notify()
        if not fits:
            self._course.miss(applied.handles, number)
            self._metrics.dropped.inc(steps)

    def interrupt(self, handle: int) -> None:
        """A session has become another in a way that no step tells."""
        with self._condition:
            self._number += 1
            self._course.miss(np.array([handle]), self._number)

    def _live(self) -> None:
        while (taken := self._take()) is not None:
            number, applied = taken
            try:
                self._follow(number, applied)
            except Exception:  # callers must not notice; nor may the shadow go on from halfway
                log.exception("a shadow's run failed")
                for handle in applied.handles.tolist():
                    self._course.give_up(handle)
                self._metrics.stopped.inc(len(applied.handles))

    def _take(self) -> tuple[int, Applied] | None:
        with self._condition:
            while not (self._queue or self._stopped):
                self._condition.wait()
            if self._stopped:
                return None
            taken = self._queue.popleft()
            self._steps -= taken[1].rows.steps
            return taken

    def _follow(self, number: int, applied: Applied) -> None:
        slots, given_up = self._course.enter(applied.handles, applied.counts, number)
        self._metrics.stopped.inc(given_up)
        most = self._engine.manifest.max_batch
        followed = np.flatnonzero(slots)
        for at in range(0, len(followed), most):
            rows = followed[at : at + most]
            self._step(_some(applied, rows, slots[rows]))

    def _step(self, applied: Applied) -> None:
        """Step followed sessions, and compare what was finite; the others' states are not what they
        would be."""
        ran = applied.rows
        outputs = self._run(ran)
        steps = np.arange(outputs.shape[1]) < ran.lengths[:, None]
        good = np.isfinite(outputs).all(axis=2) | ~steps
        whole = np.asarray(good.all(axis=1))
        self._course.advance(ran.slots[whole], (applied.counts + ran.lengths)[whole])
        for handle in applied.handles[~whole].tolist():
            self._course.give_up(handle)
        self._metrics.stopped.inc(int((~whole).sum()))
        kept = steps & whole[:, None]
        compare(self._engine.manifest, applied.outputs[kept], outputs[kept], self._metrics)

    def _run(self, rows: EngineRows) -> Floats:
        """One run, or several where this version takes shorter chunks."""
        most, width = self._engine.manifest.max_chunk, rows.features.shape[1]
        outputs = np.zeros((*rows.features.shape[:2], self._engine.manifest.outputs_width), "f4")
        for at in range(0, width, most):
            on = np.flatnonzero(rows.lengths > at)
            lengths = np.minimum(rows.lengths[on] - at, most).astype(np.int32)
            features = np.ascontiguousarray(rows.features[on, at : at + most])
            fresh = rows.fresh[on] & (at == 0)
            part = EngineRows(rows.slots[on], fresh, lengths, features)
            outputs[on, at : at + most] = self._engine.run(part)
        return outputs


def compare(manifest: Manifest, seen: Floats, unseen: Floats, metrics: ShadowMetrics) -> None:
    """Tell the metrics how far the outputs [n, O] of the same steps are apart."""
    if not len(seen):
        return
    apart = np.abs(seen.astype(np.float64) - unseen)
    metrics.compared(apart.max(axis=1), apart.mean(axis=1))
    differs, at, classed = np.zeros(len(seen), dtype=np.bool_), 0, False
    for output in manifest.outputs:
        group = slice(at, at + output.size)
        at += output.size
        if output.kind == "probability":
            classed = True
            differs |= seen[:, group].argmax(axis=1) != unseen[:, group].argmax(axis=1)
    if classed:
        metrics.classed(differs)


def _copied(applied: Applied) -> Applied:
    rows = applied.rows
    copies = EngineRows(rows.slots, rows.fresh.copy(), rows.lengths.copy(), rows.features.copy())
    return Applied(applied.handles.copy(), applied.counts.copy(), copies, applied.outputs.copy())


def _some(applied: Applied, rows: NDArray[np.int64], slots: NDArray[np.int64]) -> Applied:
    ran = applied.rows
    fresh = applied.counts[rows] == 0
    some = EngineRows(slots, fresh, ran.lengths[rows], ran.features[rows])
    return replace(
        applied, handles=applied.handles[rows], counts=applied.counts[rows], rows=some,
        outputs=applied.outputs[rows],
    )  # fmt: skip
