"""What a caller submits: rows of steps in columns, and the completion they carry.

A unary step is a submission of one row, a stream's message one of many. Outcomes are filled in by
whichever thread holds the engine; `on_done` is called once, from it, when every row has its own.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.errors import ServingError
from tidegate.wire import APPLIED, FAILED

UNNUMBERED = -1
RESTART = -2  # whatever the session's count: this is step 0, from the initial state

Rows = NDArray[np.int64]
Handles = NDArray[np.int64]
"""Sessions for life: in the low 32 bits an index that no two live sessions share, above them which
of its sessions is meant. Never 0."""

SHIFT, INDEX = 32, 0xFFFFFFFF
ROOM = 1 << 18
"""Indices for which columns have room from the start. What was not used yet takes no memory (in
columns of 4 MB and more it would, 2 MB at once), while columns that grow leave holes behind."""
COMPLETING = threading.Lock()
"""Rows of a submission may be completed by several threads; held for one subtraction."""

MOST_CAUSES = 256  # errors of a submission from which on those of a kind become one


class Submission:
    """Rows with one completion.

    Args:
        handles: i64 [N], the sessions.
        first_steps: i64 [N], numbers from 0, or UNNUMBERED, or RESTART.
        lengths: i32 [N], steps in the row, at least 1.
        features: f32 [sum(lengths), I], row after row.
        on_done: called once when all rows are complete.
        deadline: `time.monotonic()` after which rows not in a run are dropped.
    """

    __slots__ = (
        "_cause",
        "_causes",
        "_left",
        "_shared",
        "cancelled",
        "deadline",
        "deadlines",
        "enqueued_at",
        "features",
        "first_steps",
        "handles",
        "lengths",
        "offsets",
        "on_done",
        "outputs",
        "ran_at",
        "ran_for",
        "status",
        "told",
    )  # fmt: skip

    def __init__(
        self,
        handles: Handles,
        first_steps: NDArray[np.int64],
        lengths: NDArray[np.int32],
        features: NDArray[np.float32],
        on_done: Callable[[Submission], None],
        deadline: float = math.inf,
    ) -> None:
        self.handles, self.first_steps = handles, first_steps
        self.lengths, self.features = lengths, features
        self.on_done, self.deadline = on_done, deadline
        self.deadlines: NDArray[np.float64] | None = None
        """Each row's own, where rows are of several callers; of one that was cancelled, -inf."""
        self.offsets: NDArray[np.int64] | None = None
        if len(features) != len(handles):
            self.offsets = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
        self.status = np.zeros(len(handles), dtype=np.uint8)
        self.outputs: NDArray[np.float32] | None = None
        self._causes: list[ServingError] = []
        self._cause: NDArray[np.int32] | None = None  # by row, into the causes
        self._shared: dict[type[ServingError], int] = {}
        self._left = 0
        self.cancelled = False
        self.enqueued_at = time.monotonic()
        self.ran_at = self.ran_for = 0.0
        """When its first run began, if one has; seconds of all its runs."""
        self.told: object = None
        """What those who tell callers keep of it, once it is done."""

    def __len__(self) -> int:
        return len(self.handles)

    @property
    def steps(self) -> int:
        """Steps in all rows."""
        return len(self.features)

    @property
    def failed(self) -> bool:
        """Whether any row has failed."""
        return self._cause is not None

    @property
    def failures(self) -> list[tuple[Rows, ServingError]]:
        """Why rows failed: errors, each with the rows that share it, ascending by the first."""
        if self._cause is None:
            return []
        rows = np.flatnonzero(self.status == FAILED)
        rows = rows[np.argsort(self._cause[rows], kind="stable")]
        edges = np.flatnonzero(np.diff(self._cause[rows])) + 1
        groups = sorted(np.split(rows, edges), key=lambda alike: int(alike[0]))
        return [(alike, self._causes[self._cause[alike[0]]]) for alike in groups]

    @property
    def errors(self) -> dict[int, ServingError]:
        """Each failed row's error."""
        return {row: error for rows, error in self.failures for row in rows.tolist()}

    def error(self, row: int) -> ServingError:
        """A failed row's error."""
        assert self._cause is not None
        return self._causes[int(self._cause[row])]

    @property
    def queued_rows(self) -> Rows:
        """The rows to be queued: those that have not failed already."""
        if not self.failed:
            return np.arange(len(self.handles))
        return np.flatnonzero(self.status != FAILED)

    @property
    def queues(self) -> bool:
        """Whether any row is to be queued."""
        return len(self.queued_rows) > 0 if self.failed else len(self.handles) > 0

    def is_late(self, now: float) -> bool:
        """Whether its first row's caller has gone, or waits no longer."""
        deadline = self.deadline if self.deadlines is None else self.deadlines[0]
        return bool(self.cancelled or deadline <= now)

    def cancel(self, row: int = 0) -> None:
        """The row's caller has gone: it is dropped if it has not entered a run. Where all rows are
        one caller's, so are they."""
        if self.deadlines is None:
            self.cancelled = True
        else:
            self.deadlines[row] = -math.inf

    def span(self, row: int) -> slice:
        """Where the row's steps lie in `features` and `outputs`."""
        if self.offsets is None:
            return slice(row, row + 1)
        return slice(int(self.offsets[row]), int(self.offsets[row + 1]))

    def fail(self, rows: int | Rows, error: ServingError) -> None:
        """Give rows an error that they share. A row that failed before the submission is queued
        never is. Of very many errors those of a kind become one, so that a message which is wrong
        in every row costs no more than one that is right. Rows of several callers are told their
        own."""
        if self._cause is None:
            self._cause = np.zeros(len(self.handles), dtype=np.int32)
        cause = self._shared.get(type(error), -1)
        if cause < 0:
            cause = len(self._causes)
            self._causes.append(error)
            if cause >= MOST_CAUSES and self.deadlines is None:
                self._shared[type(error)] = cause
        self.status[rows], self._cause[rows] = FAILED, cause

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

    @property
    def done(self) -> bool:
        """Whether every queued row is complete."""
        return self._left == 0

    def expect(self, rows: int) -> None:
        """So many rows are queued: after their `complete`, the submission is done."""
        self._left = rows

    def complete(self, rows: int) -> None:
        """Note that `rows` more rows have their outcome; the last one calls `on_done`."""
        with COMPLETING:
            self._left -= rows
            last = self._left == 0
        if last:
            self.on_done(self)

    def good_outputs(self, width: int) -> NDArray[Any]:
        """Outputs of the rows that did not fail, row after row."""
        outputs = self.room(width)
        if not self.failed:
            return outputs
        keep = self.status != FAILED
        good: NDArray[Any] = outputs[np.repeat(keep, self.lengths)]
        return good
