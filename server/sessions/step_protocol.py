"""The step protocol: which numbered steps may run, which are answered from memory, which refused.

The scheduler asks just before a run (`settle`) and tells just after it (`commit`, or `lose`).
Between the two no other run moves these sessions: the counts checked are those stepped from. Of two
runs that are under way together each has sessions of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.arrays import every, finite
from server.engine.engine import Engine, EngineRows
from server.errors import (
    NotFinite,
    ServingError,
    StepConflict,
    StepGap,
    StepTooOld,
)
from server.metrics import ModelMetrics
from server.scheduler.batch import NONE, Batch
from server.scheduler.protocol import Due, Told
from server.scheduler.submission import RESTART, UNNUMBERED, Handles, Rows, Submission
from server.sessions.directory import Directory
from server.sessions.keeper import Keeper
from server.sessions.replay_cache import Floats, ReplayCache
from server.sessions.slots import Residence, Slots
from tidegate.wire import REMEMBERED

log = logging.getLogger(__name__)

NAMED = 32  # rows of a run that are ahead and are each told their own names and numbers

Bools = NDArray[np.bool_]


@dataclass(slots=True)
class Applied:
    """Steps that were just applied: of each row the session, i64 [B], and its count before, i64
    [B]; what ran; and its outputs f32 [B, T, O]. Whoever keeps the arrays copies them."""

    handles: Handles
    counts: NDArray[np.int64]
    rows: EngineRows
    outputs: Floats


class LeaseLapsed(Exception):
    """What ran is not to be answered: the sessions may be others' by now."""


class SessionSteps:
    """Implements the scheduler's `StepProtocol` over the sessions of one model version.

    Args:
        watch: shown every run whose steps were applied.
        keeper: has sessions stored, where there is a store.
    """

    def __init__(
        self,
        directory: Directory,
        residence: Residence,
        cache: ReplayCache,
        metrics: ModelMetrics,
        watch: Callable[[Applied], None] | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        self._directory, self._residence, self._cache = directory, residence, cache
        self._metrics, self._watch = metrics, watch
        self._keeper = keeper
        self._found: tuple[Handles, Slots] | None = None  # by `ready`, for the run that follows

    @property
    def room(self) -> int:
        """How many sessions may be brought in now."""
        return self._residence.room

    @property
    def awaited(self) -> bool:
        """Whether sessions that were brought in have not had their run yet."""
        return self._residence.awaited

    def ready(self, handles: Handles) -> bool:
        """Whether none of the sessions is absent, nor can be found to be so."""
        slots = self._residence.here(handles)
        self._found = None if slots is None else (handles, slots)
        return slots is not None or self._residence.has_room_for(handles)

    def release(self, handles: Handles | None = None) -> None:
        """Rows of these sessions leave the queue, or None: no row waits for any that was brought
        in; they need not be kept for that."""
        self._residence.release(handles)

    def bring_in(self, engine: Engine, handles: Handles) -> None:
        """Make sessions resident. Those that cannot be are lost, so that nobody waits for them."""
        try:
            self._residence.bring_in(engine, handles)
        except Exception:
            log.exception("%d sessions could not be brought in", len(handles))
            self._metrics.lost.inc(len(handles))
            self._directory.lose(handles)

    def missing(self, handles: Handles) -> Handles:
        """Those of the sessions whose state is in the store alone."""
        return self._residence.missing(handles)

    def fetch(self, handles: Handles, then: Told) -> None:
        """Have sessions' records read from the store."""
        assert self._keeper is not None
        self._keeper.fetch(handles, then)

    @property
    def confirms(self) -> bool:
        """Whether steps are in the store before they are answered."""
        return self._keeper is not None and self._keeper.sync

    def confirm(self, handles: Handles, then: Told) -> None:
        """Have the sessions stored."""
        assert self._keeper is not None
        self._keeper.confirm(handles, then)

    def settle(self, batch: Batch, under_way: Handles = NONE) -> Bools:
        """Answer or fail the rows that must not run; returns which rows start afresh."""
        if self._keeper is not None and (why := self._keeper.health.refusal()) is not None:
            batch.fail(np.flatnonzero(batch.open_rows), why)
        live, counts = self._directory.use(batch.handles)
        if live is None and not batch.late and self._usual(batch, counts):
            first: Bools = counts == 0
            return first
        batch.counts = np.where(batch.first_steps == RESTART, 0, counts)
        self._find(batch, live, under_way)
        self._settle_rows(batch)
        fresh: Bools = batch.counts == 0
        return fresh

    def due(self, handle: int, first: int) -> Due | None:
        """As `settle`, of one step; None if it is not simply its session's next, by its number or
        for want of one, or the session not resident."""
        if self._keeper is not None and self._keeper.health.refusal() is not None:
            return None
        if not (slot := self._residence.slot(handle)):
            return None
        count = self._directory.use_one(handle)
        return Due(slot, count) if count >= 0 and first in (count, UNNUMBERED) else None

    def commit_one(self, submission: Submission, ran: EngineRows, outputs: Floats) -> None:
        """As `commit`, of a submission of one step that was `due`, and has its number."""
        if self._keeper is not None and self._keeper.health.lapsed:
            raise LeaseLapsed
        handle, number = int(submission.handles[0]), int(submission.first_steps[0])
        if not finite(outputs):
            submission.fail(0, NotFinite(self._directory.name(handle)))
            return
        self._cache.keep_one(int(ran.slots[0]), number, ran.features, outputs)
        self._directory.count_one(handle, number)
        if self._keeper is not None:
            self._keeper.mark(submission.handles)
        submission.answer_all(outputs[:, 0])
        self._note(Applied(submission.handles, submission.first_steps, ran, outputs))

    def _usual(self, batch: Batch, counts: NDArray[np.int64]) -> bool:
        """Whether every row is its session's next, by its number or for want of one, and resident:
        then that is noted."""
        due = batch.first_steps == counts
        numbered = every(due)
        if not numbered and not every(due | (batch.first_steps == UNNUMBERED)):
            return False
        if (slots := self._here(batch.handles)) is None:
            return False
        batch.slots, batch.counts = slots, counts
        if not numbered:
            batch.number(np.flatnonzero(~due))
        return True

    def _here(self, handles: Handles) -> Slots | None:
        found, self._found = self._found, None
        if found is not None and found[0] is handles:
            return found[1]  # the engine has been held since
        return self._residence.here(handles)

    def commit(self, batch: Batch, rows: Rows, ran: EngineRows, outputs: Floats) -> None:
        """Remember and count the rows that ran; fail those whose result the graph refused."""
        if self._keeper is not None and self._keeper.health.lapsed:
            raise LeaseLapsed  # while they ran; another server may have stepped them since
        if not finite(outputs):
            rows, ran, outputs = self._refuse_overflows(batch, rows, ran, outputs)
        whole = len(rows) == len(batch)
        counts = batch.counts if whole else batch.counts[rows]
        handles = batch.handles if whole else batch.handles[rows]
        self._cache.keep(ran.slots, counts, ran.lengths, ran.features, outputs)
        self._directory.count(handles, counts, counts + ran.lengths)
        if self._keeper is not None:
            self._keeper.mark(handles)
        batch.answer_rows(rows, outputs)
        self._note(Applied(handles, counts, ran, outputs))

    def lose(self, batch: Batch, rows: Rows) -> None:
        """The engine failed under these rows, and may have moved their state: end the sessions."""
        self._directory.lose(batch.handles[rows])
        self._metrics.lost.inc(len(rows))
        self._fail_ended(batch, rows[batch.open_rows[rows]])

    def _note(self, applied: Applied) -> None:
        """The steps are applied and answered: what fails now must not make them seem otherwise."""
        try:
            self._metrics.steps.inc(applied.rows.steps)
            if self._watch is not None:
                self._watch(applied)
        except Exception:
            log.exception("a run could not be noted")

    def _find(self, batch: Batch, live: Bools | None, under_way: Handles) -> None:
        """Fail the rows whose sessions have ended; find the slots of the others."""
        if live is not None:
            self._fail_ended(batch, np.flatnonzero(batch.open_rows & ~live))
        rows, slots = batch.open_rows, np.zeros(len(batch), dtype=np.int64)
        slots[rows] = self._residence.resolve(
            batch.handles[rows], batch.counts[rows] == 0, under_way
        )
        batch.slots = slots

    def _fail_ended(self, batch: Batch, rows: Rows) -> None:
        for row in rows.tolist():
            batch.fail(np.array([row]), self._directory.error(int(batch.handles[row])))

    def _settle_rows(self, batch: Batch) -> None:
        """Some row is not simply its session's next."""
        absent = batch.open_rows & (batch.slots == 0)
        batch.absent = absent if absent.any() else None
        here = batch.open_rows & ~absent
        due = (batch.first_steps == batch.counts) | (batch.first_steps < 0)
        wrong = here & ~due
        ahead = np.flatnonzero(wrong & (batch.first_steps > batch.counts))
        for part, rows, _ in batch.owners(ahead) if len(ahead) > NAMED else ():
            if part.submission.deadlines is None:  # else each row is told to a caller of its own
                self._refuse(batch, rows, self._replay(batch, int(rows[0])))
                wrong[rows] = False
        for row in np.flatnonzero(wrong).tolist():
            self._refuse(batch, np.array([row]), self._replay(batch, row))
        # Rows without a number take the step at which they start as theirs, for the reply.
        batch.number(np.flatnonzero(here & (batch.first_steps < 0)))

    def _refuse(self, batch: Batch, rows: Rows, answer: Floats | ServingError) -> None:
        """Rows are not their sessions' next: fail them, or answer the one that was applied before.
        The number expected of each that fails stands among its submission's."""
        if isinstance(answer, ServingError):
            batch.fail(rows, answer)
            batch.number(rows)
        else:
            batch.answer(int(rows[0]), answer, REMEMBERED)
            self._metrics.remembered.inc()

    def _replay(self, batch: Batch, row: int) -> Floats | ServingError:
        """The answer from before to a row that is not its session's next; or why it has none."""
        submission, at = batch.owner(row)
        features = submission.features[submission.span(at)]
        first, count = int(batch.first_steps[row]), int(batch.counts[row])
        name = self._directory.name(int(batch.handles[row]))
        if first > count:
            return StepGap(name, first, count)
        if first < count - self._cache.depth:
            return StepTooOld(name, first, count)
        if first + len(features) > count:
            why = f"with {len(features)} steps overlaps steps already applied"
            return StepConflict(name, first, count, why)
        answer = self._cache.recall(int(batch.slots[row]), first, features)
        return answer(name, first, count) if isinstance(answer, type) else answer

    def _refuse_overflows(
        self, batch: Batch, rows: Rows, ran: EngineRows, outputs: Floats
    ) -> tuple[Rows, EngineRows, Floats]:
        """The graph kept the state of rows whose result is not finite; fail those rows."""
        good = np.isfinite(outputs).all(axis=(1, 2))
        for row in rows[~good].tolist():
            name = self._directory.name(int(batch.handles[row]))
            batch.fail(np.array([row]), NotFinite(name))
        kept = EngineRows(ran.slots[good], ran.fresh[good], ran.lengths[good], ran.features[good])
        return rows[good], kept, outputs[good]
