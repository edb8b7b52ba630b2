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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from server.engine.engine import Engine, EngineRows
from server.engine.thread import EngineThread
from server.errors import Internal, RunFailed, ServingError
from server.metrics import ModelMetrics
from server.scheduler.absent import Absent
from server.scheduler.batch import Batch, fail_all
from server.scheduler.control import ControlCall
from server.scheduler.parts import Picked, parts_of_one_run
from server.scheduler.protocol import StepProtocol
from server.scheduler.queue import StepQueue
from server.scheduler.submission import Rows, Submission

log = logging.getLogger(__name__)

T = TypeVar("T")

FEW_STEPS = 16
SHORT_RUN = 300e-6
CALL_SECONDS = 0.005
BREATH = 50e-6  # seconds for others after a turn of refusals alone, which may be one of thousands


class Scheduler:
    """Drives one engine from one queue.

    Args:
        at_once: steps that may run in the thread that brings them, where the engine allows any.
        on_death: called from the loop's thread should it ever end other than by `stop`.
    """

    def __init__(
        self,
        engine: Engine,
        steps: StepProtocol,
        metrics: ModelMetrics,
        *,
        max_batch: int,
        max_queued_steps: int,
        at_once: int = FEW_STEPS,
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        self.queue = StepQueue(max_queued_steps)
        self._engine, self._steps, self._metrics = engine, steps, metrics
        self._absent = Absent(self.queue, steps, self._leave)
        self._max_batch = min(max_batch, engine.manifest.max_batch, engine.capacity)
        self._rate, self._few = 0.0, at_once if engine.any_thread else 0
        # Whoever may run large batches itself waits for a call between runs, rather than have the
        # loop's thread woken for what comes meanwhile, and then again and again.
        self._patience = CALL_SECONDS if self._few > FEW_STEPS else 0.0
        self._engine_free = threading.Lock()  # held for a turn, in whichever thread
        self._wanted = False  # whether somebody waits for the engine, to run what he brought
        self._runner = 0  # the thread that runs what it brought itself, while it does
        self._short_run = 0.0  # seconds a run of few steps takes, lately
        self._on_death = on_death
        self._ran = False  # whether the last turn let go of the interpreter, as a run does
        self._leaving: list[Picked] = []  # rows that left their run and are not complete yet
        name = f"scheduler-{engine.manifest.name}-{engine.manifest.version}"
        self._thread = EngineThread(engine, self._live, name)

    def start(self) -> None:
        """Begin to run what is submitted.

        Raises:
            BadModel: as `Engine.begin`, in the thread that is to run it; nothing has begun.
        """
        self._thread.start()

    def submit(self, submission: Submission) -> None:
        """Queue a submission's rows, from any thread. Its `on_done` follows from the scheduler's
        thread, or from this one before `submit` returns, where a short run is done at once.

        Raises:
            QueueFull: no room; nothing was queued.
            BadInput: it has more steps than the queue ever holds.
            Draining: the scheduler has stopped.
        """
        if not submission.queues:
            submission.on_done(submission)
        elif not self.run_together([submission]):
            self.queue.put(submission, self._rate)

    def between_runs(self, work: Callable[[Engine], T]) -> Future[T]:
        """Have `work` done while no run is under way.

        Raises:
            QueueFull: too much of it waits already.
        """
        call = ControlCall(work)
        self.queue.call(call)
        return call.done

    def stop(self) -> None:
        """Finish what is queued, then end the thread."""
        self.queue.stop()
        self._thread.join()

    def release(self) -> None:
        """After `stop`: give back what the engine holds."""
        with self._engine_free:
            self._engine.release()

    def _live(self) -> None:
        try:
            self._loop()
        except BaseException:
            log.critical("the scheduler's loop died", exc_info=True)
            self._abandon()
            self._on_death()

    def _loop(self) -> None:
        while (picked := self.queue.take(self._max_batch)) is not None:
            self._ran = not picked
            with self._engine_free:
                if picked:
                    self._turn(picked)
                elif self._steps.awaited:
                    self._steps.release()  # nothing is ready, so nothing waits for its run
                self._between_runs()
            if self._engine.lost:
                raise RuntimeError(f"{self._engine.device.name} has failed for good")
            if not self._ran or self._wanted:  # a lock may go to whoever has just let go of it
                time.sleep(BREATH)

    def _turn(self, picked: list[Picked]) -> None:
        if self._steps.awaited:
            for part, start, stop in picked:
                self._steps.release(part.handles[start:stop])
        self._leaving = self._run_batch(picked)
        if self._steps.confirms and self._leaving:
            handles = np.concatenate([part.handles[a:b] for part, a, b in self._leaving])
            self._steps.confirm(handles, partial(self._confirmed, self._leaving))
        else:
            self._leave(self._leaving)
        self._leaving = []

    def _confirmed(self, leaving: list[Picked], failed: Mapping[int, ServingError]) -> None:
        """The steps are confirmed, but for those of some sessions; from any thread."""
        if failed:
            for part, start, stop in leaving:
                part.fail(start, stop, failed)
        self._leave(leaving)

    def _leave(self, leaving: list[Picked]) -> None:
        self.queue.finish(leaving)
        self._complete(leaving)

    def _between_runs(self) -> None:
        """A control call, then the sessions that rows wait for. Neither may cost the other its
        slots: a call waits until sessions brought in have had their run, and while it does, no
        others are brought in."""
        self._run_call()
        if self.queue.has_absent and not (self._steps.awaited and self.queue.has_calls):
            self._absent.bring_in(self._engine)

    def _take_engine(self) -> bool:
        if self._engine_free.acquire(blocking=False):
            return True
        if not self._patience:
            return False
        self._wanted = True
        try:
            return self._engine_free.acquire(timeout=self._patience)
        finally:
            self._wanted = False

    def _run_call(self) -> None:
        if self.queue.has_calls and not self._steps.awaited and (call := self.queue.next_call()):
            call.run(self._engine)

    def run_together(self, submissions: Sequence[Submission]) -> bool:
        """Run a few steps right here, in one run, while nothing else waits: to wake a thread, and
        to be woken by it, takes longer than a short run does. Returns whether that could be done;
        if not, nothing was."""
        steps = sum(submission.steps for submission in submissions)
        if steps > self._few or self._short_run > SHORT_RUN or not self._thread.is_alive():
            return False
        if self._steps.confirms:  # rows have to wait
            return False
        if not self.queue.is_free_for(steps):
            return False
        parts = parts_of_one_run(submissions)
        if parts is None or sum(part.left for part in parts) > self._max_batch:
            return False
        if self._runner == threading.get_ident():  # a completion in here brings the next step
            return False
        if not self._take_engine():
            return False
        self._runner = threading.get_ident()
        try:
            if not all(self._steps.ready(part.handles) for part in parts):
                return False  # rows might have to wait for their sessions
            for part in parts:
                part.submission.expect(part.left)
            self._complete(self._run_batch([(part, 0, part.left) for part in parts]))
            self._run_call()  # or it would wait for as long as steps keep coming
        finally:
            self._runner = 0
            self._engine_free.release()
        return True

    def _run_batch(self, picked: list[Picked]) -> list[Picked]:
        """One run. Whatever fails, every row leaves with an outcome, except those that have to
        wait for their sessions; returns the rows that leave."""
        try:
            batch = Batch(picked)
        except Exception:
            log.exception("no batch could be made of %d parts", len(picked))
            fail_all(picked, RunFailed())
            return picked
        started = time.monotonic()
        try:
            batch.drop_late()
            fresh = self._steps.settle(batch)
            picked = self._absent.set_aside(batch)
            rows = np.flatnonzero(batch.open_rows) if batch.touched else np.arange(len(batch))
            if len(rows):
                self._run(batch, rows, fresh)
            self._observe(picked, started)
        except Exception:
            log.exception("a batch of %d rows failed", len(batch))
            batch.fail(np.flatnonzero(batch.open_rows), RunFailed())
        return picked

    def _run(self, batch: Batch, rows: Rows, fresh: NDArray[np.bool_]) -> None:
        whole = len(rows) == len(batch)
        ran = EngineRows(
            slots=batch.slots if whole else batch.slots[rows],
            fresh=fresh if whole else fresh[rows],
            lengths=batch.lengths if whole else batch.lengths[rows],
            features=batch.features(rows),
        )
        started = time.monotonic()
        self._ran = True
        try:  # from here on the sessions' state may have moved, in part or whole
            outputs = self._engine.run(ran)
            took = time.monotonic() - started
            self._steps.commit(batch, rows, ran, outputs)
        except Exception:
            log.exception("a run of %d rows failed; their sessions are lost", len(rows))
            self._lose(batch, rows)
            return
        if len(rows) <= FEW_STEPS:
            # One run that was held up says nothing about the others.
            self._short_run += 0.1 * (min(took, 2 * SHORT_RUN) - self._short_run)
        self._metrics.batch_rows.observe(len(rows))
        self._metrics.engine_seconds.observe(took, ran.steps)

    def _lose(self, batch: Batch, rows: Rows) -> None:
        try:
            self._steps.lose(batch, rows)
        except Exception:
            log.exception("sessions could not be ended")
            batch.fail(np.flatnonzero(batch.open_rows), Internal())

    def _complete(self, picked: list[Picked]) -> None:
        now = time.monotonic()
        for part, start, stop in picked:
            try:
                part.submission.complete(stop - start)
                whole = now - part.submission.enqueued_at
                self._metrics.step_seconds.observe(whole, part.steps(start, stop))
            except Exception:  # one caller's completion must not cost the others theirs
                log.exception("a completion failed")

    def _observe(self, picked: list[Picked], started: float) -> None:
        took, total = time.monotonic() - started, 0
        for part, start, stop in picked:
            steps, submission = part.steps(start, stop), part.submission
            self._metrics.queue_seconds.observe(started - submission.enqueued_at, steps)
            submission.ran_at = submission.ran_at or started
            submission.ran_for += took
            total += steps
        self._rate += 0.1 * (total / max(took, 1e-6) - self._rate)

    def _abandon(self) -> None:
        """The loop is dead: whoever waits for it hears so."""
        submissions, calls = self.queue.abandon()
        for call in calls:
            call.fail(Internal())
        leaving = [part.submission for part, _, _ in self._leaving]
        for submission in dict.fromkeys([*submissions, *leaving]):
            if submission.done:
                continue
            submission.fail(submission.queued_rows, Internal())
            try:
                submission.on_done(submission)
            except Exception:
                log.exception("a completion failed")
