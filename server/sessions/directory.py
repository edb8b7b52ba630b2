"""The directory of one model version: its sessions, by id and by handle, from birth to tombstone.

A *handle* names a session for as long as anybody may ask for it: its index into the directory's
columns in the low 32 bits, and above them a generation, which changes with each session of that
index. Where the session's state lies is another matter (`slots`). Columns are numpy arrays over
indices, so that a batch's rows are looked up and counted at once. Any thread may use it; its lock
is held for microseconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from heapq import nsmallest
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from server.errors import (
    BadInput,
    Draining,
    SessionClosed,
    SessionEnded,
    SessionExists,
    SessionExpired,
    SessionLost,
    SessionsFull,
    UnknownSession,
    VersionLeaves,
)
from server.scheduler.submission import INDEX, SHIFT, Handles
from server.sessions.tombstones import How, Tombstones
from tidegate.wire import MAX_ID_BYTES

LONGEST_WAIT = 1.0
OLDEST_FOR = 0.1  # seconds for which the longest idle session is not looked for again
AT_ONCE = 1000  # sessions that expire while the lock is held
SLICE, PAUSE = 4000, 0.001  # ids looked at in one go, and seconds between two of these


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


class Directory:
    """Up to `limit` live sessions. Idle ones expire after `ttl` seconds.

    Args:
        clock: for durations, which a change of the time of day must not touch.
        wall: for moments that callers are told, seconds since the epoch.
        on_end: told the handle of every session that ended, under the lock.
    """

    def __init__(
        self,
        model: str,
        version: int,
        limit: int,
        ttl: float,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        remembered_ends: int = 100_000,
    ) -> None:
        self.model, self.version, self.limit, self.ttl = model, version, limit, ttl
        self.on_end: Callable[[int], None] = lambda _: None
        self.draining = False
        """Whether new sessions are refused."""
        self.leaving = False
        """Whether new sessions are refused because other versions take them."""
        self._clock, self._wall = clock, wall
        self._lock = threading.Lock()
        self._by_id: dict[str, int] = {}
        self._ids: list[str | None] = [None]  # index 0 is nobody's, so no handle is 0
        self._tombstones = Tombstones(remembered_ends)
        self._hidden: set[int] = set()  # handles of sessions on their way here
        self._free: list[int] = []
        self._counts = np.zeros(1024, dtype=np.int64)
        self._generations = np.zeros(1024, dtype=np.int64)
        self._generations[0] = -2  # of no session
        self._opened_at = np.zeros(1024, dtype=np.float64)
        self._last_used = np.zeros(1024, dtype=np.float64)  # by `clock`
        self._oldest, self._oldest_at = 0.0, -OLDEST_FOR

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._by_id

    def ended(self, session_id: str) -> bool:
        """Whether a session of that id ended here."""
        return session_id in self._tombstones

    @property
    def vacated(self) -> bool:
        """Whether there is no session, nor one on its way, and none will ever be."""
        with self._lock:  # whoever comes after it sees that the version is left
            return self.leaving and not self._by_id and not self._hidden

    def open(self, session_id: str) -> tuple[int, int, bool]:
        """Open a session, or attach to the live one: handle, steps, and whether it was opened.

        Raises:
            BadInput: the id is empty, or longer than 256 bytes of UTF-8.
            SessionsFull: there are as many as may be.
            Draining: the server is shutting down, and the session is not live.
        """
        check_id(session_id)
        with self._lock:
            handle = self._by_id.get(session_id)
            if created := handle is None:
                handle = self._add(session_id)
            index = handle & INDEX
            self._last_used[index] = self._clock()
            return handle, int(self._counts[index]), created

    def create(self, session_id: str, steps: int, replace: bool) -> tuple[int, SessionInfo, bool]:
        """Open a session that has applied `steps` steps already, in place of a live one only if
        `replace`: handle, info, and whether it was opened.

        Raises:
            SessionExists: it is live, and `replace` was not asked for. Or as `open`.
        """
        check_id(session_id)
        with self._lock:
            handle = self._by_id.get(session_id)
            if created := handle is None:
                handle = self._add(session_id)
            elif not replace:
                raise SessionExists(self.model, session_id)
            index = handle & INDEX
            self._counts[index], self._last_used[index] = steps, self._clock()
            return handle, self._info(session_id, handle), created

    def find(self, session_id: str) -> tuple[int, int]:
        """A live session's handle and steps.

        Raises:
            UnknownSession, SessionExpired, SessionClosed, SessionLost: it is not live.
        """
        with self._lock:
            handle = self._find(session_id)
            return handle, int(self._counts[handle & INDEX])

    def reset(self, session_id: str) -> SessionInfo:
        """Put a live session back to step 0. Raises as `find`."""
        with self._lock:
            handle = self._find(session_id)
            index = handle & INDEX
            self._counts[index], self._last_used[index] = 0, self._clock()
            return self._info(session_id, handle)

    def look(self, session_id: str) -> tuple[int, SessionInfo]:
        """A live session's handle, and what it is. Raises as `find`."""
        with self._lock:
            handle = self._find(session_id)
            return handle, self._info(session_id, handle)

    def page(self, after: str, size: int) -> list[SessionInfo]:
        """Up to `size` live sessions whose ids follow `after`, by id."""
        ids = list(self._by_id)  # at once, so no lock is held while they are put in order
        following: list[str] = []
        for at in range(0, len(ids), SLICE):
            some = (name for name in ids[at : at + SLICE] if name > after)
            following = nsmallest(size, chain(following, some))
            if len(ids) > SLICE:  # whoever has less to do goes first
                time.sleep(PAUSE)
        with self._lock:
            live = [(name, self._by_id.get(name)) for name in following]
            return [self._info(name, handle) for name, handle in live if handle is not None]

    def close(self, session_id: str) -> int:
        """End a session; returns the steps it had applied. Raises as `find`."""
        with self._lock:
            handle = self._find(session_id)
            self._end(handle, SessionClosed)
            return int(self._counts[handle & INDEX])

    def hide(self, session_id: str, steps: int) -> int:
        """Make room for a session that is on its way here, whom nobody can name before `show`; its
        handle. Raises as `create`."""
        with self._lock:
            if session_id in self._by_id:
                raise SessionExists(self.model, session_id)
            handle = self._add("")
            del self._by_id[""]
            self._hidden.add(handle)
            index = handle & INDEX
            self._counts[index], self._last_used[index] = steps, self._clock()
            return handle

    def show(self, handle: int, session_id: str, leave: Callable[[], tuple[float, float]]) -> None:
        """A hidden session is live from now on, as `session_id`.

        Args:
            leave: ends it where it was (see `move`); if that raises, it stays hidden.

        Raises:
            SessionExists: a session of that id is live here.
            SessionLost: the hidden one is no more.
        """
        with self._lock:
            if handle not in self._hidden:
                raise SessionLost(self.model, session_id, self._wall())
            if self.leaving:
                raise VersionLeaves(self.model, self.version)
            if session_id in self._by_id:
                raise SessionExists(self.model, session_id)
            index = handle & INDEX
            self._opened_at[index], self._last_used[index] = leave()
            self._hidden.discard(handle)
            self._by_id[session_id], self._ids[index] = handle, session_id
            self._tombstones.remove(session_id)

    def move(self, handle: int, how: How) -> tuple[float, float]:
        """End a session here, for it is live elsewhere; when it was opened, and last used by the
        clock.

        Raises:
            SessionEnded, UnknownSession: it is not live.
        """
        with self._lock:
            index = handle & INDEX
            if self._generations[index] != handle >> SHIFT:
                raise self._tombstones.error(self.model, self._tombstones.name(handle))
            times = float(self._opened_at[index]), float(self._last_used[index])
            self._end(handle, how)
            return times

    def drop(self, handle: int) -> None:
        """A hidden session does not come after all."""
        with self._lock:
            if handle in self._hidden:
                self._end(handle, SessionClosed)

    def lose(self, handles: Handles) -> None:
        """End sessions whose state is lost."""
        with self._lock:
            for handle in handles[self._live(handles)].tolist():
                self._end(handle, SessionLost)

    def expire(self, busy: Callable[[Handles], NDArray[np.bool_]]) -> int:
        """End the sessions idle for longer than the time to live, none that is `busy`, a thousand
        while the lock is held. Returns how many ended."""
        with self._lock:
            handles = self._handles()
            idle = self._idle(handles)
        ended = 0
        for at in range(0, len(idle), AT_ONCE):
            with self._lock:
                still = self._idle(idle[at : at + AT_ONCE])
                gone = still[~busy(still)].tolist()
                for handle in gone:
                    self._end(handle, SessionExpired)
            ended += len(gone)
        return ended

    def live(self, handles: Handles) -> NDArray[np.bool_]:
        """Which of the sessions are live."""
        with self._lock:
            return self._live(handles)

    def counts(self, handles: Handles) -> NDArray[np.int64]:
        """The sessions' counts; of one that is not live, whatever."""
        with self._lock:
            counts: NDArray[np.int64] = self._counts[handles & INDEX]
            return counts

    def use(self, handles: Handles) -> tuple[NDArray[np.bool_] | None, NDArray[np.int64]]:
        """Steps have come to sessions: which of these are live (None: all), and their counts (of
        one that is not, whatever). They count as used now, so that none expires under its step."""
        with self._lock:
            live, index = self._live(handles), handles & INDEX
            if live.all():
                self._last_used[index] = self._clock()
                return None, self._counts[index]
            self._last_used[index[live]] = self._clock()
            return live, self._counts[np.where(live, index, 0)]

    def count(self, handles: Handles, counts: NDArray[np.int64]) -> None:
        """Steps were applied: the sessions' new counts, of those still live."""
        with self._lock:
            live, index = self._live(handles), handles & INDEX
            if live.all():
                self._counts[index] = counts
            else:
                self._counts[index[live]] = counts[live]

    def last_used(self, handles: Handles) -> NDArray[np.float64]:
        """When live sessions were last used, by the directory's clock; 0 of others."""
        with self._lock:
            live = self._live(handles)
            return np.where(live, self._last_used[np.where(live, handles & INDEX, 0)], 0.0)

    def error(self, handle: int) -> SessionEnded | UnknownSession:
        """Why a session is no more."""
        with self._lock:
            return self._tombstones.error(self.model, self._tombstones.name(handle))

    def name(self, handle: int) -> str:
        """The id of a live session, or of one that ended not long ago; else ""."""
        with self._lock:
            index = handle & INDEX
            if self._generations[index] == handle >> SHIFT:
                return self._ids[index] or ""
            return self._tombstones.name(handle)

    def _live(self, handles: Handles) -> NDArray[np.bool_]:
        live: NDArray[np.bool_] = self._generations[handles & INDEX] == handles >> SHIFT
        return live

    def _idle(self, handles: Handles) -> Handles:
        live: Handles = handles[self._live(handles)]
        idle: Handles = live[self._last_used[live & INDEX] < self._clock() - self.ttl]
        return idle

    def _handles(self) -> Handles:
        """Of all live sessions."""
        index = np.flatnonzero(self._generations & 1)
        return self._generations[index] << SHIFT | index

    def _find(self, session_id: str) -> int:
        handle = self._by_id.get(session_id)
        if handle is None:
            raise self._tombstones.error(self.model, session_id)
        return handle

    def _add(self, session_id: str) -> int:
        if self.draining:
            raise Draining
        if self.leaving:
            raise VersionLeaves(self.model, self.version)
        if len(self._by_id) + len(self._hidden) >= self.limit:
            raise self._full()
        index = self._free.pop() if self._free else self._new_index()
        self._generations[index] += 1  # odd while there is a session, even while there is none
        handle = int(self._generations[index]) << SHIFT | index
        self._by_id[session_id], self._ids[index] = handle, session_id
        self._counts[index], self._opened_at[index] = 0, self._wall()
        self._tombstones.remove(session_id)
        return handle

    def _new_index(self) -> int:
        index = len(self._ids)
        self._ids.append(None)
        if index == len(self._counts):
            more = (0, index)
            self._counts = np.pad(self._counts, more)
            self._generations = np.pad(self._generations, more)
            self._opened_at = np.pad(self._opened_at, more)
            self._last_used = np.pad(self._last_used, more)
        return index

    def _end(self, handle: int, how: How) -> None:
        index = handle & INDEX
        session_id = self._ids[index]
        assert session_id is not None
        hidden = handle in self._hidden
        if hidden:
            self._hidden.discard(handle)
        else:
            del self._by_id[session_id]
        self._ids[index] = None
        self._generations[index] += 1
        self._free.append(index)
        if not hidden:
            self._tombstones.add(handle, session_id, how, self._wall())
        self.on_end(handle)

    def _full(self) -> SessionsFull:
        """The next expiry is certain; a close may come at any time, so nobody waits for long."""
        now = self._clock()
        if now - self._oldest_at >= OLDEST_FOR:
            used = self._last_used[self._handles() & INDEX]
            self._oldest, self._oldest_at = float(used.min()), now
        wait = min(LONGEST_WAIT, max(0.001, self._oldest + self.ttl - now))
        return SessionsFull(f"model {self.model!r} holds {self.limit} sessions", wait)

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
        )


def check_id(session_id: str) -> None:
    """Refuse what cannot be a session's id.

    Raises:
        BadInput: it is empty, longer than 256 bytes of UTF-8, or no text that UTF-8 can say.
    """
    must = f"session_id must have 1 to {MAX_ID_BYTES} bytes of UTF-8"
    try:
        size = len(session_id.encode())
    except UnicodeEncodeError as error:
        raise BadInput(f"{must}, which cannot say {session_id!r}", field="session_id") from error
    if not 1 <= size <= MAX_ID_BYTES:
        raise BadInput(f"{must}, not {size}", field="session_id")
