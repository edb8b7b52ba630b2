"""The session table of one model version: ids to slots, and each slot's columns.

Columns are numpy arrays over slots, so that a batch's rows are checked and counted at once. Callers
hold `lock` while they use the table: the transport opens and closes, the batcher's thread counts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SessionInfo:
    """A live session, as callers see it. Times are seconds since the epoch."""

    model: str
    version: int
    session_id: str
    steps: int
    opened_at: float
    last_used_at: float
    expires_at: float


class SessionTable:
    """Up to `capacity` live sessions in slots 1..capacity. Slot 0 is scratch."""

    def __init__(self, capacity: int) -> None:
        self.lock = threading.Lock()
        self.by_id: dict[str, int] = {}
        self.ids: list[str | None] = [None] * (capacity + 1)
        self.counts = np.zeros(capacity + 1, dtype=np.int64)
        self.opened_at = np.zeros(capacity + 1, dtype=np.float64)
        self.last_used = np.zeros(capacity + 1, dtype=np.float64)
        # How many holders a slot has had: a step for a former holder finds another number.
        self.generations = np.zeros(capacity + 1, dtype=np.int64)
        self._free = list(range(capacity, 0, -1))

    def __len__(self) -> int:
        return len(self.by_id)

    @property
    def full(self) -> bool:
        """Whether every slot is taken."""
        return not self._free

    def add(self, session_id: str) -> int:
        """Give a new session a free slot."""
        slot = self._free.pop()
        self.by_id[session_id], self.ids[slot] = slot, session_id
        self.counts[slot] = 0
        self.opened_at[slot] = self.last_used[slot] = time.time()
        self.generations[slot] += 1
        return slot

    def remove(self, session_id: str) -> int:
        """End a session; returns the steps it had applied."""
        slot = self.by_id.pop(session_id)
        self.ids[slot] = None
        self.generations[slot] += 1
        self._free.append(slot)
        return int(self.counts[slot])

    def slots(self) -> NDArray[np.int64]:
        """The slots of all live sessions."""
        return np.fromiter(self.by_id.values(), dtype=np.int64, count=len(self.by_id))

    def idle_since(self, moment: float) -> NDArray[np.int64]:
        """Live slots last used before `moment`."""
        slots = self.slots()
        return slots[self.last_used[slots] < moment]

    def page(self, after: str, size: int) -> Iterator[str]:
        """Up to `size` ids that follow `after`, in order."""
        yield from sorted(name for name in self.by_id if name > after)[:size]
