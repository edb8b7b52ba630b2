"""What is done with whole sessions: export, import, fork, reset, forecast, peek.

Each is a control call between two runs, so that it sees a session between two of its steps: the
state read is the one that the count says. Steps queued before it may run before or after it. Reads
and imports that wait at the same time are done together, many sessions in one run of a graph. What
reads a session whose state is in the store alone fails with `StateAway`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from server.bundle.manifest import Manifest
from server.engine.engine import Engine
from server.errors import Internal, ServingError, StateAway
from server.metrics import ModelMetrics
from server.scheduler.control import SHARED, SharedCalls
from server.scheduler.scheduler import Scheduler
from server.scheduler.submission import Handles
from server.sessions import snapshot as snapshots
from server.sessions.directory import Directory
from server.sessions.forecast import Forecast
from server.sessions.replay_cache import ReplayCache
from server.sessions.slots import Residence
from server.sessions.snapshot import Snapshot, Tensor
from server.sessions.standing import SessionInfo

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Import:
    """A session to be made of a snapshot."""

    snapshot: Snapshot
    session_id: str
    replace: bool


@dataclass(frozen=True)
class Found:
    """A session as a control call finds it; `rows` has a row [1, ...] for each state."""

    handle: int
    info: SessionInfo
    rows: list[NDArray[Any]]


class Operations:
    """Reads and writes the states of one model version's sessions."""

    def __init__(
        self,
        manifest: Manifest,
        scheduler: Scheduler,
        directory: Directory,
        residence: Residence,
        cache: ReplayCache,
        metrics: ModelMetrics,
    ) -> None:
        self._manifest, self._scheduler, self._metrics = manifest, scheduler, metrics
        self._directory, self._residence, self._cache = directory, residence, cache
        self.on_made: Callable[[int], None] = lambda _: None
        """Told, with the engine held, the handle of a session that was made of a snapshot."""
        begin, most = scheduler.between_runs, min(SHARED, residence.capacity)
        self._exports = SharedCalls[str, Snapshot](begin, self._export, most)
        self._peeks = SharedCalls[str, tuple[SessionInfo, list[Tensor]]](begin, self._peek, most)
        self._imports = SharedCalls[Import, SessionInfo](begin, self._import, most)

    def export(self, session_id: str) -> Future[Snapshot]:
        """A session's snapshot; the future fails as `Directory.find` does."""
        return self._exports.ask(session_id)

    def peek(self, session_id: str) -> Future[tuple[SessionInfo, list[Tensor]]]:
        """A session and its states; the future fails as `Directory.find` does."""
        return self._peeks.ask(session_id)

    def check(self, snapshot: Snapshot) -> None:
        """Refuse what `take_in` would refuse. Raises `BadSnapshot`."""
        snapshots.check(snapshot, self._manifest)

    def take_in(
        self, snapshot: Snapshot, session_id: str, replace: bool = False
    ) -> Future[SessionInfo]:
        """Make `session_id` what the snapshot says, in place of a live one if `replace`.

        Raises:
            BadSnapshot: it is not of this very bundle. The future fails as `Directory.create`.
        """
        snapshots.check(snapshot, self._manifest)
        return self._imports.ask(Import(snapshot, session_id, replace))

    def fork(self, session_id: str, new_id: str) -> Future[SessionInfo]:
        """Copy a session; the future fails as `export` and `take_in` do."""

        def fork(engine: Engine) -> SessionInfo:
            copy = Import(_only(self._export(engine, [session_id])), new_id, False)
            return _only(self._import(engine, [copy]))

        return self._scheduler.between_runs(fork)

    def reset(self, session_id: str) -> Future[SessionInfo]:
        """Put a session back to step 0 and its initial state."""

        return self._scheduler.between_runs(lambda _: self._directory.reset(session_id))

    def begin(self, forecast: Forecast, session_id: str) -> Future[int]:
        """Give a forecast the session's state, and take its first steps; tells the count."""

        def begin(engine: Engine) -> int:
            found = _only(self._read(engine, [session_id]))
            outputs, _ = self._tail(found)
            steps = found.info.steps
            forecast.start(session_id, found.rows, steps == 0, outputs[-1:])
            forecast.advance(engine)
            return steps

        return self._scheduler.between_runs(begin)

    def advance(self, forecast: Forecast) -> Future[None]:
        """Take a forecast a few steps further."""
        return self._scheduler.between_runs(forecast.advance)

    def taken(self, engine: Engine, ids: list[str]) -> list[tuple[int, Snapshot] | ServingError]:
        """Handles and snapshots of sessions, with the engine held."""
        found = self._read(engine, ids)
        return [
            each if isinstance(each, ServingError) else (each.handle, self._snapshot(each))
            for each in found
        ]

    def _export(self, engine: Engine, ids: list[str]) -> list[Snapshot | ServingError]:
        taken = self.taken(engine, ids)
        return [each if isinstance(each, ServingError) else each[1] for each in taken]

    def _peek(
        self, engine: Engine, ids: list[str]
    ) -> list[tuple[SessionInfo, list[Tensor]] | ServingError]:
        found = self._read(engine, ids)
        return [
            each if isinstance(each, ServingError) else (each.info, self._tensors(each))
            for each in found
        ]

    def _read(self, engine: Engine, ids: list[str]) -> list[Found | ServingError]:
        """The sessions of these ids and their states, all read at once."""
        seen = [self._look(session_id) for session_id in ids]
        stepped = [each[0] for each in seen if not isinstance(each, ServingError) and each[1].steps]
        rows = self._rows(engine, np.array(stepped, dtype=np.int64))
        return [
            each if isinstance(each, ServingError) else self._found(*each, rows) for each in seen
        ]

    def _found(
        self, handle: int, info: SessionInfo, rows: dict[int, list[NDArray[Any]]]
    ) -> Found | ServingError:
        if not info.steps:  # it has no row yet: it begins with the initial state
            states = self._manifest.states
            initial = [np.full((1, *s.shape), s.initial, s.dtype) for s in states]
            return Found(handle, info, initial)
        if handle not in rows:
            is_live = self._directory.live(np.array([handle])).all()
            return StateAway() if is_live else self._directory.error(handle)
        return Found(handle, info, rows[handle])

    def _look(self, session_id: str) -> tuple[int, SessionInfo] | ServingError:
        # All that the directory knows is taken at once: the session may be closed before its state
        # is read. If it was resident it is exported as it was, since its slot is nobody else's
        # while the engine is held; if not, its end is told.
        try:
            return self._directory.look(session_id)
        except ServingError as error:
            return error

    def _rows(self, engine: Engine, handles: Handles) -> dict[int, list[NDArray[Any]]]:
        """A row [1, ...] of each state, by handle; nothing of sessions that are gone."""
        if not len(handles):
            return {}
        slots = self._residence.visit(engine, handles)
        here = np.flatnonzero(slots)
        states = engine.read(slots[here]) if len(here) else []
        return {
            handle: [state[at : at + 1] for state in states]
            for at, handle in enumerate(handles[here].tolist())
        }

    def _snapshot(self, found: Found) -> Snapshot:
        outputs, prints = self._tail(found)
        info, digest = found.info, self._manifest.digest
        return Snapshot(
            info.model, info.version, digest, info.session_id, info.steps, self._tensors(found),
            outputs, prints,
        )  # fmt: skip

    def _tail(self, found: Found) -> tuple[NDArray[np.float32], NDArray[np.uint64]]:
        """What is remembered of a session that was just read, which is resident if it has steps."""
        slot = self._residence.slot(found.handle) if found.info.steps else 0
        return self._cache.tail(slot, found.info.steps)

    def _tensors(self, found: Found) -> list[Tensor]:
        named = zip(self._manifest.states, found.rows, strict=True)
        return [Tensor(state.name, row[0]) for state, row in named]

    def _import(self, engine: Engine, imports: list[Import]) -> list[SessionInfo | ServingError]:
        """Make sessions of snapshots. Those of one id are made one after the other."""
        made: list[tuple[int, SessionInfo] | ServingError] = []
        group: dict[int, Snapshot] = {}
        lost: set[int] = set()
        for each in imports:
            opened = self._open(each)
            made.append(opened)
            if isinstance(opened, ServingError):
                continue
            if opened[0] in group:
                lost |= self._write(engine, group)
                group = {}
            group[opened[0]] = each.snapshot
        lost |= self._write(engine, group)
        return [
            each if isinstance(each, ServingError) else Internal() if each[0] in lost else each[1]
            for each in made
        ]

    def _open(self, each: Import) -> tuple[int, SessionInfo] | ServingError:
        try:
            handle, info, created = self._directory.create(
                each.session_id, each.snapshot.steps, each.replace
            )
        except ServingError as error:
            return error
        self._metrics.opened.inc(created)
        self.on_made(handle)
        return handle, info

    def _write(self, engine: Engine, group: dict[int, Snapshot]) -> set[int]:
        """Put the states of new sessions where they belong. Count and id they have already, and no
        run can ask for them before this is done. Returns those that are lost."""
        if not group:
            return set()
        handles = np.array(list(group), dtype=np.int64)
        try:
            self.put(engine, handles, list(group.values()))
        except Exception:  # their state is neither the old one nor the new
            log.exception("%d sessions could not be written", len(handles))
            self._directory.lose(handles)
            return set(group)
        return set()

    def put(self, engine: Engine, handles: Handles, taken: Sequence[Snapshot]) -> None:
        """Put the states and remembered steps of sessions where they belong, with the engine held;
        at most as many as are resident at once."""
        slots = self._residence.visit(engine, handles, anew=True)
        here = np.flatnonzero(slots)  # the others were closed meanwhile
        kept = [taken[k] for k in here.tolist()]
        if not kept:
            return
        for slot, each in zip(slots[here].tolist(), kept, strict=True):
            self.remember(slot, each)
        states = zip(*(each.states for each in kept), strict=True)
        engine.write(slots[here], [np.stack([one.values for one in state]) for state in states])

    def remember(self, slot: int, taken: Snapshot) -> None:
        """Put the remembered steps of a session where they belong, with the engine held."""
        self._cache.restore(slot, taken.steps, taken.outputs, taken.prints)


def _only(results: list[T | ServingError]) -> T:
    """The result of one request.

    Raises:
        ServingError: it failed.
    """
    (result,) = results
    if isinstance(result, ServingError):
        raise result
    return result
