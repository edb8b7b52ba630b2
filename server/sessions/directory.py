"""The directory of one model version: its sessions by id, from birth to tombstone.

Whoever names a session gets its handle here, by which the register knows the rest. Any thread may
use it; its lock is held for microseconds.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from heapq import nsmallest
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from server.access.tenants import Tenants
from server.errors import (
    Draining,
    QuotaReached,
    ServingError,
    SessionClosed,
    SessionEnded,
    SessionExists,
    SessionExpired,
    SessionLost,
    SessionSetBack,
    SessionsFull,
    UnknownSession,
    VersionLeaves,
)
from server.names import tenant
from server.scheduler.submission import INDEX, Handles
from server.sessions.register import Register
from server.sessions.standing import Adopted, Left, SessionInfo, check_id
from server.sessions.tombstones import How, Tombstones

LONGEST_WAIT = 1.0
OLDEST_FOR = 0.1  # seconds for which the longest idle session is not looked for again
AT_ONCE = 1000  # sessions that expire while the lock is held
SLICE, PAUSE = 4000, 0.001  # ids looked at in one go, and seconds between two of these


OnEnd = Callable[[int, str, int, How], None]
"""Told of a session that ended: its handle, id ("" if it was hidden), epoch at the store, how."""


class Directory(Register):
    """Up to `limit` live sessions. Idle ones expire after `ttl` seconds.

    Args:
        clock, wall: as the register's.
        stored: whether sessions are known only once a store has them (`adopt`).
        tenants: are told of sessions that begin and end, and bound how many there are of each.
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
        stored: bool = False,
        tenants: Tenants | None = None,
    ) -> None:
        super().__init__(model, version, limit, ttl, clock, wall)
        self.stored, self._tenants = stored, tenants
        self._on_end: list[OnEnd] = []
        self.draining = False
        """Whether new sessions are refused."""
        self.leaving = False
        """Whether new sessions are refused because other versions take them."""
        self._by_id: dict[str, int] = {}
        self._tombstones = Tombstones(remembered_ends)
        self._hidden: set[int] = set()  # handles of sessions on their way here
        self._new: set[int] = set()  # made at the store, and not opened by anybody yet
        self._oldest, self._oldest_at = 0.0, -OLDEST_FOR

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._by_id

    def watch_ends(self, told: OnEnd) -> None:
        """From now on `told` hears of every session that ends, under the lock."""
        self._on_end.append(told)

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
            handle, created = self._open(session_id)
            index = handle & INDEX
            self._last_used[index] = self._clock()
            return handle, int(self._counts[index]), created

    def check_room(self, more: int) -> None:
        """Refuse sessions that could not be adopted.

        Raises:
            SessionsFull, Draining: as `open`; it is looked at again when they are adopted.
        """
        with self._lock:
            if more and self.draining:
                raise Draining
            if more and len(self._by_id) + len(self._hidden) >= self.limit:
                raise self._full()

    def beyond_quota(self, session_ids: Iterable[str]) -> dict[str, ServingError]:
        """Those whose tenants may have no further session, and why."""
        beyond: dict[str, ServingError] = {}
        if self._tenants is None:
            return beyond
        for each in session_ids:
            try:
                self._tenants.check_room(each)
            except QuotaReached as error:
                beyond[each] = error
        return beyond

    def adopt(self, session: Adopted) -> int:
        """Know a session that the store has; returns its handle.

        Raises:
            SessionsFull, Draining: as `open`.
        """
        with self._lock:
            handle = self._add(session.session_id, new=session.created)
            index = handle & INDEX
            self._counts[index] = self._durable[index] = session.steps
            self._epochs[index], self._lives[index] = session.epoch, session.life
            self._opened_at[index] = session.opened_at
            idle = max(0.0, self._wall() - session.used_at)  # a clock set back makes nobody older
            self._last_used[index] = self._clock() - idle
            if session.created:
                self._new.add(handle)
            return handle

    def create(self, session_id: str, steps: int, replace: bool) -> tuple[int, SessionInfo, bool]:
        """Open a session that has applied `steps` steps already, in place of a live one only if
        `replace`: handle, info, and whether it was opened.

        Raises:
            SessionExists: it is live, and `replace` was not asked for. Or as `open`.
        """
        check_id(session_id)
        with self._lock:
            handle, created = self._open(session_id)
            if not created and not replace:
                raise SessionExists(self.model, session_id)
            index = handle & INDEX
            self._begin(index, steps)
            self._last_used[index] = self._clock()
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
            self._begin(index, 0)
            self._last_used[index] = self._clock()
            return self._info(session_id, handle)

    def look(self, session_id: str) -> tuple[int, SessionInfo]:
        """A live session's handle, and what it is. Raises as `find`."""
        with self._lock:
            handle = self._find(session_id)
            return handle, self._info(session_id, handle)

    def page(self, after: str, size: int, prefix: str = "") -> list[SessionInfo]:
        """Up to `size` live sessions whose ids follow `after`, by id; those alone that begin with
        `prefix`."""
        ids = list(self._by_id)  # at once, so no lock is held while they are put in order
        following: list[str] = []
        for at in range(0, len(ids), SLICE):
            some = (
                name for name in ids[at : at + SLICE] if name > after and name.startswith(prefix)
            )
            following = nsmallest(size, chain(following, some))
            if len(ids) > SLICE:  # whoever has less to do goes first
                time.sleep(PAUSE)
        with self._lock:
            live = [(name, self._by_id.get(name)) for name in following]
            return [self._info(name, handle) for name, handle in live if handle is not None]

    def tenants(self) -> Counter[str]:
        """How many live sessions each tenant has."""
        return Counter(map(tenant, list(self._by_id)))

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

    def hidden(self, handles: Handles) -> NDArray[np.bool_]:
        """Which of the sessions are on their way here, and may have a state although they count no
        step yet."""
        with self._lock:
            if not self._hidden:
                return np.zeros(len(handles), dtype=np.bool_)
            return np.array([each in self._hidden for each in handles.tolist()], dtype=np.bool_)

    def show(self, handle: int, session_id: str, leave: Callable[[], Left]) -> None:
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
            left = leave()
            self._opened_at[index], self._last_used[index] = left.opened_at, left.last_used
            self._lives[index], self._epochs[index] = left.life, 0
            self._hidden.discard(handle)
            self._by_id[session_id], self._ids[index] = handle, session_id
            self._tombstones.remove(session_id)
            if self._tenants is not None:  # it has ended where it was
                self._tenants.began(session_id)

    def move(self, handle: int, how: How) -> Left:
        """End a session here, for it is live elsewhere.

        Raises:
            SessionEnded, UnknownSession: it is not live.
        """
        with self._lock:
            index = handle & INDEX
            if self._held[index] != handle:
                raise self._tombstones.error(self.model, self._tombstones.name(handle))
            opened, used = float(self._opened_at[index]), float(self._last_used[index])
            left = Left(opened, used, int(self._lives[index]))
            self._end(handle, how)
            return left

    def drop(self, handle: int) -> None:
        """A hidden session does not come after all."""
        with self._lock:
            if handle in self._hidden:
                self._end(handle, SessionClosed)

    def lose(self, handles: Handles) -> None:
        """End sessions whose state in memory is lost. Those that a store has go on from there."""
        self.end(handles, SessionSetBack if self.stored else SessionLost)

    def end(self, handles: Handles, how: type[SessionEnded]) -> None:
        """End those of the sessions that are live."""
        with self._lock:
            for handle in handles[self._live(handles)].tolist():
                self._end(handle, how)

    def vanish(self, names: Iterable[str], before: float) -> None:
        """The store has these no more: those that moved before then are nowhere."""
        with self._lock:
            for name in names:
                self._tombstones.vanish(name, before)

    def handle(self, session_id: str) -> int:
        """A live session's handle; 0 if there is none."""
        return self._by_id.get(session_id, 0)

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

    def error(self, handle: int) -> SessionEnded | UnknownSession:
        """Why a session is no more."""
        with self._lock:
            return self._tombstones.error(self.model, self._tombstones.name(handle))

    def name(self, handle: int) -> str:
        """The id of a live session, or of one that ended not long ago; else ""."""
        with self._lock:
            index = handle & INDEX
            if self._held[index] == handle:
                return self._ids[index] or ""
            return self._tombstones.name(handle)

    def _open(self, session_id: str) -> tuple[int, bool]:
        """The session's handle, and whether it was opened just now."""
        handle = self._by_id.get(session_id)
        if handle is None:
            if self.stored:  # it ended since the store was asked
                raise self._tombstones.error(self.model, session_id)
            return self._add(session_id), True
        if handle not in self._new:
            return handle, False
        self._new.discard(handle)
        return handle, True

    def _find(self, session_id: str) -> int:
        handle = self._by_id.get(session_id)
        if handle is None:
            raise self._tombstones.error(self.model, session_id)
        return handle

    def _add(self, session_id: str, new: bool = True) -> int:
        if self.draining:
            raise Draining
        if self.leaving and new:
            raise VersionLeaves(self.model, self.version)
        if len(self._by_id) + len(self._hidden) >= self.limit:
            raise self._full()
        if self._tenants is not None and session_id:
            self._tenants.check_room(session_id)
            self._tenants.began(session_id)
        self._by_id[session_id] = handle = self._enter(session_id)
        self._tombstones.remove(session_id)
        return handle

    def _end(self, handle: int, how: How) -> None:
        index = handle & INDEX
        session_id = self._ids[index]
        assert session_id is not None
        hidden = handle in self._hidden
        if hidden:
            self._hidden.discard(handle)
        else:
            del self._by_id[session_id]
            if self._tenants is not None:
                self._tenants.ended(session_id)
        self._strike(index)
        self._new.discard(handle)
        if not hidden:
            self._tombstones.add(handle, session_id, how, self._wall())
        for told in self._on_end:
            told(handle, session_id, int(self._epochs[index]), how)

    def _full(self) -> SessionsFull:
        """The next expiry is certain; a close may come at any time, so nobody waits for long."""
        now = self._clock()
        if now - self._oldest_at >= OLDEST_FOR:
            used = self._last_used[self._handles() & INDEX]
            self._oldest, self._oldest_at = float(used.min()), now
        wait = min(LONGEST_WAIT, max(0.001, self._oldest + self.ttl - now))
        return SessionsFull(f"model {self.model!r} holds {self.limit} sessions", wait)
