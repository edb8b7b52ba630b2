"""Checkpoints: sessions that have moved since they were stored, read between two runs and written.

`mark` is told of every step; `capture` copies sessions while the engine is held, which takes some
microseconds a session; packing and writing them is done by the keeper's thread, beside the runs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.arrays import lengthened
from server.engine.engine import Engine
from server.errors import ServingError, SessionMoved
from server.metrics import ModelMetrics
from server.scheduler.submission import INDEX, Handles
from server.sessions.directory import Directory
from server.sessions.replay_cache import Floats, Prints, ReplayCache, known, span
from server.sessions.shelf import Shelved
from server.sessions.slots import Residence
from server.sessions.standing import Standings
from server.store.interface import Claim, Table, Write, Wrote
from server.store.record import Codec, Columns


@dataclass(frozen=True)
class Remembered:
    """The latest steps of sessions: outputs [B, n, O], fingerprints [B, n], and how many of the n,
    counted from the last, there are of each [B]."""

    outputs: Floats
    prints: Prints
    kept: NDArray[np.int64]

    def of(self, rows: int) -> Remembered:
        """With rows of nothing behind, `rows` in all."""
        if (more := rows - len(self.kept)) == 0:
            return self
        none = (0, more), (0, 0)
        outputs = np.pad(self.outputs, (*none, (0, 0)))
        return Remembered(outputs, np.pad(self.prints, none), np.pad(self.kept, none[0]))


@dataclass(frozen=True)
class Captured:
    """Sessions as they were between two runs. Those that have steps come first, and have a row of
    each state and of what is remembered; the others are at step 0."""

    sessions: Standings
    states: list[NDArray[Any]]
    remembered: Remembered
    shelved: list[Shelved]
    """Those of the stateful that came from the shelf, the last ones among them."""

    @property
    def stepped(self) -> int:
        """How many have steps."""
        return len(self.remembered.kept)


class Checkpoint:
    """What of one model version is yet to be stored, and how.

    Args:
        least: steps a session whose outputs are stored; those of its latest row always are.
    """

    def __init__(
        self,
        table: Table,
        codec: Codec,
        directory: Directory,
        residence: Residence,
        cache: ReplayCache,
        metrics: ModelMetrics,
        least: int,
    ) -> None:
        self._table, self._codec, self._metrics = table, codec, metrics
        self._directory, self._residence, self._cache = directory, residence, cache
        self._least, self._revision = least, 0
        self._marking = threading.Lock()
        self._dirty = np.zeros(1024, dtype=np.bool_)  # by index
        self._since: float | None = None  # when the first that is not stored yet was marked

    @property
    def unsaved(self) -> int:
        """How many sessions have steps that the store has not."""
        return int(np.count_nonzero(self._dirty))

    @property
    def lag(self) -> float:
        """Seconds for which something has been waiting to be stored."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def mark(self, handles: Handles) -> None:
        """Sessions have moved, which any thread may say. Marking more than those does no harm."""
        index = handles & INDEX
        with self._marking:  # since the column may be replaced by a longer one
            if self._since is None:
                self._since = time.monotonic()
            try:
                self._dirty[index] = True
            except IndexError:
                self._dirty = lengthened(self._dirty, len(self._dirty) + int(index.max()) + 1)
                self._dirty[index] = True

    def due(self) -> Handles:
        """The sessions that have moved; whoever asks sees to it that they are stored."""
        with self._marking:
            index = np.flatnonzero(self._dirty)
            self._dirty[index] = False  # before it is looked which live: new ones may follow there
        if not len(index):
            self._since = None
        return self._directory.at(index)

    def done(self) -> None:
        """Everything that was due is stored."""
        self._since = None if not self._dirty.any() else time.monotonic()

    def capture(self, engine: Engine, handles: Handles) -> Captured:
        """Copy sessions as they are, while the engine is held; those that have ended, and those
        that are in the store alone, are left out."""
        with self._marking:
            index = handles & INDEX
            self._dirty[index[index < len(self._dirty)]] = False
        sessions = self._directory.standings(handles)
        slots = self._residence.search(sessions.handles)
        stepped = sessions.counts > 0
        here = np.flatnonzero(stepped & (slots > 0))
        found = [
            (row, each)
            for row in np.flatnonzero(stepped & (slots == 0)).tolist()
            if (each := self._residence.shelf.get(int(sessions.handles[row]))) is not None
        ]
        order = np.concatenate(
            [here, np.array([row for row, _ in found], dtype=np.int64), np.flatnonzero(~stepped)]
        )
        shelved = [each for _, each in found]
        states = self._states(engine, slots[here], shelved)
        outputs, prints, kept = self._cache.newest(slots[here], sessions.counts[here], self._least)
        tails = [self._tail(each) for each in shelved]
        return Captured(
            sessions.rows(order), states, _joined(Remembered(outputs, prints, kept), tails), shelved
        )

    def nowhere(self, sessions: Standings) -> Handles:
        """Those of the sessions that are live as they stood, and neither resident nor shelved. The
        engine is held."""
        now = self._directory.standings(sessions.handles)
        before = {h: (life, n) for h, life, n in zip(*sessions.standing(), strict=True)}
        same = [before[h] == (life, n) for h, life, n in zip(*now.standing(), strict=True)]
        return self._residence.nowhere(now.handles[np.array(same, dtype=np.bool_)])

    def store(self, captured: Captured) -> dict[int, ServingError]:
        """Write what was captured; returns those sessions that another server has taken over, which
        have ended here. The keeper's thread alone calls it.

        Raises:
            StoreUnreachable: it is to be marked again.
        """
        sessions = captured.sessions
        if not len(sessions.handles):
            return {}
        self._revision += 1
        writes = self._introduce(sessions, self._writes(captured))
        started = time.monotonic()
        wrote = self._table.write(writes)
        self._metrics.store_seconds.observe(time.monotonic() - started, len(writes))
        moved = np.array([each is Wrote.MOVED for each in wrote])
        self._directory.made_durable(sessions.rows(np.flatnonzero(~moved)))
        self._metrics.stored.inc(len(writes) - int(moved.sum()))
        self._leave_shelf(captured)
        return self._move(sessions.handles[moved])

    def _introduce(self, sessions: Standings, writes: list[Write]) -> list[Write]:
        """Sessions that came from another version are not known to this table yet."""
        new = np.flatnonzero(sessions.epochs == 0)
        if not len(new):
            return writes
        strangers = [writes[row] for row in new.tolist()]
        held = self._table.claim([Claim(each.session_id, each.record) for each in strangers])
        epochs = np.array([each.epoch for each in held], dtype=np.int64)
        self._directory.own(sessions.handles[new], epochs)
        sessions.epochs[new] = epochs
        for row, epoch in zip(new.tolist(), epochs.tolist(), strict=True):
            writes[row] = writes[row]._replace(epoch=epoch)
        return writes

    def _move(self, handles: Handles) -> dict[int, ServingError]:
        self._directory.end(handles, SessionMoved)
        self._metrics.moved.inc(len(handles))
        return {handle: self._directory.error(handle) for handle in handles.tolist()}

    def _leave_shelf(self, captured: Captured) -> None:
        """What the store has need not be kept in memory as well."""
        start = captured.stepped - len(captured.shelved)
        handles = captured.sessions.handles[start : captured.stepped].tolist()
        for handle, each in zip(handles, captured.shelved, strict=True):
            self._residence.shelf.forget(handle, each)

    def _states(
        self, engine: Engine, slots: NDArray[np.int64], shelved: Sequence[Shelved]
    ) -> list[NDArray[Any]]:
        here = engine.read(slots) if len(slots) else []
        if not shelved:
            return here
        there = [np.stack(rows) for rows in zip(*(e.states for e in shelved), strict=True)]
        return [np.concatenate(both) for both in zip(here, there, strict=True)] if here else there

    def _tail(self, shelved: Shelved) -> tuple[Floats, Prints]:
        """What is to be stored of a shelved session's latest steps."""
        if not shelved.ring:
            return shelved.outputs, shelved.prints
        latest, count = np.array([shelved.latest]), np.array([shelved.steps])
        kept, at = span(latest, count, self._least, len(shelved.prints))
        valid = int(known(shelved.prints[at], kept)[0])
        at = at[0, at.shape[1] - valid :]
        return shelved.outputs[at], shelved.prints[at]

    def _writes(self, captured: Captured) -> list[Write]:
        each, remembered = captured.sessions, captured.remembered.of(len(captured.sessions.ids))
        columns = Columns(
            each.ids, each.epochs, each.lives, each.counts, each.opened_at, each.used_at,
            captured.states, remembered.outputs, remembered.prints, remembered.kept,
        )  # fmt: skip
        records = self._codec.pack_many(columns)
        times, epochs = each.used_at.tolist(), each.epochs.tolist()
        return [
            Write(name, epoch, self._revision, used, record)
            for name, epoch, used, record in zip(each.ids, epochs, times, records, strict=True)
        ]


def _joined(first: Remembered, tails: Sequence[tuple[Floats, Prints]]) -> Remembered:
    """The tails as further rows, aligned to the right."""
    if not tails:
        return first
    most = max(first.prints.shape[1], *(len(prints) for _, prints in tails))
    width, before = first.outputs.shape[2], len(first.kept)
    total = before + len(tails)
    outputs = np.zeros((total, most, width), dtype=np.float32)
    prints = np.zeros((total, most), dtype=np.uint64)
    start = most - first.prints.shape[1]
    outputs[:before, start:], prints[:before, start:] = first.outputs, first.prints
    for row, (values, marks) in enumerate(tails, start=before):
        outputs[row, most - len(marks) :], prints[row, most - len(marks) :] = values, marks
    kept = np.concatenate([first.kept, [len(marks) for _, marks in tails]])
    return Remembered(outputs, prints, kept)
