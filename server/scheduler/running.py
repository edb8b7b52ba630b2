"""A run from the rows that were picked to the rows that leave with an outcome: `begin` makes the
batch, has its rows settled and asks the engine; `end` waits, and has the steps noted and answered;
`note` counts the run, for which no caller need wait. A step that comes `alone` is begun and ended
in one, without columns.

Between the first two another run may begin where the engine has it wait its turn, as a GPU does: no
session is in both, for the queue lets none in twice.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from server.engine.engine import Asked, Engine, EngineRows
from server.errors import Internal, RunFailed
from server.metrics import ModelMetrics
from server.scheduler.absent import Absent
from server.scheduler.batch import NONE, Batch, fail_all
from server.scheduler.parts import Part, Picked
from server.scheduler.protocol import Due, StepProtocol
from server.scheduler.submission import Handles, Rows, Submission

log = logging.getLogger(__name__)

FEW_STEPS = 16
SHORT_RUN = 300e-6
LATE = 100e-6  # seconds by which a thread wakes up later than it wanted to
SLICE = 0.001  # seconds at most, after which it is seen whether a run is over already
LATELY = 8  # runs
MOSTLY = 0.5  # of the time
ONE_ROW = np.zeros(1, dtype=np.int64)


@dataclass(slots=True)
class Run:
    """Rows `rows` of a batch, which the engine was asked for; none if nothing had to run."""

    picked: list[Picked]
    """The rows that leave with it."""
    started: float
    batch: Batch | None = None
    rows: Rows = field(default_factory=lambda: NONE)
    ran: EngineRows | None = None
    asked: Asked | None = None
    asked_at: float = 0.0
    lead: float = 0.0
    """Seconds from its start until it was asked for."""
    overlaps: bool = False
    """Whether it is under way, and the next one may be asked for."""
    behind: bool = False
    """Whether it was asked for while another was under way."""
    answered: bool = False
    """Whether its steps are noted and answered; then it has what follows."""
    took: float = 0.0
    """Seconds of the engine's, if `known`, or at most."""
    known: bool = False
    since: float = 0.0
    """Seconds since the run before it was over."""
    taken_at: float = 0.0
    """When its rows were no longer queued."""
    whole: float = 0.0
    """Seconds from then until it was answered."""

    @property
    def handles(self) -> Handles:
        """Its sessions, which nobody else's may take the place of before it is over."""
        return NONE if self.batch is None else self.batch.handles


class Runner:
    """Does one engine's runs. Whoever holds the engine calls `begin`, `end` and `note` in turn; at
    most one other run begins before a run ends, and ends after it."""

    def __init__(
        self, engine: Engine, steps: StepProtocol, metrics: ModelMetrics, absent: Absent
    ) -> None:
        self._engine, self._steps, self._metrics, self._absent = engine, steps, metrics, absent
        self._usual: dict[int, deque[float]] = {}  # by size, seconds that runs took
        self._free_at = 0.0  # when the last run was over
        self._busy = 0.0  # the share of the time, lately, that runs took
        self._lead = 0.0  # seconds from rows picked to the engine asked, lately
        self.rate = 0.0
        """Steps a second, lately."""
        self.short = 0.0
        """Seconds that a run of few rows takes, lately."""

    def begin(self, picked: list[Picked], ahead: Run | None = None) -> Run:
        """Ask for a run. Whatever fails, every row has an outcome when it ends, except those that
        have to wait for their sessions.

        Args:
            ahead: the run that is under way.
        """
        run = Run(picked, time.monotonic())
        try:
            batch = run.batch = Batch(picked)
        except Exception:
            log.exception("no batch could be made of %d parts", len(picked))
            fail_all(picked, RunFailed())
            return run
        try:
            batch.drop_late()
            fresh = self._steps.settle(batch, NONE if ahead is None else ahead.handles)
            run.picked = self._absent.set_aside(batch)
            rows = np.flatnonzero(batch.open_rows) if batch.touched else np.arange(len(batch))
            if len(rows):
                self._ask(run, batch, rows, fresh, ahead is not None)
        except Exception:
            _fail(batch)
        return run

    def alone(self, part: Part) -> Run | None:
        """The whole of a run of one step, which columns would make as dear as one of a hundred.
        None, and nothing is done, if it is not simply its session's next step, or comes too late,
        or the session is not resident."""
        started, submission = time.monotonic(), part.submission
        if submission.failed or submission.is_late(started):
            return None
        due = self._steps.due(int(submission.handles[0]), int(submission.first_steps[0]))
        if due is None:
            return None
        submission.expect(1)
        submission.first_steps[0] = due.number  # which the caller is told, whatever comes of it
        run = Run([(part, 0, 1)], started, rows=ONE_ROW)
        try:
            self._step(run, submission, due)
        except Exception:
            self._lose(run, Batch(run.picked))
        self._time(run, started)
        return run

    def end(self, run: Run) -> list[Picked]:
        """Wait for it; returns the rows that leave."""
        if (batch := run.batch) is None:
            return run.picked
        try:
            free_at = self._free_at
            if run.asked is not None:
                self._answer(run, batch, run.asked)
            self._time(run, free_at)
        except Exception:
            _fail(batch)
        return run.picked

    def note(self, run: Run) -> None:
        """Learn from a run that has ended, and count it. Its rows may have left: nobody need wait
        for this."""
        try:
            if not run.taken_at:  # it failed as it ended, if not before
                return
            if run.answered:
                assert run.ran is not None
                self._learn(run)
                self._metrics.batch_rows.observe(len(run.rows))
                self._metrics.engine_seconds.observe(run.took, run.ran.steps)
                if run.behind:
                    self._metrics.runs_ahead.inc()
            self._observe(run)
        except Exception:
            log.exception("a run could not be counted")

    def nearly_over(self, run: Run) -> bool:
        """Whether the next run had better be asked for behind this one, which is under way; then it
        is time to prepare it, so that this one is over when that is done. If not, whatever comes
        meanwhile should go together, for this is a short one, or not much is waited for the
        engine."""
        lately = self._usual.get(_size(run.rows))
        if not (run.overlaps and lately) or self._busy < MOSTLY or self._engine.lost:
            return False
        usual, lead = min(lately), self._lead + LATE
        if usual < lead:
            return False
        return self._wait_until(self._began(run) + usual - lead, run)

    def _wait_until(self, moment: float, run: Run) -> bool:
        """Wait, but not for a run that is over before: what it usually takes is a guess."""
        while (left := moment - time.monotonic()) > 0:
            time.sleep(min(left, SLICE))
            if left > SLICE and _is_over(run):
                return False
        return True

    def _step(self, run: Run, submission: Submission, due: Due) -> None:
        run.ran = EngineRows(
            slots=np.array([due.slot]),
            fresh=np.array([due.number == 0]),
            lengths=submission.lengths,
            features=submission.features[None],
        )
        run.asked_at = time.monotonic()
        try:
            outputs = self._engine.run(run.ran)
        finally:
            self._free_at = time.monotonic()
        self._steps.commit_one(submission, run.ran, outputs)
        run.took, run.answered = self._free_at - run.asked_at, True

    def _ask(
        self, run: Run, batch: Batch, rows: Rows, fresh: NDArray[np.bool_], behind: bool
    ) -> None:
        whole = len(rows) == len(batch)
        run.rows, run.behind = rows, behind
        run.ran = EngineRows(
            slots=batch.slots if whole else batch.slots[rows],
            fresh=fresh if whole else fresh[rows],
            lengths=batch.lengths if whole else batch.lengths[rows],
            features=batch.features(rows),
        )
        overlaps = self._engine.overlaps(run.ran)
        run.asked_at = time.monotonic()
        try:  # from here on the sessions' state may have moved, in part or whole
            run.asked = self._engine.ask(run.ran)
        except Exception:
            self._lose(run, batch)
            return
        run.overlaps, run.lead = overlaps, time.monotonic() - run.started

    def _answer(self, run: Run, batch: Batch, asked: Asked) -> None:
        assert run.ran is not None
        began, known = self._began(run), False
        try:
            try:
                known = run.overlaps and not asked.over()
                outputs = asked.outputs()
            finally:
                before, self._free_at = self._free_at, time.monotonic()
            self._steps.commit(batch, run.rows, run.ran, outputs)
        except Exception:
            self._lose(run, batch)
            return
        run.took, run.since = self._free_at - began, self._free_at - before
        run.answered, run.known = True, known

    def _began(self, run: Run) -> float:
        """When the engine could begin with a run: if it was asked for before the one ahead was
        over, then."""
        return max(run.asked_at, self._free_at)

    def _learn(self, run: Run) -> None:
        if len(run.rows) <= FEW_STEPS:
            # One run that was held up says nothing about the others.
            self.short += 0.1 * (min(run.took, 2 * SHORT_RUN) - self.short)
        if not run.overlaps:
            return
        self._lead += 0.1 * (run.lead - self._lead)
        self._busy += 0.1 * (run.took / max(run.since, 1e-6) - self._busy)
        lately = self._usual.setdefault(_size(run.rows), deque(maxlen=LATELY))
        if run.known or (lately and run.took < min(lately)):
            lately.append(run.took)

    def _lose(self, run: Run, batch: Batch) -> None:
        log.exception("a run of %d rows failed; their sessions are lost", len(run.rows))
        try:
            self._steps.lose(batch, run.rows)
        except Exception:
            log.exception("sessions could not be ended")
            batch.fail(np.flatnonzero(batch.open_rows), Internal())

    def _time(self, run: Run, free_at: float) -> None:
        """Those that waited for the run ahead, which was over at `free_at`, were queued until
        then."""
        run.taken_at = max(run.started, free_at)
        run.whole = time.monotonic() - run.taken_at
        for part, _, _ in run.picked:
            submission = part.submission
            submission.ran_at = submission.ran_at or run.taken_at
            submission.ran_for += run.whole

    def _observe(self, run: Run) -> None:
        total = 0
        for part, start, stop in run.picked:
            steps = part.steps(start, stop)
            self._metrics.queue_seconds.observe(run.taken_at - part.submission.enqueued_at, steps)
            total += steps
        self.rate += 0.1 * (total / max(run.whole, 1e-6) - self.rate)


def _fail(batch: Batch) -> None:
    log.exception("a batch of %d rows failed", len(batch))
    batch.fail(np.flatnonzero(batch.open_rows), RunFailed())


def _is_over(run: Run) -> bool:
    try:
        return run.asked is None or run.asked.over()
    except Exception:  # it is waited for then, which says why
        return True


def _size(rows: Rows) -> int:
    """Runs of one size take the same time: up to 1, 2, 4 ... rows."""
    return (len(rows) - 1).bit_length()
