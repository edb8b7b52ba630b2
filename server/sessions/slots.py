"""Residence: which sessions' state is in which of the arenas' slots, and where that of others is.

A session gets a slot when a run first needs it and loses it when it has ended, or when another
needs the slot more: then its state goes to the *shelf* and comes back with its next step, many at a
time. Where there is a store, what it has already is not shelved but read again. Only whoever holds
the engine touches this, so it needs no lock. Sessions end at any moment in any thread, though: a
slot found is nobody else's until the engine is let go, and nothing is taken for a session's state
but what is known to be.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from server.arrays import every, filled, lengthened, some
from server.engine.engine import Engine
from server.scheduler.submission import INDEX, ROOM, Handles
from server.sessions.directory import Directory
from server.sessions.replay_cache import ReplayCache
from server.sessions.shelf import Shelf, Shelved
from server.sessions.tombstones import How

Slots = NDArray[np.int64]
Records = dict[int, Shelved | None]

NOBODY = np.zeros(0, dtype=np.int64)
MANY_ENDED = 1024  # slots that sessions left: memory used before is taken rather than fresh pages
SPARE = 1 / 64  # of the slots are freed beside those that are needed, so that it is done less often


class FreeSlots:
    """Which of the slots 1..capacity nobody holds. Those never held take no memory."""

    def __init__(self, capacity: int) -> None:
        self._left: list[int] = []  # held before
        self._fresh = range(1, capacity + 1)

    def __len__(self) -> int:
        return len(self._left) + len(self._fresh)

    def take(self, count: int) -> list[int]:
        """So many, of those there are: the ones put back last, and fresh ones when all are held."""
        at = max(0, len(self._left) - count)
        taken = self._left[: at - 1 if at else None : -1]
        del self._left[at:]
        lacking = count - len(taken)
        taken += self._fresh[:lacking]
        self._fresh = self._fresh[lacking:]
        return taken

    def put(self, slots: Sequence[int]) -> None:
        """Nobody holds them any longer."""
        self._left += slots


class Residence:
    """The slots 1..capacity of one engine, and who is in them. Slot 0 is scratch."""

    def __init__(
        self,
        capacity: int,
        directory: Directory,
        cache: ReplayCache,
        busy: Callable[[Handles], NDArray[np.bool_]] = lambda handles: np.zeros(len(handles), bool),
    ) -> None:
        self.capacity, self.shelf = capacity, Shelf()
        self.busy = busy
        """Which sessions have a step waiting: they are the last to lose their slots."""
        self._directory, self._cache = directory, cache
        self._holders = np.zeros(capacity + 1, dtype=np.int64)  # by slot; 0: nobody
        self._slots = np.zeros(min(directory.limit, ROOM) + 1, dtype=np.int64)  # by index
        self._awaited = np.zeros(capacity + 1, dtype=np.bool_)  # brought in, and not in a run yet
        self._any_awaited = False
        self._free = FreeSlots(capacity)
        self._ended: deque[int] = deque()  # sessions that may hold a slot yet
        self._too_many_ended = False
        directory.watch_ends(self._on_end)

    def __len__(self) -> int:
        return int(np.count_nonzero(self._directory.live(self._holders)))

    @property
    def roomy(self) -> bool:
        """Whether there is a slot for every session there may be, so that none is ever absent."""
        return self.capacity >= self._directory.limit and not self._directory.stored

    @property
    def awaited(self) -> bool:
        """Whether sessions that were brought in have not been in a run yet."""
        return self._any_awaited

    @property
    def room(self) -> int:
        """How many sessions may be brought in: those before that have not been in a run yet keep
        their slots."""
        return self.capacity - int(np.count_nonzero(self._awaited))

    def release(self, handles: Handles | None = None) -> None:
        """Sessions that were brought in need not be kept any longer; None: none of them."""
        self._awaited[slice(None) if handles is None else self._search(handles)] = False
        self._any_awaited = bool(self._awaited.any())

    def here(self, handles: Handles) -> Slots | None:
        """The slots of sessions, if all of them are resident."""
        return self._find(handles)

    def has_room_for(self, handles: Handles) -> bool:
        """Whether each of the sessions is resident, or has no state yet and a slot that is free: no
        new one has to wait for one's that has ended."""
        new = handles[self._search(handles) == 0]
        return len(new) <= len(self._free) and not some(self._directory.counts(new) != 0)

    def resolve(
        self, handles: Handles, fresh: NDArray[np.bool_], under_way: Handles = NOBODY
    ) -> Slots:
        """The slots of sessions that were live a moment ago, 0 for those that must be brought in.
        One that starts afresh takes a free slot; none of a session that is `under_way`, be it
        live or not."""
        slots = self._search(handles)
        missing = np.flatnonzero((slots == 0) & fresh)
        if len(missing) > len(self._free) or (len(missing) and len(self._ended) > MANY_ENDED):
            self._bury(np.concatenate([handles, under_way]))
        missing = missing[: len(self._free)]
        taken = self._free.take(len(missing))
        for handle, slot in zip(handles[missing].tolist(), taken, strict=True):
            self.shelf.forget(handle)
            self._take(handle, slot)
        slots[missing] = taken
        return slots

    def bring_in(self, engine: Engine, handles: Handles, anew: bool = False) -> None:
        """Give sessions slots, at the cost of others that were used longest ago; none to those that
        have ended. At most `room` of them, or after `release`, `capacity`.

        Args:
            anew: whatever state they had is to be overwritten.

        Raises:
            Exception: as the engine does; the sessions are as before, and none has a slot.
        """
        handles = np.unique(handles)
        handles = handles[self._directory.live(handles)]
        absent = handles[self._search(handles) == 0].tolist()
        records: Records = {handle: self.shelf.take(handle) for handle in absent}
        if anew:
            records = dict.fromkeys(absent)
        else:
            absent = self._known(absent, records)
        try:
            self._make_room(engine, len(absent), handles)
            slots = self._free.take(len(absent))
            for handle, slot in zip(absent, slots, strict=True):
                self._take(handle, slot)
            self._load(engine, slots, [records[handle] for handle in absent])
        except BaseException:
            self._undo(absent, records)
            raise
        self._awaited[self._search(handles)] = True
        self._awaited[0] = False
        self._any_awaited = bool(self._awaited.any())

    def visit(self, engine: Engine, handles: Handles, anew: bool = False) -> Slots:
        """Slots for work between two runs, at most `capacity`; 0 for sessions that have ended.
        Raises as `bring_in`."""
        if (slots := self._find(handles)) is None:
            self.bring_in(engine, handles, anew)
            slots = self._search(handles)
            self._awaited[slots] = False
            self._any_awaited = bool(self._awaited.any())
        return slots

    def at_hand(self, handles: Handles) -> NDArray[np.bool_]:
        """Which of the sessions are resident, or have no state yet. Any thread may ask; what it
        hears may be of a moment ago."""
        if self.roomy:
            return filled(len(handles), np.bool_, True)
        index = handles & INDEX
        known = index < len(self._slots)
        slots = self._slots[np.where(known, index, 0)]
        here: NDArray[np.bool_] = known & (self._holders[slots] == handles)
        return here if every(here) else here | (self._directory.counts(handles) == 0)

    def missing(self, handles: Handles) -> Handles:
        """Those of the sessions whose state is in the store alone."""
        if not self._directory.stored:
            return handles[:0]
        absent = handles[self._directory.live(handles) & (self._directory.counts(handles) > 0)]
        return self.nowhere(absent)

    def nowhere(self, handles: Handles) -> Handles:
        """Those of the sessions that are neither resident nor shelved."""
        absent = handles[self._search(handles) == 0]
        away = np.array([handle not in self.shelf for handle in absent.tolist()], dtype=np.bool_)
        nowhere: Handles = absent[away]
        return nowhere

    def search(self, handles: Handles) -> Slots:
        """The sessions' slots, 0 for those that have none."""
        return self._search(handles)

    def slot(self, handle: int) -> int:
        """The slot of one session, 0 if it has none."""
        index = handle & INDEX
        slot = int(self._slots[index]) if index < len(self._slots) else 0
        return slot if self._holders[slot] == handle else 0

    def _find(self, handles: Handles) -> Slots | None:
        """The sessions' slots, if every one has one."""
        index = handles & INDEX
        try:
            slots: Slots = self._slots[index]
        except IndexError:  # sessions newer than the column is long
            self._slots = lengthened(self._slots, 2 * int(index.max()) + 1)
            return None
        return slots if every(self._holders[slots] == handles) else None

    def _search(self, handles: Handles) -> Slots:
        """The sessions' slots, 0 for those that have none."""
        if (slots := self._find(handles)) is not None:
            return slots
        slots = self._slots[handles & INDEX]
        return np.where(self._holders[slots] == handles, slots, 0)

    def _take(self, handle: int, slot: int) -> None:
        self._slots[handle & INDEX], self._holders[slot] = slot, handle

    def _give_up(self, slots: Sequence[int]) -> None:
        self._holders[slots] = 0
        self._awaited[slots] = False
        self._free.put(slots)

    def _known(self, absent: Sequence[int], records: Records) -> list[int]:
        """Those whose state is known: shelved, or none yet. Others are to be read from the store.
        Without one no other session can be live; were one so, it would be lost, and must not go on
        from whatever lies in its slot."""
        handles = np.array(absent, dtype=np.int64)
        counts, lives = self._directory.counts(handles), self._directory.lives(handles)
        known = []
        for handle, count, life in zip(absent, counts.tolist(), lives.tolist(), strict=True):
            record = records[handle]
            if record is not None and (record.life, record.steps) != (life, count):
                records[handle] = record = None  # read from the store a moment too early
            if count == 0 or record is not None:
                known.append(handle)
        if not self._directory.stored:
            self._directory.lose(np.setdiff1d(handles, known))
        return known

    def _on_end(self, handle: int, _id: str, _epoch: int, _how: How) -> None:
        """A session has ended, in any thread."""
        self.shelf.forget(handle)
        if len(self._ended) < 2 * self.capacity:
            self._ended.append(handle)
        else:
            self._too_many_ended = True

    def _bury(self, staying: Handles) -> None:
        """Free the slots of sessions that have ended, but for those under way just now."""
        stay = set(staying.tolist())
        ended = [self._ended.popleft() for _ in range(len(self._ended))]
        if self._too_many_ended:
            self._too_many_ended = False
            held = self._holders[self._holders > 0]
            ended = [*ended, *held[~self._directory.live(held)].tolist()]
        self._ended.extend(handle for handle in ended if handle in stay)
        gone = np.unique(np.array([each for each in ended if each not in stay], dtype=np.int64))
        if len(gone):
            slots = self._search(gone)
            self._give_up(slots[slots > 0].tolist())

    def _make_room(self, engine: Engine, wanted: int, staying: Handles) -> None:
        if wanted > len(self._free):
            self._bury(staying)
        if (lacking := wanted - len(self._free)) > 0:
            self._evict(engine, lacking, staying)

    def _evict(self, engine: Engine, count: int, staying: Handles) -> None:
        """Shelve the sessions used longest ago, those with nothing waiting first."""
        may_go = (self._holders > 0) & ~self._awaited & ~np.isin(self._holders, staying)
        slots = np.flatnonzero(may_go)
        handles = self._holders[slots]
        order = np.lexsort((self._directory.last_used(handles), self.busy(handles)))
        chosen = order[: max(count, int(SPARE * self.capacity))]
        self._save(engine, slots[chosen], handles[chosen])
        self._give_up(slots[chosen].tolist())

    def _save(self, engine: Engine, slots: Slots, handles: Handles) -> None:
        """Shelve what no store has, so all of those that are hidden, whatever they count."""
        counts, keep = self._directory.counts(handles), self._directory.hidden(handles)
        keep |= counts != self._directory.durable(handles) if self._directory.stored else counts > 0
        slots, handles, counts = slots[keep], handles[keep], counts[keep]
        if not len(slots):
            return
        states, (outputs, prints) = engine.read(slots), self._cache.rings(slots)
        lives, latest = self._directory.lives(handles).tolist(), self._cache.latest[slots].tolist()
        for row, (handle, count) in enumerate(zip(handles.tolist(), counts.tolist(), strict=True)):
            rows = [state[row].copy() for state in states]
            ring = outputs[row].copy(), prints[row].copy()
            self.shelf.put(handle, Shelved(lives[row], count, rows, *ring, latest[row]))
        self._forget_dead(handles)

    def _forget_dead(self, handles: Handles) -> None:
        """Sessions that ended before their record was put there: nobody would take it."""
        for handle in handles[~self._directory.live(handles)].tolist():
            self.shelf.forget(handle)

    def _load(self, engine: Engine, slots: Sequence[int], found: Sequence[Shelved | None]) -> None:
        here = [(slot, each) for slot, each in zip(slots, found, strict=True) if each]
        if not here:
            return
        shelved = [each for _, each in here]
        states = [np.stack(rows) for rows in zip(*(each.states for each in shelved), strict=True)]
        engine.write(np.array([slot for slot, _ in here]), states)
        self._remember([each for each in here if each[1].ring])
        for slot, each in here:
            if not each.ring:
                self._cache.restore(slot, each.steps, each.outputs, each.prints)

    def _remember(self, here: Sequence[tuple[int, Shelved]]) -> None:
        if not here:
            return
        slots = np.array([slot for slot, _ in here])
        outputs = np.stack([each.outputs for _, each in here])
        self._cache.put_rings(slots, outputs, np.stack([each.prints for _, each in here]))
        self._cache.latest[slots] = [each.latest for _, each in here]

    def _undo(self, absent: Sequence[int], records: Records) -> None:
        """Sessions could not be brought in: each has its record again, and no slot."""
        handles = np.array(absent, dtype=np.int64)
        slots = self._search(handles)
        self._give_up(slots[slots > 0].tolist())
        for handle in absent:
            if (record := records[handle]) is not None:
                self.shelf.put(handle, record)
        self._forget_dead(handles)
