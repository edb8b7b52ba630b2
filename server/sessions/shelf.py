"""The shelf: states of sessions that are not resident, in the host's memory.

Where there is a store, only what the store has not got yet, and what was read from it a moment ago
and waits for a slot. Any thread may use it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from server.sessions.replay_cache import Floats, Prints

READ_AHEAD = 16_384  # records from the store that may wait for a slot; the oldest are read again


@dataclass(frozen=True, eq=False)
class Shelved:
    """A session that is not resident, in life `life`, at step `steps`: a row of each state, and
    what is remembered of its latest steps, oldest first: a ring of the replay cache, or a tail."""

    life: int
    steps: int
    states: Sequence[NDArray[Any]]
    outputs: Floats
    prints: Prints
    latest: int
    """How many of the latest steps came in one row."""
    ring: bool = True
    """Whether `outputs` and `prints` are a ring as it lies in the cache."""


class Shelf:
    """Shelved sessions, by handle."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: dict[int, Shelved] = {}
        self._read: OrderedDict[int, None] = OrderedDict()  # those that the store has as well

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, handle: int) -> bool:
        return handle in self._sessions

    def get(self, handle: int) -> Shelved | None:
        """Look at a session."""
        return self._sessions.get(handle)

    def put(self, handle: int, session: Shelved) -> None:
        """Keep a session that is nowhere else."""
        with self._lock:
            self._sessions[handle] = session
            self._read.pop(handle, None)

    def put_read(self, handle: int, session: Shelved) -> None:
        """Keep a session that was read from the store, until it is taken or too many are here. What
        is nowhere else stays."""
        with self._lock:
            if handle in self._sessions:
                return
            self._sessions[handle] = session
            self._read[handle] = None
            if len(self._read) > READ_AHEAD:
                oldest, _ = self._read.popitem(last=False)
                del self._sessions[oldest]

    def take(self, handle: int) -> Shelved | None:
        """Hand out a session, if it is here."""
        with self._lock:
            self._read.pop(handle, None)
            return self._sessions.pop(handle, None)

    def forget(self, handle: int, session: Shelved | None = None) -> None:
        """The session has ended, or begins anew. Or the store has it as `session` now: then a newer
        one stays."""
        with self._lock:
            if session is None or self._sessions.get(handle) is session:
                self._sessions.pop(handle, None)
                self._read.pop(handle, None)
