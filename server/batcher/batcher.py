"""The loop: whenever the engine is free, take what is pending, run it, answer it.

It runs in a thread of its own, one a model. No timer: under load the run before is the wait, and an
idle server answers at once: a few steps that arrive while nothing waits run in the thread that
brings them, if the model is quick. onnxruntime lets go of the interpreter's lock during a run, so
that meanwhile the transport decodes what comes next and replies to what went before.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from server.batcher.batch import Batch, fail_all
from server.batcher.errand import Errand
from server.batcher.part import split
from server.batcher.queue import Picked, StepQueue
from server.batcher.submission import Submission
from server.engine.engine import Engine, EngineRows
from server.errors import RunFailed
from server.metrics import ModelMetrics

log = logging.getLogger(__name__)

T = TypeVar("T")

FEW_STEPS = 16
SHORT_RUN = 300e-6


class Ledger(Protocol):
    """Who knows which step of which session is next. Sessions implement it."""

    def settle(self, batch: Batch) -> NDArray[np.bool_]:
        """Answer or fail the open rows that must not run; returns `fresh` for all rows."""

    def commit(
        self, batch: Batch, rows: NDArray[np.int64], ran: EngineRows, outputs: NDArray[np.float32]
    ) -> None:
        """Note that `rows` ran with `outputs`, and answer or fail them."""


class Batcher:
    """Drives one engine from one queue."""

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        metrics: ModelMetrics,
        *,
        max_batch: int,
        max_queued_steps: int,
    ) -> None:
        self.queue = StepQueue(engine.capacity, max_queued_steps)
        self._engine, self._ledger, self._metrics = engine, ledger, metrics
        self._max_batch = min(max_batch, engine.manifest.max_batch)
        self._rate = 0.0
        self._engine_free = threading.Lock()  # held for a turn, in whichever thread
        self._short_run = 0.0  # seconds a run of few steps takes, lately
        name = f"batcher-{engine.manifest.name}-{engine.manifest.version}"
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        """Begin to run what is submitted."""
        self._thread.start()

    def submit(self, submission: Submission) -> None:
        """Queue a submission's rows; its `on_done` follows from the batcher's thread, or from
        this one where a short run is done at once.

        Raises:
            QueueFull: no room; nothing was queued.
        """
        if not self._at_once(submission):
            self.queue.put(submission, self._rate)

    def between_runs(self, work: Callable[[Engine], T]) -> Future[T]:
        """Have `work` done in the batcher's thread while no run is under way.

        Raises:
            QueueFull: too much of it waits already.
        """
        errand = Errand(work)
        self.queue.ask(errand)
        return errand.done

    def stop(self) -> None:
        """Finish what is queued, then end the thread."""
        self.queue.stop()
        self._thread.join()

    def _loop(self) -> None:
        while (picked := self.queue.take(self._max_batch)) is not None:
            with self._engine_free:
                if errand := self.queue.errand():
                    errand.run(self._engine)
                if picked:
                    self._turn(picked)

    def _at_once(self, submission: Submission) -> bool:
        """Run a few steps right here while nothing else waits: to wake a thread, and to be woken by
        it, takes longer than a short run does."""
        steps = submission.steps
        if steps > FEW_STEPS or self._short_run > SHORT_RUN or not self._thread.is_alive():
            return False
        if not self.queue.is_free_for(steps):
            return False
        parts = list(split(submission))
        if len(parts) > 1 or len(parts[0].slots) > self._max_batch:
            return False
        if not self._engine_free.acquire(blocking=False):
            return False
        try:
            picked = [(parts[0], 0, len(parts[0].slots))]
            self._make(picked)
            self._complete(picked)
        finally:
            self._engine_free.release()
        return True

    def _turn(self, picked: list[Picked]) -> None:
        self._make(picked)
        self.queue.finish(picked)
        self._complete(picked)

    def _make(self, picked: list[Picked]) -> None:
        try:
            self._step(Batch(picked))
        except Exception:
            log.exception("no batch could be made of %d parts", len(picked))
            fail_all(picked, RunFailed())

    def _step(self, batch: Batch) -> None:
        """One run. Whatever fails, every row leaves with an outcome and the loop goes on."""
        try:
            started = time.monotonic()
            batch.drop_late()
            fresh = self._ledger.settle(batch)
            rows = np.flatnonzero(batch.open_rows)
            if len(rows):
                self._run(batch, rows, fresh)
            self._observe(batch, started)
        except Exception:
            log.exception("a run of %d rows failed", len(batch))
            for row in np.flatnonzero(batch.open_rows).tolist():
                batch.fail(row, RunFailed())

    def _run(self, batch: Batch, rows: NDArray[np.int64], fresh: NDArray[np.bool_]) -> None:
        whole = len(rows) == len(batch)
        ran = EngineRows(
            slots=batch.slots if whole else batch.slots[rows],
            fresh=fresh if whole else fresh[rows],
            lengths=batch.lengths if whole else batch.lengths[rows],
            features=batch.features(rows),
        )
        started = time.monotonic()
        outputs = self._engine.run(ran)
        took = time.monotonic() - started
        if len(rows) <= FEW_STEPS:
            self._short_run += 0.1 * (took - self._short_run)
        self._metrics.batch_rows.observe(len(rows))
        self._metrics.engine_seconds.observe(took, ran.steps)
        self._ledger.commit(batch, rows, ran, outputs)

    def _complete(self, picked: list[Picked]) -> None:
        now = time.monotonic()
        for part, start, stop in picked:
            try:
                part.submission.complete(stop - start)
            except Exception:  # one caller's completion must not cost the others theirs
                log.exception("a completion failed")
            whole = now - part.submission.enqueued_at
            self._metrics.step_seconds.observe(whole, part.count(start, stop))

    def _observe(self, batch: Batch, started: float) -> None:
        took = time.monotonic() - started
        self._rate += 0.1 * (batch.steps / max(took, 1e-6) - self._rate)
        for part, start, stop in batch.picked:
            waited = started - part.submission.enqueued_at
            self._metrics.queue_seconds.observe(waited, part.count(start, stop))
