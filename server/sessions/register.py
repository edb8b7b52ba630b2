"""The register: what is known of each session of one model version, in columns, by handle.

A *handle* names a session for as long as anybody may ask for it: its index into the columns in the
low 32 bits, and above them a generation, which changes with each session of that index. Where the
session's state lies is another matter (`slots`). The columns are numpy arrays, so that a batch's
rows are looked up and counted at once. Any thread may use it; its lock is held for microseconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from server.arrays import every, lengthened
from server.scheduler.submission import INDEX, ROOM, SHIFT, Handles
from server.sessions.standing import SessionInfo, Standings, new_life

LIVE = 1 << SHIFT  # odd generations are sessions'


class Register:
    """The sessions that there are, their steps and times; who is called what by callers, and who
    may begin, is the directory's.

    Args:
        limit: how many sessions there may be.
        clock: for durations, which a change of the time of day must not touch.
        wall: for moments that callers are told, seconds since the epoch.
    """

    def __init__(
        self,
        model: str,
        version: int,
        limit: int,
        ttl: float,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self.model, self.version, self.limit, self.ttl = model, version, limit, ttl
        self._clock, self._wall = clock, wall
        self._lock = threading.Lock()
        self._ids: list[str | None] = [None]  # index 0 is nobody's, so no handle is 0
        self._free: list[int] = []
        rows = min(limit, ROOM) + 1
        self._held = np.zeros(rows, dtype=np.int64)  # the handle of the session of each index
        self._held[0] = -2 << SHIFT  # of no session
        self._counts = np.zeros(rows, dtype=np.int64)
        self._opened_at = np.zeros(rows, dtype=np.float64)
        self._last_used = np.zeros(rows, dtype=np.float64)  # by `clock`
        self._lives = np.zeros(rows, dtype=np.int64)
        self._epochs = np.zeros(rows, dtype=np.int64)  # of ownership, at the store
        self._durable = np.zeros(rows, dtype=np.int64)  # steps that the store has

    def handles(self) -> Handles:
        """Of all live sessions."""
        with self._lock:
            return self._handles()

    def at(self, index: NDArray[np.int64]) -> Handles:
        """The live sessions at these indices."""
        with self._lock:
            return self._live_of(self._held[index])

    def standings(self, handles: Handles) -> Standings:
        """What a store is told of those of the sessions that are live."""
        with self._lock:
            handles = handles[self._live(handles)]
            index = handles & INDEX
            ids = [self._ids[each] or "" for each in index.tolist()]
            idle = self._clock() - self._last_used[index]
            return Standings(
                handles, ids, self._epochs[index], self._lives[index], self._counts[index],
                self._opened_at[index], self._wall() - idle,
            )  # fmt: skip

    def own(self, handles: Handles, epochs: NDArray[np.int64]) -> None:
        """The store has made records of sessions that it did not know: their epochs there."""
        with self._lock:
            live = self._live(handles)
            self._epochs[handles[live] & INDEX] = epochs[live]

    def made_durable(self, stored: Standings) -> None:
        """The store has these sessions as the columns say."""
        with self._lock:
            same = self._live(stored.handles)
            index = stored.handles & INDEX
            same &= self._lives[index] == stored.lives
            self._durable[index[same]] = stored.counts[same]

    def durable(self, handles: Handles) -> NDArray[np.int64]:
        """How many steps of each session the store has; of one that is not live, whatever."""
        durable: NDArray[np.int64] = self._durable[handles & INDEX]
        return durable

    def told(self, handle: int) -> tuple[int, int]:
        """A session's durable steps and its life."""
        index = handle & INDEX
        return int(self._durable[index]), int(self._lives[index])

    def live(self, handles: Handles) -> NDArray[np.bool_]:
        """Which of the sessions are live."""
        with self._lock:
            return self._live(handles)

    def counts(self, handles: Handles) -> NDArray[np.int64]:
        """The sessions' counts; of one that is not live, whatever."""
        with self._lock:
            counts: NDArray[np.int64] = self._counts[handles & INDEX]
            return counts

    def lives(self, handles: Handles) -> NDArray[np.int64]:
        """Which life of theirs the sessions are in; of one that is not live, whatever."""
        lives: NDArray[np.int64] = self._lives[handles & INDEX]
        return lives

    def use(self, handles: Handles) -> tuple[NDArray[np.bool_] | None, NDArray[np.int64]]:
        """Steps have come to sessions: which of these are live (None: all), and their counts (of
        one that is not, whatever). They count as used now, so that none expires under its step."""
        with self._lock:
            index = handles & INDEX
            live = self._live_at(index, handles)
            if every(live):
                self._last_used[index] = self._clock()
                return None, self._counts[index]
            self._last_used[index[live]] = self._clock()
            return live, self._counts[np.where(live, index, 0)]

    def use_one(self, handle: int) -> int:
        """As `use`, of one session: its count, or -1 if it is not live."""
        with self._lock:
            index = handle & INDEX
            if self._held[index] != handle:
                return -1
            self._last_used[index] = self._clock()
            return int(self._counts[index])

    def count_one(self, handle: int, start: int) -> None:
        """As `count`, of one step of one session, which started at its count."""
        with self._lock:
            index = handle & INDEX
            if self._held[index] == handle:
                self._counts[index] = start + 1

    def count(self, handles: Handles, starts: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        """Steps were applied: the sessions' new counts, of those still live, and at which step each
        started. One that started at 0 although it had come further begins another life."""
        with self._lock:
            index = handles & INDEX
            live = self._live_at(index, handles)
            if not every(starts != 0):
                again = index[live & (starts == 0) & (self._counts[index] > 0)]
                self._lives[again] += 1
                self._durable[again] = 0
            if every(live):
                self._counts[index] = counts
            else:
                self._counts[index[live]] = counts[live]

    def last_used(self, handles: Handles) -> NDArray[np.float64]:
        """When live sessions were last used, by the directory's clock; 0 of others."""
        with self._lock:
            live = self._live(handles)
            return np.where(live, self._last_used[np.where(live, handles & INDEX, 0)], 0.0)

    def _live(self, handles: Handles) -> NDArray[np.bool_]:
        return self._live_at(handles & INDEX, handles)

    def _live_at(self, index: NDArray[np.int64], handles: Handles) -> NDArray[np.bool_]:
        live: NDArray[np.bool_] = self._held[index] == handles
        return live

    def _idle(self, handles: Handles) -> Handles:
        live: Handles = handles[self._live(handles)]
        idle: Handles = live[self._last_used[live & INDEX] < self._clock() - self.ttl]
        return idle

    def _handles(self) -> Handles:
        """Of all live sessions."""
        return self._live_of(self._held[: len(self._ids)])

    def _live_of(self, held: NDArray[np.int64]) -> Handles:
        live: Handles = held[held & LIVE != 0]
        return live

    def _enter(self, session_id: str) -> int:
        """A new session's handle."""
        index = self._free.pop() if self._free else self._new_index()
        self._held[index] = handle = int(self._held[index]) + LIVE | index
        self._ids[index] = session_id
        self._counts[index], self._opened_at[index] = 0, self._wall()
        self._lives[index] = new_life()
        for column in (self._durable, self._epochs):
            if column[index]:  # else no memory is touched where there is no store
                column[index] = 0
        return handle

    def _new_index(self) -> int:
        index = len(self._ids)
        if index == len(self._held):
            self._grow(2 * index)
        self._ids.append(None)
        return index

    def _grow(self, rows: int) -> None:
        self._counts = lengthened(self._counts, rows)
        self._opened_at = lengthened(self._opened_at, rows)
        self._last_used = lengthened(self._last_used, rows)
        self._lives = lengthened(self._lives, rows)
        self._epochs = lengthened(self._epochs, rows)
        self._durable = lengthened(self._durable, rows)
        self._held = lengthened(self._held, rows)  # the last, so that all are as long if one fails

    def _begin(self, index: int, steps: int) -> None:
        """The session begins another life, at step `steps`, of which the store has nothing."""
        self._counts[index], self._durable[index] = steps, 0
        self._lives[index] += 1

    def _strike(self, index: int) -> None:
        """The session of this index is no more."""
        self._ids[index] = None
        self._held[index] += LIVE
        self._free.append(index)

    def _info(self, session_id: str, handle: int) -> SessionInfo:
        index = handle & INDEX
        used = self._wall() - (self._clock() - float(self._last_used[index]))
        return SessionInfo(
            model=self.model,
            version=self.version,
            session_id=session_id,
            steps=int(self._counts[index]),
            opened_at=float(self._opened_at[index]),
            last_used_at=used,
            expires_at=used + self.ttl,
            durable_step=int(self._durable[index]),
            life=int(self._lives[index]),
        )
