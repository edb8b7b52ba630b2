"""Residence: which sessions' state is in which of the arenas' slots, and where that of others is.

A session gets a slot when a run first needs it and loses it when it has ended, or when another
needs the slot more: then its state goes to the *shelf* and comes back with its next step, many at a
time. Only whoever holds the engine touches this, so it needs no lock; the shelf alone is told by
any thread that a session has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.engine.engine import Engine
from server.scheduler.submission import INDEX, Handles
from server.sessions.directory import Directory
from server.sessions.replay_cache import Floats, Prints, ReplayCache

Slots = NDArray[np.int64]


@dataclass(frozen=True)
class Record:
    """A session that is not resident: a row of each state, and its ring of the replay cache."""

    states: Sequence[NDArray[Any]]
    outputs: Floats
    prints: Prints


class Shelf:
    """Records in the host's memory."""

    def __init__(self) -> None:
        self._records: dict[int, Record] = {}

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, handle: int) -> bool:
        return handle in self._records

    def put(self, handle: int, record: Record) -> None:
        """Keep a session's record."""
        self._records[handle] = record

    def take(self, handle: int) -> Record | None:
        """Hand out a session's record, if there is one."""
        return self._records.pop(handle, None)

    def forget(self, handle: int) -> None:
        """The session has ended."""
        self._records.pop(handle, None)


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
        self._slots = np.zeros(1024, dtype=np.int64)  # by index
        self._free = list(range(capacity, 0, -1))
        self._pinned: set[int] = set()
        directory.on_end = self.shelf.forget

    def __len__(self) -> int:
        return int(np.count_nonzero(self._directory.live(self._holders)))

    @property
    def room(self) -> int:
        """How many sessions may be brought in: those before that have not been in a run yet keep
        their slots."""
        return self.capacity - len(self._pinned)

    @property
    def roomy(self) -> bool:
        """Whether there is a slot for every session there may be, so that none is ever absent."""
        return self.capacity >= self._directory.limit

    def here(self, handles: Handles) -> Slots | None:
        """The slots of live sessions, if all of them are resident."""
        slots = self._find(handles)
        if slots is not None and self._pinned:
            self._pinned.difference_update(handles.tolist())
        return slots

    def resolve(self, handles: Handles) -> Slots:
        """The slots of live sessions, 0 for those that must be brought in. One that has no state
        yet takes a free slot."""
        slots = self._search(handles)
        self._pinned.difference_update(handles[slots > 0].tolist())
        missing = np.flatnonzero(slots == 0).tolist()
        if len(missing) > len(self._free):
            self._bury()
        for row in missing:
            if self._free and int(handles[row]) not in self.shelf:
                slots[row] = self._take(int(handles[row]), self._free.pop())
        return slots

    def bring_in(self, engine: Engine, handles: Handles) -> None:
        """Give sessions slots, at the cost of others that were used longest ago; none to those that
        have ended meanwhile. They keep theirs until a run asks for them."""
        handles = np.unique(handles)
        handles = handles[self._directory.live(handles)]
        absent = handles[self._search(handles) == 0]
        self._make_room(engine, len(absent), handles)
        records = [self.shelf.take(handle) for handle in absent.tolist()]
        slots = np.array([self._take(handle, self._free.pop()) for handle in absent.tolist()])
        self._load(engine, slots, records)
        self._pinned.update(handles.tolist())

    def visit(self, engine: Engine, handles: Handles) -> Slots:
        """Slots for work between two runs, at most `capacity`; 0 for sessions that have ended."""
        if (slots := self._find(handles)) is None:
            self.bring_in(engine, handles)
            slots = self._search(handles)
            self._pinned.difference_update(handles.tolist())
        return slots

    def slot(self, handle: int) -> int:
        """The slot of one session, 0 if it has none."""
        return int(self._search(np.array([handle]))[0])

    def _find(self, handles: Handles) -> Slots | None:
        """The sessions' slots, if every one has one."""
        index = handles & INDEX
        try:
            slots: Slots = self._slots[index]
        except IndexError:  # sessions newer than the column is long
            self._slots = np.pad(self._slots, (0, int(index.max()) + 1))
            return None
        return slots if (self._holders[slots] == handles).all() else None

    def _search(self, handles: Handles) -> Slots:
        """The sessions' slots, 0 for those that have none."""
        if (slots := self._find(handles)) is not None:
            return slots
        slots = self._slots[handles & INDEX]
        return np.where(self._holders[slots] == handles, slots, 0)

    def _take(self, handle: int, slot: int) -> int:
        self._slots[handle & INDEX], self._holders[slot] = slot, handle
        return slot

    def _make_room(self, engine: Engine, wanted: int, staying: Handles) -> None:
        if wanted > len(self._free):
            self._bury()
        if (lacking := wanted - len(self._free)) > 0:
            self._evict(engine, lacking, staying)

    def _bury(self) -> None:
        """Free the slots of sessions that have ended."""
        held = np.flatnonzero(self._holders)
        dead = held[~self._directory.live(self._holders[held])]
        self._pinned.difference_update(self._holders[dead].tolist())
        self._holders[dead] = 0
        self._free.extend(dead.tolist())

    def _evict(self, engine: Engine, count: int, staying: Handles) -> None:
        """Shelve the sessions used longest ago, those with nothing waiting first."""
        held = np.flatnonzero(self._holders)
        handles = self._holders[held]
        may_go = ~np.isin(handles, staying)
        if self._pinned and may_go.sum() - len(self._pinned) >= count:
            may_go &= ~np.isin(handles, np.fromiter(self._pinned, np.int64, len(self._pinned)))
        held, handles = held[may_go], handles[may_go]
        order = np.lexsort((self._directory.last_used(handles), self.busy(handles)))[:count]
        self._save(engine, held[order], handles[order])
        self._pinned.difference_update(handles[order].tolist())
        self._holders[held[order]] = 0
        self._free.extend(held[order].tolist())

    def _save(self, engine: Engine, slots: Slots, handles: Handles) -> None:
        states, (outputs, prints) = engine.read(slots), self._cache.rings(slots)
        for row, handle in enumerate(handles.tolist()):
            rows = [state[row].copy() for state in states]
            self.shelf.put(handle, Record(rows, outputs[row].copy(), prints[row].copy()))
        for handle in handles[~self._directory.live(handles)].tolist():
            self.shelf.forget(handle)  # it ended meanwhile, and nobody would take it

    def _load(self, engine: Engine, slots: Slots, records: Sequence[Record | None]) -> None:
        found = [(k, record) for k, record in enumerate(records) if record is not None]
        if not found:
            return
        at = slots[[k for k, _ in found]]
        kept = [record for _, record in found]
        states = [np.stack(rows) for rows in zip(*(record.states for record in kept), strict=True)]
        engine.write(at, states)
        self._cache.put_rings(
            at, np.stack([each.outputs for each in kept]), np.stack([each.prints for each in kept])
        )
