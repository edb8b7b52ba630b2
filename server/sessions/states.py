"""What is done with whole sessions' states: export, import, fork, reset, forecast, peek.

Each is an errand in the batcher's thread, so that it sees a session between two of its steps: the
state read is the one that the count says. Steps queued before it may run before or after it.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from server.batcher.batcher import Batcher
from server.bundle.manifest import Manifest
from server.engine.engine import Engine
from server.errors import SessionExists
from server.sessions import snapshot as snapshots
from server.sessions.forecast import Forecast
from server.sessions.memory import Memory
from server.sessions.snapshot import Snapshot, Tensor
from server.sessions.table import SessionInfo, SessionTable


class Directory(Protocol):
    """Who knows which sessions are live. The table's lock is held around each call."""

    def slot(self, session_id: str) -> int:
        """A live session's slot."""

    def admit(self, session_id: str) -> int:
        """Open a session; its slot."""

    def info(self, session_id: str) -> SessionInfo:
        """A live session as callers see it."""


class States:
    """Reads and writes the states of one model version's sessions."""

    def __init__(
        self,
        manifest: Manifest,
        batcher: Batcher,
        directory: Directory,
        table: SessionTable,
        memory: Memory,
    ) -> None:
        self._manifest, self._batcher, self._directory = manifest, batcher, directory
        self._table, self._memory = table, memory

    def export(self, session_id: str) -> Future[Snapshot]:
        """A session's snapshot; the future fails as `ServedModel.get` does."""
        return self._batcher.between_runs(partial(self._export, session_id=session_id))

    def take_in(
        self, snapshot: Snapshot, session_id: str, replace: bool = False
    ) -> Future[SessionInfo]:
        """Make `session_id` what the snapshot says, in place of a live one if `replace`.

        Raises:
            BadSnapshot: it is not of this very bundle. The future fails with SessionExists, or as
                `ServedModel.open` does.
        """
        snapshots.check(snapshot, self._manifest)
        return self._batcher.between_runs(
            lambda engine: self._put(engine, snapshot, session_id, replace)
        )

    def fork(self, session_id: str, new_id: str) -> Future[SessionInfo]:
        """Copy a session; the future fails as `export` and `take_in` do."""
        return self._batcher.between_runs(
            lambda engine: self._put(engine, self._export(engine, session_id), new_id, False)
        )

    def reset(self, session_id: str) -> Future[SessionInfo]:
        """Put a session back to step 0 and its initial state."""
        return self._batcher.between_runs(lambda _: self._reset(session_id))

    def begin(self, forecast: Forecast, session_id: str) -> Future[int]:
        """Give a forecast the session's state, and take its first steps; tells the count."""
        return self._batcher.between_runs(lambda engine: self._begin(engine, forecast, session_id))

    def advance(self, forecast: Forecast) -> Future[None]:
        """Take a forecast a few steps further."""
        return self._batcher.between_runs(forecast.advance)

    def peek(self, session_id: str) -> Future[tuple[SessionInfo, list[Tensor]]]:
        """A session and its states."""
        return self._batcher.between_runs(lambda engine: self._peek(engine, session_id))

    def _export(self, engine: Engine, session_id: str) -> Snapshot:
        # All that the table knows is taken at once: by the time the state is read the session may
        # be closed, and its slot or its id somebody else's. The state itself only runs move.
        with self._table.lock:
            slot, info = self._directory.slot(session_id), self._directory.info(session_id)
            outputs, prints = self._memory.tail(slot, info.steps)
        states = self._states(engine, slot, info.steps)
        return Snapshot(info.model, info.version, session_id, info.steps, states, outputs, prints)

    def _peek(self, engine: Engine, session_id: str) -> tuple[SessionInfo, list[Tensor]]:
        with self._table.lock:
            slot, info = self._directory.slot(session_id), self._directory.info(session_id)
        return info, self._states(engine, slot, info.steps)

    def _states(self, engine: Engine, slot: int, steps: int) -> list[Tensor]:
        named = zip(self._manifest.states, self._rows(engine, slot, steps), strict=True)
        return [Tensor(state.name, row[0]) for state, row in named]

    def _rows(self, engine: Engine, slot: int, steps: int) -> list[NDArray[Any]]:
        """A session's states, a row each. A slot not stepped yet holds its last holder's."""
        if steps:
            return engine.read(np.array([slot], dtype=np.int64))
        return [
            np.full((1, *state.shape), state.initial, dtype=state.dtype)
            for state in self._manifest.states
        ]

    def _put(
        self, engine: Engine, snapshot: Snapshot, session_id: str, replace: bool
    ) -> SessionInfo:
        # Count and memory come at once with the id, the state before any run can ask for it. Should
        # the session be closed meanwhile, it lands in a slot whose next holder starts afresh.
        with self._table.lock:
            slot = self._place(session_id, replace)
            generation = self._table.generations[slot]
            self._memory.restore(slot, snapshot.steps, snapshot.outputs, snapshot.prints)
            self._table.counts[slot] = snapshot.steps
            self._table.last_used[slot] = time.time()
            info = self._directory.info(session_id)
        rows = [np.ascontiguousarray(tensor.values[None]) for tensor in snapshot.states]
        try:
            engine.write(np.array([slot], dtype=np.int64), rows)
        except Exception:
            with self._table.lock:  # its state is neither the old one nor the new
                if self._table.generations[slot] == generation:
                    self._table.remove(session_id)
            raise
        return info

    def _place(self, session_id: str, replace: bool) -> int:
        if session_id not in self._table.by_id:
            return self._directory.admit(session_id)
        if not replace:
            raise SessionExists(self._manifest.name, session_id)
        return self._directory.slot(session_id)

    def _reset(self, session_id: str) -> SessionInfo:
        with self._table.lock:
            slot = self._directory.slot(session_id)
            self._table.counts[slot] = 0
            self._table.last_used[slot] = time.time()
            return self._directory.info(session_id)

    def _begin(self, engine: Engine, forecast: Forecast, session_id: str) -> int:
        with self._table.lock:
            slot, info = self._directory.slot(session_id), self._directory.info(session_id)
            outputs, _ = self._memory.tail(slot, info.steps)
        rows = self._rows(engine, slot, info.steps)
        forecast.start(session_id, rows, info.steps == 0, outputs[-1:])
        forecast.advance(engine)
        return info.steps
