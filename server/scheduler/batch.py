"""A batch: the rows of one run, drawn from parts, and the way back to their submissions."""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from server.arrays import filled, some
from server.errors import DeadlinePassed, ServingError, StepCancelled
from server.scheduler.parts import Part, Picked
from server.scheduler.submission import Rows, Submission
from tidegate.wire import APPLIED

T = TypeVar("T", bound=np.generic)
NONE = np.zeros(0, dtype=np.int64)


class Batch:
    """Columns over all rows of a run; row i belongs to `owner(i)`. No session occurs twice.

    `handles`, `first_steps` are i64 [B], `lengths` i32 [B]; `features` pads to f32 [B, T, I].
    `open_rows` marks rows without an outcome yet. The step protocol fills in `counts`, i64 [B], the
    step at which each row starts; `slots`, i64 [B], where its session is resident; and marks the
    `absent` rows, whose sessions have to be brought in before they can run.
    """

    def __init__(self, picked: list[Picked]) -> None:
        self.picked = picked
        self.width = picked[0][0].width
        self.handles = self._column(lambda submission: submission.handles)
        self.first_steps = self._column(lambda submission: submission.first_steps)
        self.lengths = self._column(lambda submission: submission.lengths)
        self.counts = self.slots = NONE
        self.open_rows = filled(len(self.handles), np.bool_, True)
        self.touched = False
        """Whether rows got an outcome before the run."""
        self.late = False
        """Whether rows came too late to run."""
        self.absent: NDArray[np.bool_] | None = None
        counts = (stop - start for _, start, stop in picked)
        self._starts = list(accumulate(counts, initial=0))

    def __len__(self) -> int:
        return len(self.handles)

    def owner(self, row: int) -> tuple[Submission, int]:
        """The submission of a row and the row's index there."""
        segment = bisect_right(self._starts, row) - 1
        part, start, _ = self.picked[segment]
        at = start + row - self._starts[segment]
        return part.submission, at if part.rows is None else int(part.rows[at])

    def owners(self, rows: Rows) -> Iterator[tuple[Part, Rows, Rows]]:
        """The parts that some rows of the batch belong to; for each its rows among these, and their
        indices in its submission. `rows` ascend."""
        edges = np.searchsorted(rows, self._starts).tolist()
        for segment, (part, start, _) in enumerate(self.picked):
            mine = rows[edges[segment] : edges[segment + 1]]
            if len(mine):
                at = mine + (start - self._starts[segment])
                yield part, mine, at if part.rows is None else part.rows[at]

    def number(self, rows: Rows) -> None:
        """Tell the callers of some rows the count of their session, in place of the number that
        they gave."""
        for part, mine, at in self.owners(rows):
            part.submission.first_steps[at] = self.counts[mine]

    def parts(self, rows: Rows) -> list[Part]:
        """Some of its rows as parts of their own."""
        return [part.entry.part(at, part.width) for part, _, at in self.owners(rows)]

    def fail(self, rows: Rows, error: ServingError) -> None:
        """Give open rows an error that they share."""
        self.touched = True
        for part, _, at in self.owners(rows):
            part.submission.fail(at, error)
        self.open_rows[rows] = False

    def answer(self, row: int, outputs: NDArray[np.float32], status: int = APPLIED) -> None:
        """Give an open row its outputs f32 [length, O]."""
        self.touched = True
        submission, at = self.owner(row)
        submission.answer(at, outputs, status)
        self.open_rows[row] = False

    def drop_late(self) -> None:
        """Fail the rows whose caller cancelled or whose deadline has passed, before they run."""
        now = time.monotonic()
        for segment, (part, start, stop) in enumerate(self.picked):
            submission = part.submission
            if submission.deadlines is not None:
                self._drop_rows(segment, submission.deadlines[part.at(start, stop)], now)
            elif submission.is_late(now):
                late = -math.inf if submission.cancelled else submission.deadline
                self._drop_rows(segment, np.full(stop - start, late), now)

    def _drop_rows(self, segment: int, deadlines: NDArray[np.float64], now: float) -> None:
        late = deadlines <= now
        if not some(late):
            return
        self.late = True
        gone, first = deadlines == -math.inf, self._starts[segment]
        if gone.any():
            self.fail(first + np.flatnonzero(gone), StepCancelled())
        if (late & ~gone).any():
            self.fail(first + np.flatnonzero(late & ~gone), DeadlinePassed())

    def features(self, rows: Rows) -> NDArray[np.float32]:
        """The features of some rows, padded with zeros to f32 [len(rows), T, I]."""
        if self.width == 1:
            flat = _joined([_features(*picked) for picked in self.picked])
            return np.ascontiguousarray(flat if len(rows) == len(self) else flat[rows])[:, None, :]
        inputs = self.picked[0][0].submission.features.shape[1]
        padded = np.zeros((len(rows), self.width, inputs), dtype=np.float32)
        for at, row in enumerate(rows.tolist()):
            submission, index = self.owner(row)
            padded[at, : self.lengths[row]] = submission.features[submission.span(index)]
        return padded

    def answer_rows(self, rows: Rows, outputs: NDArray[np.float32]) -> None:
        """Give the rows their outputs f32 [len(rows), T, O]."""
        if self.width > 1 or len(rows) != len(self):
            for at, row in enumerate(rows.tolist()):
                self.answer(row, outputs[at, : self.lengths[row]])
            return
        for segment, (part, start, stop) in enumerate(self.picked):
            low, high = self._starts[segment], self._starts[segment + 1]
            _scatter(part, start, stop, outputs[low:high, 0])
        self.open_rows[:] = False

    def _column(self, of: Callable[[Submission], NDArray[T]]) -> NDArray[T]:
        part, start, stop = self.picked[0]
        if len(self.picked) == 1 and part.rows is None:
            column = of(part.submission)
            return column if stop - start == len(column) else column[start:stop]
        pieces = [of(part.submission)[part.at(start, stop)] for part, start, stop in self.picked]
        return _joined(pieces)


def fail_all(picked: list[Picked], error: ServingError) -> None:
    """Fail the rows of a batch that could not be made."""
    for part, start, stop in picked:
        rows = np.arange(start, stop) if part.rows is None else part.rows[start:stop]
        part.submission.fail(rows, error)


def _joined(pieces: list[NDArray[T]]) -> NDArray[T]:
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _places(part: Part, start: int, stop: int) -> slice | Rows:
    """Where the rows' single steps lie in their submission's features and outputs."""
    offsets, rows = part.submission.offsets, part.at(start, stop)
    return rows if offsets is None else offsets[:-1][rows]


def _features(part: Part, start: int, stop: int) -> NDArray[np.float32]:
    return part.submission.features[_places(part, start, stop)]


def _scatter(part: Part, start: int, stop: int, outputs: NDArray[np.float32]) -> None:
    submission = part.submission
    if part.rows is None and stop - start == len(submission):
        submission.answer_all(outputs)
        return
    submission.room(outputs.shape[-1])[_places(part, start, stop)] = outputs
