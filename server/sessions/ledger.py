"""The step protocol: which numbered steps may run, which are answered from memory, which refused.

The batcher asks just before a run (`settle`) and tells just after it (`commit`). Between the two no
other run moves these sessions, so the counts checked are the counts stepped from.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from server.batcher.batch import Batch
from server.batcher.submission import REMEMBERED, RESTART
from server.engine.engine import EngineRows
from server.errors import NotFinite, ServingError, StepConflict, StepGap, StepTooOld
from server.metrics import ModelMetrics
from server.sessions.drift import Drift
from server.sessions.endings import Endings
from server.sessions.memory import Memory
from server.sessions.table import SessionTable


class SessionLedger:
    """Implements the batcher's `Ledger` over a session table and its memory."""

    def __init__(
        self,
        table: SessionTable,
        memory: Memory,
        endings: Endings,
        metrics: ModelMetrics,
        drift: Drift | None,
    ) -> None:
        self._table, self._memory, self._endings = table, memory, endings
        self._metrics, self._drift = metrics, drift

    def settle(self, batch: Batch) -> NDArray[np.bool_]:
        """Answer or fail the rows that must not run; returns which rows start afresh."""
        with self._table.lock:
            counts = self._table.counts[batch.slots]
            counts[batch.first_steps == RESTART] = 0
            batch.counts = counts
            live = self._table.generations[batch.slots] == batch.generations
            if live.all() and (batch.first_steps == counts).all() and batch.open_rows.all():
                usual: NDArray[np.bool_] = counts == 0  # every row is its session's next
                return usual
            next_up = (batch.first_steps == counts) | (batch.first_steps < 0)
            for row in np.flatnonzero(batch.open_rows & ~(live & next_up)).tolist():
                self._settle_row(batch, row, bool(live[row]), int(counts[row]))
            self._number(batch)
        fresh: NDArray[np.bool_] = counts == 0
        return fresh

    def commit(
        self,
        batch: Batch,
        rows: NDArray[np.int64],
        ran: EngineRows,
        outputs: NDArray[np.float32],
    ) -> None:
        """Count and remember the rows that ran; fail those whose result the graph refused."""
        if not np.isfinite(outputs.sum(dtype=np.float64)):
            rows, ran, outputs = self._refuse_overflows(batch, rows, ran, outputs)
        self._count(batch, rows, ran, outputs)
        batch.answer_rows(rows, outputs)
        if self._drift is not None:
            self._drift.note(ran)

    def _count(
        self,
        batch: Batch,
        rows: NDArray[np.int64],
        ran: EngineRows,
        outputs: NDArray[np.float32],
    ) -> None:
        with self._table.lock:
            mine = self._table.generations[ran.slots] == batch.generations[rows]  # not closed since
            keep = slice(None) if mine.all() else np.flatnonzero(mine)
            slots, lengths = ran.slots[keep], ran.lengths[keep]
            counts = batch.counts[rows][keep]
            self._memory.keep(slots, counts, lengths, ran.features[keep], outputs[keep])
            self._table.counts[slots] = counts + lengths
            self._table.last_used[slots] = time.time()
        self._metrics.steps.inc(ran.steps)

    def _number(self, batch: Batch) -> None:
        """Rows without a number take the step at which they start as theirs, for the reply."""
        for row in np.flatnonzero(batch.open_rows & (batch.first_steps < 0)).tolist():
            submission, at = batch.owner(row)
            submission.first_steps[at] = batch.counts[row]

    def _settle_row(self, batch: Batch, row: int, live: bool, count: int) -> None:
        submission, at = batch.owner(row)
        session_id = submission.session_id(at)
        if not live:
            batch.fail(row, self._endings.error(session_id))
            return
        first, features = int(batch.first_steps[row]), submission.features[submission.span(at)]
        answer = self._from_memory(session_id, int(batch.slots[row]), first, count, features)
        if isinstance(answer, ServingError):
            batch.fail(row, answer)
        else:
            self._table.last_used[batch.slots[row]] = time.time()  # retries keep a session live
            batch.answer(row, answer, REMEMBERED)
            self._metrics.remembered.inc()

    def _from_memory(
        self, session_id: str, slot: int, first: int, count: int, features: NDArray[np.float32]
    ) -> NDArray[np.float32] | ServingError:
        if first > count:
            return StepGap(session_id, first, count, "is ahead of the session")
        if first < count - self._memory.depth:
            return StepTooOld(session_id, first, count, "was applied and is no longer remembered")
        if first + len(features) > count:
            why = f"with {len(features)} steps overlaps steps already applied"
            return StepConflict(session_id, first, count, why)
        outputs = self._memory.recall(slot, first, features)
        if outputs is None:
            return StepConflict(session_id, first, count, "was applied with other features")
        return outputs

    def _refuse_overflows(
        self,
        batch: Batch,
        rows: NDArray[np.int64],
        ran: EngineRows,
        outputs: NDArray[np.float32],
    ) -> tuple[NDArray[np.int64], EngineRows, NDArray[np.float32]]:
        """The graph kept the state of rows whose result is not finite; fail those rows."""
        good = np.isfinite(outputs).all(axis=(1, 2))
        for row in rows[~good].tolist():
            submission, at = batch.owner(row)
            batch.fail(row, NotFinite(submission.session_id(at)))
        kept = EngineRows(ran.slots[good], ran.fresh[good], ran.lengths[good], ran.features[good])
        return rows[good], kept, outputs[good]
