"""Which sessions a shadow follows: each from one of its beginnings on, step after step.

A shadow's state must never be wrong without anybody noticing. So a session is followed only as long
as every one of its steps is seen in turn: whatever is missed ends its following, until it begins
anew at step 0. Runs carry numbers, and so do misses: a session goes on only where nothing of it was
missed since its last run. One lock guards the misses; the rest belongs to the shadow's thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from server.scheduler.submission import Handles

Bools = NDArray[np.bool_]


class Course:
    """The slots 1..capacity of a shadow's engine, and who is in them.

    Args:
        live: which sessions are live where callers step them.
    """

    def __init__(self, capacity: int, live: Callable[[Handles], Bools]) -> None:
        self._live = live
        self._slots: dict[int, int] = {}  # by handle
        self._free = list(range(capacity, 0, -1))
        self._counts = np.zeros(capacity + 1, dtype=np.int64)
        self._seen = np.zeros(capacity + 1, dtype=np.int64)  # the last run's number
        self._missed: dict[int, int] = {}  # by handle, the number of the last miss
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._slots)

    def miss(self, handles: Handles, number: int) -> None:
        """Something became of sessions that the shadow does not see, in any thread."""
        with self._lock:
            self._missed.update(dict.fromkeys(handles.tolist(), number))

    def enter(
        self, handles: Handles, counts: NDArray[np.int64], number: int
    ) -> tuple[NDArray[np.int64], int]:
        """The slots of a run's sessions, 0 for those not followed; and how many were given up."""
        slots, given_up = np.zeros(len(handles), dtype=np.int64), 0
        for row, (handle, count) in enumerate(zip(handles.tolist(), counts.tolist(), strict=True)):
            slot = self._slots.get(handle, 0)
            if count == 0:
                slot = slot or self._begin(handle)
                given_up += slot == 0
            elif slot and (self._counts[slot] != count or self._missed_since(handle, slot)):
                self.give_up(handle)
                slot, given_up = 0, given_up + 1
            slots[row], self._seen[slot] = slot, number
        return slots, given_up

    def advance(self, slots: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        """Sessions were stepped: their counts now."""
        self._counts[slots] = counts

    def give_up(self, handle: int) -> None:
        """Follow a session no more."""
        if slot := self._slots.pop(handle, 0):
            self._free.append(slot)

    def _missed_since(self, handle: int, slot: int) -> bool:
        return self._missed.get(handle, 0) > int(self._seen[slot])

    def _begin(self, handle: int) -> int:
        if not self._free:
            self._bury()
        if not self._free:
            return 0
        self._slots[handle] = slot = self._free.pop()
        return slot

    def _bury(self) -> None:
        """Free the slots of sessions that have ended, and forget what was missed of such."""
        for handle in self._ended(list(self._slots)):
            self.give_up(handle)
        with self._lock:
            for handle in self._ended(list(self._missed)):
                del self._missed[handle]

    def _ended(self, known: list[int]) -> list[int]:
        handles = np.array(known, dtype=np.int64)
        ended: list[int] = handles[~self._live(handles)].tolist()
        return ended
