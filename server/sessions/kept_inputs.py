"""The latest observations of every session, for those that migrate to a version of other states.

A ring a session, not a slot, so that it outlives the session's absence from the device. Beside it
stands which session it is of and how far it reaches: observations that do not follow those before
begin the ring anew, so what is in it is never of two lives. Only whoever holds the engine touches
it, so it needs no lock. It costs `sessions * depth * features * 4` bytes of address space, touched
as sessions are used.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from server.scheduler.submission import INDEX
from server.sessions.step_protocol import Applied

Floats = NDArray[np.float32]


class KeptInputs:
    """The last `depth` observations of each of up to `sessions` sessions."""

    def __init__(self, sessions: int, depth: int, inputs: int) -> None:
        self.depth = depth
        self._rows = np.zeros((sessions + 1, depth, inputs), dtype=np.float32)
        self._handles = np.zeros(sessions + 1, dtype=np.int64)  # whose ring it is; 0: nobody's
        self._counts = np.zeros(sessions + 1, dtype=np.int64)  # the session's after the last row
        self._kept = np.zeros(sessions + 1, dtype=np.int64)
        self._lives = np.zeros(sessions + 1, dtype=np.int64)  # how often the ring began anew

    def note(self, applied: Applied) -> None:
        """Keep the observations of steps that were applied."""
        index, counts, ran = applied.handles & INDEX, applied.counts, applied.rows
        follows = (self._handles[index] == applied.handles) & (self._counts[index] == counts)
        anew = index[~follows | (counts == 0)]
        self._kept[anew] = 0
        self._lives[anew] += 1
        self._handles[index], self._counts[index] = applied.handles, counts + ran.lengths
        self._kept[index] = np.minimum(self.depth, self._kept[index] + ran.lengths)
        for t in range(ran.features.shape[1]):
            rows = np.flatnonzero(ran.lengths > t)
            self._rows[index[rows], (counts[rows] + t) % self.depth] = ran.features[rows, t]

    def forget(self, handle: int) -> None:
        """The session's state is no longer that of the observations kept."""
        self._handles[handle & INDEX] = 0

    def tail(self, handle: int, count: int) -> tuple[Floats, int]:
        """What is kept of a session at step `count`, oldest first: [n, I], and in which of the
        ring's lives; n is `depth` or less."""
        index = handle & INDEX
        known = self._handles[index] == handle and self._counts[index] == count
        kept = int(self._kept[index]) if known else 0
        at = np.arange(count - kept, count) % self.depth
        return self._rows[index, at], int(self._lives[index])

    def put(self, handle: int, count: int, rows: Floats) -> None:
        """Begin the ring of a session at step `count` with a `tail`, of any length."""
        index, kept = handle & INDEX, min(len(rows), self.depth)
        at = np.arange(count - kept, count) % self.depth
        self._rows[index, at] = rows[len(rows) - kept :]
        self._handles[index], self._counts[index], self._kept[index] = handle, count, kept
        self._lives[index] += 1

    def release(self) -> None:
        """Give the memory back; nothing is kept any more."""
        self._rows = self._rows[:0].copy()
