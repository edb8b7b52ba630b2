"""What a submission falls into while it waits: an entry, its rounds, and their parts.

An *entry* is a submission in the queue. In each of its *rounds* every session occurs once; a *part*
is the rows of a round that have one width, which is what runs are made of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from server.arrays import every
from server.errors import ServingError
from server.scheduler.submission import Handles, Rows, Submission


@dataclass(slots=True, eq=False)
class Entry:
    """A submission in the queue, and how far it has come."""

    submission: Submission
    number: int
    """By arrival: within a width the lowest goes first."""
    rounds: Iterator[list[tuple[Rows | None, int]]]
    """For each round its parts' rows (None: all) and their width."""
    unfinished: int = 0
    """Rows of the present round that have not left their run."""
    blockers: int = 0
    blocked: list[Entry] = field(default_factory=list)

    def part(self, rows: Rows | None, width: int) -> Part:
        """Some of its rows (None: all) as a part."""
        submission = self.submission
        handles = submission.handles if rows is None else submission.handles[rows]
        return Part(self, submission, rows, handles, width)


@dataclass(slots=True, eq=False)
class Part:
    """Rows `rows` of an entry (None: all), of one width; those from `taken` on have not run yet."""

    entry: Entry
    submission: Submission
    """Whose rows they are."""
    rows: Rows | None
    handles: Handles
    width: int
    turn: int = 0
    """By when it was let in: among widths the lowest goes first."""
    taken: int = 0

    @property
    def left(self) -> int:
        """Rows not taken into a run yet."""
        return len(self.handles) - self.taken

    def at(self, start: int, stop: int) -> slice | Rows:
        """Where rows `start` to before `stop` of the part stand in their submission."""
        return slice(start, stop) if self.rows is None else self.rows[start:stop]

    def fail(self, start: int, stop: int, failed: Mapping[int, ServingError]) -> None:
        """Fail those of the rows whose sessions are among `failed`."""
        at = np.arange(len(self.submission))[self.at(start, stop)]
        for row, handle in zip(at.tolist(), self.handles[start:stop].tolist(), strict=True):
            if (error := failed.get(handle)) is not None:
                self.submission.fail(row, error)

    def split(self, failed: Mapping[int, ServingError]) -> tuple[Part | None, Part | None]:
        """The rows whose sessions are not among `failed`, and those whose are, each as a part."""
        if not failed:
            return self, None
        bad = np.isin(self.handles, np.array(list(failed), dtype=np.int64))
        if not bad.any():
            return self, None
        at = np.arange(len(self.submission))[self.at(0, len(self.handles))]
        good = None if bad.all() else self.entry.part(at[~bad], self.width)
        return good, self.entry.part(at[bad], self.width)

    def steps(self, start: int, stop: int) -> int:
        """Steps in the rows from `start` to before `stop`."""
        if self.submission.offsets is None:
            return stop - start
        return int(self.submission.lengths[self.at(start, stop)].sum())


Picked = tuple[Part, int, int]
"""Rows from one number to before another of a part."""


def width_of(length: int) -> int:
    """The width of a run for a row of `length` steps: the next power of two, to pad by < half."""
    return 1 << (length - 1).bit_length()


def parts_of_one_run(submissions: Sequence[Submission]) -> list[Part] | None:
    """The submissions' queued rows as a part each, if all may enter one run together."""
    parts: list[Part] = []
    for submission in submissions:
        pieces = _pieces(submission)
        if len(pieces) != 1:
            return None
        parts.append(Entry(submission, 0, iter(())).part(*pieces[0]))
    alike = all(part.width == parts[0].width for part in parts)
    return parts if alike and _no_twice_in([part.handles for part in parts]) else None


def _pieces(submission: Submission) -> list[tuple[Rows | None, int]]:
    """Of all its rounds the rows of each part, and their width; of single steps as if no session
    occurred twice."""
    if submission.offsets is None and not submission.failed:
        return [(None, 1)]
    return [each for parts in rounds(submission, submission.queued_rows) for each in parts]


def _no_twice_in(columns: list[Handles]) -> bool:
    if len(columns) > 1:
        return no_twice(np.concatenate(columns))
    return len(columns[0]) == 1 or no_twice(columns[0])


def rounds(submission: Submission, queued: Rows) -> Iterator[list[tuple[Rows | None, int]]]:
    """The submission's rounds, in an order that keeps each session's rows in order. What is costly
    is done before this returns; what a round takes, not before it is asked for."""
    whole = len(queued) == len(submission)
    if len(queued) == 1 and whole:
        return iter([[(None, width_of(int(submission.lengths[0])))]])
    handles = submission.handles if whole else submission.handles[queued]
    if submission.offsets is None and no_twice(handles):
        return iter([[(None if whole else queued, 1)]])
    ordered = np.argsort(handles, kind="stable")
    same = handles[ordered[1:]] == handles[ordered[:-1]]
    times = np.empty(len(queued), dtype=np.int64)  # how often the session occurred before
    times[ordered] = _run_lengths(same)
    return _cut(queued, times, submission.lengths[queued])


def no_twice(handles: Handles) -> bool:
    """Whether no session occurs twice."""
    if every(handles[1:] > handles[:-1]):
        return True
    ordered = np.sort(handles)
    return every(ordered[1:] != ordered[:-1])


def _run_lengths(same: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each element the number of equal ones before it; `same[i]` tells that i + 1 equals i."""
    at = np.arange(len(same) + 1)
    starts = np.concatenate(([0], np.where(same, 0, at[1:])))
    counts: NDArray[np.int64] = at - np.maximum.accumulate(starts)
    return counts


def _cut(
    queued: Rows, times: NDArray[np.int64], lengths: NDArray[np.int32]
) -> Iterator[list[tuple[Rows | None, int]]]:
    powers = np.ceil(np.log2(lengths)).astype(np.int64)
    keys = times << 6 | powers
    order = np.argsort(keys, kind="stable")
    keys, rows = keys[order], queued[order]
    edges = np.concatenate(([0], np.flatnonzero(np.diff(keys)) + 1, [len(keys)]))

    def each() -> Iterator[list[tuple[Rows | None, int]]]:
        parts: list[tuple[Rows | None, int]] = []
        for k in range(len(edges) - 1):
            key = int(keys[edges[k]])
            parts.append((rows[edges[k] : edges[k + 1]], 1 << (key & 63)))
            if k + 2 == len(edges) or int(keys[edges[k + 1]]) >> 6 != key >> 6:
                yield parts
                parts = []

    return each()
