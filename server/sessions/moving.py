"""How sessions go from one version of a model to another: both sides of it.

The version that they leave holds its engine still while the other takes them in, so no step of
theirs runs meanwhile. There they are hidden until all of them is in place; then, at one moment,
they end here and are live there. `serving.migration` drives this, one migration at a time, for two
versions that waited for each other would wait for ever.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from server.arrays import finite
from server.bundle.manifest import Manifest
from server.engine.engine import Engine, EngineRows
from server.errors import CannotMigrate, Internal, ServingError
from server.metrics import ModelMetrics
from server.scheduler.scheduler import Scheduler
from server.sessions.directory import Directory
from server.sessions.kept_inputs import KeptInputs
from server.sessions.operations import Operations
from server.sessions.slots import Residence
from server.sessions.snapshot import Snapshot
from server.sessions.standing import Left
from server.sessions.tombstones import How

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Outcome = ServingError | None
"""Why a session stays where it is; None: it went."""


@dataclass(frozen=True)
class Leaver:
    """A session that may leave, with the engine held: it is as this says until that is let go."""

    handle: int
    snapshot: Snapshot
    inputs: Floats
    """The latest observations kept, [n, I]; and in which life of theirs."""
    life: int
    leave: Callable[[How], Left]

    @property
    def whole(self) -> bool:
        """Whether it stands at its first step, and needs no state."""
        return not self.snapshot.steps


@dataclass
class Comer:
    """A session on its way in, hidden under `handle`, that has been stepped to `steps`."""

    handle: int
    steps: int
    life: int
    inputs: Floats
    failed: ServingError | None = None
    fresh: bool = True


class Moving:
    """The side of one model version."""

    def __init__(
        self,
        manifest: Manifest,
        scheduler: Scheduler,
        directory: Directory,
        residence: Residence,
        operations: Operations,
        metrics: ModelMetrics,
        kept: KeptInputs | None,
    ) -> None:
        self._manifest, self._scheduler, self._directory = manifest, scheduler, directory
        self._residence, self._operations, self._metrics = residence, operations, metrics
        self.kept = kept
        self.most = residence.capacity
        """Sessions that may be asked for at once."""

    def look(self, ids: list[str]) -> Future[list[Leaver | ServingError]]:
        """Sessions as they are between two runs."""
        return self._scheduler.between_runs(lambda engine: self._leavers(engine, ids))

    def hand_over(
        self, ids: list[str], take: Callable[[list[Leaver | ServingError]], list[Outcome]]
    ) -> Future[list[Outcome]]:
        """Have `take` done with sessions, none of which can step before it returns."""
        return self._scheduler.between_runs(lambda engine: take(self._leavers(engine, ids)))

    def expect(self, leavers: Sequence[Leaver]) -> Future[list[Comer]]:
        """Make room for sessions that are to be stepped here from the initial state."""
        return self._scheduler.between_runs(lambda _: [self._expect(each) for each in leavers])

    def catch_up(self, comers: Sequence[Comer]) -> Future[bool]:
        """Step sessions on their way in through some of their inputs; whether any has more."""
        return self._scheduler.between_runs(lambda engine: self._chunk(engine, comers))

    def take_in(self, leavers: Sequence[Leaver], how: How) -> Future[list[Outcome]]:
        """Take sessions in with the state that they have. They must be held still."""

        def take(engine: Engine) -> list[Outcome]:
            comers = [self._with_state(each) for each in leavers]
            self._write(engine, leavers, comers)
            return self._arrive(engine, leavers, comers, how)

        return self._scheduler.between_runs(take)

    def settle(
        self, leavers: Sequence[Leaver], comers: Sequence[Comer], how: How
    ) -> Future[list[Outcome]]:
        """Take in sessions that were stepped here, once they have caught up. They must be held
        still."""

        def settle(engine: Engine) -> list[Outcome]:
            for leaver, comer in zip(leavers, comers, strict=True):
                _follow(leaver, comer)
            while self._chunk(engine, comers):
                pass
            return self._arrive(engine, leavers, comers, how)

        return self._scheduler.between_runs(settle)

    def drop(self, comers: Sequence[Comer]) -> None:
        """Sessions do not come after all."""
        for comer in comers:
            self._directory.drop(comer.handle)

    def _leavers(self, engine: Engine, ids: list[str]) -> list[Leaver | ServingError]:
        taken = self._operations.taken(engine, ids)
        return [each if isinstance(each, ServingError) else self._leaver(*each) for each in taken]

    def _leaver(self, handle: int, snapshot: Snapshot) -> Leaver:
        inputs, life = np.zeros((0, self._manifest.inputs_width), np.float32), 0
        if self.kept is not None:
            inputs, life = self.kept.tail(handle, snapshot.steps)
        return Leaver(handle, snapshot, inputs, life, partial(self._leave, handle))

    def _leave(self, handle: int, how: How) -> Left:
        left = self._directory.move(handle, how)
        self._metrics.migrated.inc()
        return left

    def _with_state(self, leaver: Leaver) -> Comer:
        comer = self._hidden(leaver, leaver.snapshot.steps)
        if not all(finite(state.values) for state in leaver.snapshot.states):
            comer.failed = comer.failed or CannotMigrate(
                "the session's state has values that are not finite"
            )
        return comer

    def _hidden(self, leaver: Leaver, count: int) -> Comer:
        steps = leaver.snapshot.steps
        try:
            handle = self._directory.hide(leaver.snapshot.session_id, count)
            return Comer(handle, steps, leaver.life, leaver.inputs[:0])
        except ServingError as error:
            return Comer(0, steps, leaver.life, leaver.inputs[:0], error)

    def _expect(self, leaver: Leaver) -> Comer:
        comer = self._hidden(leaver, 0)  # until it is in place, no state of it need be known
        if self.kept is None:
            comer.failed = CannotMigrate("the server keeps no inputs (see kept_inputs)")
        elif len(leaver.inputs) < min(self.kept.depth, leaver.snapshot.steps):
            comer.failed = comer.failed or CannotMigrate(
                f"only {len(leaver.inputs)} of the session's latest inputs are known, "
                f"not {min(self.kept.depth, leaver.snapshot.steps)}"
            )
        comer.inputs = leaver.inputs
        return comer

    def _write(self, engine: Engine, leavers: Sequence[Leaver], comers: Sequence[Comer]) -> None:
        moved = [
            (comer, leaver)
            for comer, leaver in zip(comers, leavers, strict=True)
            if not comer.failed and not leaver.whole
        ]
        if not moved:
            return
        handles = np.array([comer.handle for comer, _ in moved], dtype=np.int64)
        try:
            self._operations.put(engine, handles, [leaver.snapshot for _, leaver in moved])
        except Exception:
            log.exception("%d sessions could not be taken in", len(moved))
            for comer, _ in moved:
                comer.failed = Internal()

    def _chunk(self, engine: Engine, comers: Sequence[Comer]) -> bool:
        """Step every session through as much as one run may carry."""
        going = [each for each in comers if not each.failed and len(each.inputs)]
        if not going:
            return False
        try:
            self._run(engine, going)
        except Exception:
            log.exception("%d sessions could not be stepped on their way in", len(going))
            for each in going:
                each.failed = Internal()
        return any(not each.failed and len(each.inputs) for each in going)

    def _run(self, engine: Engine, going: Sequence[Comer]) -> None:
        handles = np.array([each.handle for each in going], dtype=np.int64)
        fresh = np.array([each.fresh for each in going])
        slots = self._residence.visit(engine, handles)
        lengths = np.array([min(len(c.inputs), self._manifest.max_chunk) for c in going], np.int32)
        features = np.zeros((len(going), lengths.max(), self._manifest.inputs_width), np.float32)
        for row, comer in enumerate(going):
            features[row, : lengths[row]] = comer.inputs[: lengths[row]]
        outputs = engine.run(EngineRows(slots, fresh, lengths, features))
        for row, comer in enumerate(going):
            comer.inputs, comer.fresh = comer.inputs[lengths[row] :], False
            if not slots[row] or not np.isfinite(outputs[row, : lengths[row]]).all():
                comer.failed = CannotMigrate("the other version's results are not finite")

    def _arrive(
        self, engine: Engine, leavers: Sequence[Leaver], comers: Sequence[Comer], how: How
    ) -> list[Outcome]:
        return [
            self._try_arrive(engine, leaver, comer, how)
            for leaver, comer in zip(leavers, comers, strict=True)
        ]

    def _try_arrive(self, engine: Engine, leaver: Leaver, comer: Comer, how: How) -> Outcome:
        failed = comer.failed
        try:
            if failed is None:
                self._remember(engine, leaver, comer)
                name = leaver.snapshot.session_id
                self._directory.show(comer.handle, name, lambda: leaver.leave(how))
        except ServingError as error:
            failed = error
        if failed is not None:
            self._directory.drop(comer.handle)
        return failed

    def _remember(self, engine: Engine, leaver: Leaver, comer: Comer) -> None:
        """Retries are answered as they were, by whichever version stepped."""
        steps = leaver.snapshot.steps
        if steps:
            (slot,) = self._residence.visit(engine, np.array([comer.handle])).tolist()
            self._operations.remember(slot, leaver.snapshot)
        self._directory.count(np.array([comer.handle]), np.array([steps]), np.array([steps]))
        if self.kept is not None:
            self.kept.put(comer.handle, steps, leaver.inputs)


def _follow(leaver: Leaver, comer: Comer) -> None:
    """The session may have been stepped since it was seen: the inputs that its copy lacks."""
    since = leaver.snapshot.steps - comer.steps
    if comer.failed:
        return
    if leaver.life != comer.life or not 0 <= since <= len(leaver.inputs):
        comer.failed = CannotMigrate("the session moved on too fast, or began anew; ask again")
        return
    comer.inputs = leaver.inputs[len(leaver.inputs) - since :]
    comer.steps = leaver.snapshot.steps
