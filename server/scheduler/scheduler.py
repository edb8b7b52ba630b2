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

from server.engine.engine import Engine
from server.engine.thread import EngineThread
from server.errors import Internal, ServingError
from server.metrics import ModelMetrics
from server.scheduler.absent import Absent
from server.scheduler.control import ControlCall
from server.scheduler.parts import Part, Picked, parts_of_one_run
from server.scheduler.protocol import StepProtocol
from server.scheduler.queue import StepQueue
from server.scheduler.running import FEW_STEPS, SHORT_RUN, Run, Runner
from server.scheduler.submission import Submission

log = logging.getLogger(__name__)

T = TypeVar("T")

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
        self._runs = Runner(engine, steps, metrics, self._absent)
        self._max_batch = min(max_batch, engine.manifest.max_batch, engine.capacity)
        self._few = at_once if engine.any_thread else 0
        self.most_together = min(self._few, self._max_batch)
        """Single steps that `run_together` may take."""
        # Whoever may run large batches itself waits for a call between runs, rather than have the
        # loop's thread woken for what comes meanwhile, and then again and again.
        self._patience = CALL_SECONDS if self._few > FEW_STEPS else 0.0
        self._engine_free = threading.Lock()  # held for a turn, in whichever thread
        self._wanted = False  # whether somebody waits for the engine, to run what he brought
        self._inside = 0  # the thread that runs what it brought itself, while it does
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
            self.queue.put(submission, self._runs.rate)

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
        """A run, and as long as each takes so long that the next can be prepared meanwhile, those
        that follow it."""
        run: Run | None = self._begin(picked)
        while run is not None:
            behind = self._behind(run)
            following = self._begin(behind, run) if behind else None
            self._end(run)
            run = following

    def _behind(self, run: Run) -> list[Picked]:
        """Rows for the run that follows one under way, taken as late as it can be ready in time, so
        that as many as can be go together; none where others want the engine between two runs."""
        return self.queue.take_behind(self._max_batch) if self._runs.nearly_over(run) else []

    def _begin(self, picked: list[Picked], ahead: Run | None = None) -> Run:
        if self._steps.awaited:
            for part, start, stop in picked:
                self._steps.release(part.handles[start:stop])
        run = self._runs.begin(picked, ahead)
        self._ran = self._ran or run.asked_at > 0
        return run

    def _end(self, run: Run) -> None:
        self._leaving = self._runs.end(run)
        self._runs.note(run)
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
        if not self._runs_here(steps):
            return False
        parts = self._parts_of_one_run(submissions)
        if not parts or not self._take_engine():
            return False
        self._inside = threading.get_ident()
        try:
            run = (self._runs.alone(parts[0]) if steps == 1 else None) or self._run(parts)
            if run is not None:
                self._complete(run.picked)
                self._runs.note(run)  # which nobody need wait for
                self._run_call()  # or it would wait for as long as steps keep coming
        finally:
            self._inside = 0
            self._engine_free.release()
        return run is not None

    def _runs_here(self, steps: int) -> bool:
        """Whether so many steps may run in the thread that brings them, once it has the engine."""
        if steps > self._few or self._runs.short > SHORT_RUN or not self._thread.is_alive():
            return False
        if self._steps.confirms:  # rows have to wait
            return False
        if self._inside == threading.get_ident():  # a completion in here brings the next step
            return False
        return self.queue.is_free_for(steps)

    def _parts_of_one_run(self, submissions: Sequence[Submission]) -> list[Part]:
        parts = parts_of_one_run(submissions) or []
        return parts if sum(part.left for part in parts) <= self._max_batch else []

    def _run(self, parts: list[Part]) -> Run | None:
        """None, and nothing is done, if rows might have to wait for their sessions."""
        if not all(self._steps.ready(part.handles) for part in parts):
            return None
        for part in parts:
            part.submission.expect(part.left)
        run = self._runs.begin([(part, 0, part.left) for part in parts])
        self._runs.end(run)
        return run

    def _complete(self, picked: list[Picked]) -> None:
        now = time.monotonic()
        for part, start, stop in picked:
            try:
                part.submission.complete(stop - start)
                whole = now - part.submission.enqueued_at
                self._metrics.step_seconds.observe(whole, part.steps(start, stop))
            except Exception:  # one caller's completion must not cost the others theirs
                log.exception("a completion failed")

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
