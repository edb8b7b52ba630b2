"""A part: rows of one submission that may enter the same run, the unit in which the queue waits.

A part names no slot twice and all its rows have the same width. A submission with several steps of
one session, or with rows of different lengths, falls into several parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from server.batcher.submission import FAILED, Submission


@dataclass(slots=True, eq=False)
class Part:
    """Rows `rows` of `submission` (None: all); those from `taken` on have not run yet."""

    submission: Submission
    rows: NDArray[np.int64] | None
    slots: NDArray[np.int64]
    width: int
    taken: int = 0
    unfinished: int = 0
    blockers: int = 0
    blocked: list[Part] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.unfinished = len(self.slots)

    @property
    def steps(self) -> int:
        """Steps in all rows."""
        return self.count(0, len(self.slots))

    def count(self, start: int, stop: int) -> int:
        """Steps in the rows from `start` to before `stop`."""
        if self.submission.offsets is None:
            return stop - start
        rows = slice(start, stop) if self.rows is None else self.rows[start:stop]
        return int(self.submission.lengths[rows].sum())

    @property
    def left(self) -> int:
        """Rows not taken into a run yet."""
        return len(self.slots) - self.taken


def width_of(length: int) -> int:
    """The width of a run for a row of `length` steps: the next power of two, to pad by < half."""
    return 1 << (length - 1).bit_length()


def split(submission: Submission) -> Iterator[Part]:
    """The submission's parts, in an order that keeps each session's rows in order."""
    slots, lengths = submission.slots, submission.lengths
    submission.queued_rows = submission.remaining
    if len(slots) == 1:
        yield Part(submission, None, slots, width_of(int(lengths[0])))
        return
    clean = not submission.errors and submission.offsets is None
    if clean and len(np.unique(slots)) == len(slots):
        yield Part(submission, None, slots, 1)
        return
    left = np.flatnonzero(submission.status != FAILED)
    while len(left):
        first = np.sort(np.unique(slots[left], return_index=True)[1])
        chosen = left[first]
        yield from _by_width(submission, chosen)
        left = np.delete(left, first)


def _by_width(submission: Submission, rows: NDArray[np.int64]) -> Iterator[Part]:
    widths = 1 << np.ceil(np.log2(submission.lengths[rows])).astype(np.int64)
    for width in np.unique(widths):
        chosen = rows[widths == width]
        yield Part(submission, chosen, submission.slots[chosen], int(width))
