"""What a caller submits: rows of steps in columns, and the completion they carry.

A unary step is a submission of one row, a stream's message one of many. Results are filled in by
the batcher's thread; `on_done` is called once, from that thread, when every row has its outcome.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.errors import ServingError

APPLIED, REMEMBERED, FAILED = 0, 1, 2
UNNUMBERED = -1
RESTART = -2  # whatever the session's count: this is step 0, from the initial state


class Submission:
    """Rows with one completion.

    Args:
        slots: i64 [N], the sessions' arena rows.
        generations: i64 [N], which holder of the slot is meant.
        first_steps: i64 [N], numbers from 0, or UNNUMBERED, or RESTART.
        lengths: i32 [N], steps in the row, at least 1.
        features: f32 [sum(lengths), I], row after row.
        session_id: names row i, for errors.
        on_done: called once when all rows are complete.
        deadline: `time.monotonic()` after which rows not in a run are dropped.
    """

    __slots__ = (
        "_completed",
        "cancelled",
        "deadline",
        "enqueued_at",
        "errors",
        "features",
        "first_steps",
        "generations",
        "lengths",
        "offsets",
        "on_done",
        "outputs",
        "queued_rows",
        "session_id",
        "slots",
        "status",
    )  # fmt: skip

    def __init__(
        self,
        slots: NDArray[np.int64],
        generations: NDArray[np.int64],
        first_steps: NDArray[np.int64],
        lengths: NDArray[np.int32],
        features: NDArray[np.float32],
        session_id: Callable[[int], str],
        on_done: Callable[[Submission], None],
        deadline: float = math.inf,
    ) -> None:
        self.slots, self.generations = slots, generations
        self.first_steps, self.lengths, self.features = first_steps, lengths, features
        self.session_id, self.on_done, self.deadline = session_id, on_done, deadline
        self.offsets: NDArray[np.int64] | None = None
        if len(features) != len(slots):
            self.offsets = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
        self.status = np.zeros(len(slots), dtype=np.uint8)
        self.outputs: NDArray[np.float32] | None = None
        self.errors: dict[int, ServingError] = {}
        self._completed = 0
        self.queued_rows = len(slots)
        self.cancelled = False
        self.enqueued_at = time.monotonic()

    @property
    def remaining(self) -> int:
        """Rows without an outcome, before the submission is queued."""
        return len(self.slots) - len(self.errors)

    @property
    def steps(self) -> int:
        """Steps in all rows."""
        return len(self.features)

    def span(self, row: int) -> slice:
        """Where the row's steps lie in `features` and `outputs`."""
        if self.offsets is None:
            return slice(row, row + 1)
        return slice(int(self.offsets[row]), int(self.offsets[row + 1]))

    def fail(self, row: int, error: ServingError) -> None:
        """Give the row an error. A row that failed before the submission is queued never is."""
        self.status[row] = FAILED
        self.errors[row] = error

    def answer(self, row: int, outputs: NDArray[np.float32], status: int = APPLIED) -> None:
        """Give the row its outputs f32 [length, O]."""
        self.status[row] = status
        self.room(outputs.shape[-1])[self.span(row)] = outputs

    def answer_all(self, outputs: NDArray[np.float32]) -> None:
        """Give every row its single step's output at once: f32 [N, O], taken over as it is."""
        self.outputs = outputs

    def room(self, width: int) -> NDArray[np.float32]:
        """The outputs' array, made on first use."""
        if self.outputs is None:
            self.outputs = np.zeros((self.steps, width), dtype=np.float32)
        return self.outputs

    def complete(self, rows: int) -> None:
        """Note that `rows` more rows have their outcome; the last one calls `on_done`."""
        self._completed += rows
        if self._completed == self.queued_rows:
            self.on_done(self)

    def good_outputs(self, width: int) -> NDArray[Any]:
        """Outputs of the rows that did not fail, row after row."""
        outputs = self.room(width)
        if not self.errors:
            return outputs
        keep = self.status != FAILED
        good: NDArray[Any] = outputs[np.repeat(keep, self.lengths)]
        return good
