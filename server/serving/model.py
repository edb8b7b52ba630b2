"""One model version being served: its sessions, its scheduler and its engine, as one object.

The api talks to this: it opens, closes and lists sessions, and submits steps. Any thread may.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from server.access.tenants import Tenants
from server.config import Config
from server.engine.engine import Engine
from server.errors import Draining, ServingError, SessionEnded, UnknownSession
from server.metrics import Metrics, ModelMetrics
from server.scheduler.protocol import Told
from server.scheduler.submission import Handles, Submission
from server.serving.assembly import Keeping, Watcher, assemble
from server.sessions.claims import Problems
from server.sessions.keeper import Keeper
from server.sessions.standing import SessionInfo, is_id
from server.sessions.step_protocol import Applied

CLOSED_AT_ONCE = 1000


class ServedModel:
    """A model version and its live sessions.

    Args:
        on_death: called, from another thread, should the model stop serving by itself.
        keeping: where its sessions outlive the process.
        tenants: whose sessions they are, and how many each may have.
    """

    def __init__(
        self,
        engine: Engine,
        config: Config,
        metrics: Metrics,
        on_death: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        keeping: Keeping | None = None,
        tenants: Tenants | None = None,
    ) -> None:
        self.manifest = manifest = engine.manifest
        self.name, self.version = manifest.name, manifest.version
        self.device, self.capacity = engine.device.name, config.max_sessions
        self.max_forecast, self.ttl = config.max_forecast_steps, config.session_ttl
        self.metrics = ModelMetrics(metrics, self.name, self.version)
        self.shadow: Watcher | None = None
        """Shown every run last, if there is one (see `shadow`)."""
        parts = assemble(
            engine, config, self.metrics, self._watch, on_death, clock, keeping, tenants
        )
        self.directory, self.keeper = parts.directory, parts.keeper
        self.operations, self.moving = parts.operations, parts.moving
        self._residence, self._cache = parts.residence, parts.cache
        self._scheduler, self._watchers = parts.scheduler, parts.watchers
        self.operations.on_made = self._on_made
        self.on_made: Callable[[int], None] = lambda _: None
        """Told, with the engine held, of sessions that steps alone do not account for."""
        self._stopped = False
        self.metrics.watch(
            live=lambda: len(self.directory),
            resident=lambda: len(self._residence),
            queued=lambda: self._scheduler.queue.steps,
            state_bytes=engine.state_bytes,
            device=self.device,
        )

    def start(self) -> None:
        """Begin to run steps.

        Raises:
            BadModel: its device cannot be made ready; then `discard` it.
        """
        self._scheduler.start()
        if self.keeper is not None:
            self.keeper.start()

    def refuse(self) -> None:
        """From now on, new sessions and steps get `Draining`; what is queued still runs."""
        self.directory.draining = True

    def drain(self, deadline: float) -> bool:
        """Wait for what is queued; False if `deadline` (monotonic) came first."""
        return self._scheduler.queue.wait_idle(deadline)

    def flush(self, deadline: float) -> bool:
        """Have every session stored as it is; False if `deadline` (monotonic) came first."""
        return self.keeper is None or self.keeper.flush(deadline)

    def stop(self) -> None:
        """Finish what is queued and end the threads."""
        if self.keeper is not None:
            self.keeper.stop()
        self._scheduler.stop()

    def seek(self, wanted: Mapping[str, bool]) -> Future[Problems] | None:
        """Look in the store for sessions of these ids, those that are not known here, before they
        are asked for by `attach` and the like; those that are marked are made if there is nothing
        of them. Tells why some cannot be had; None where there is nothing to wait for. Once the
        lease has run out, none can: others may have taken those that are known here."""
        if self.keeper is None:
            return None
        if self.lapsed and (why := self.keeper.health.refusal()) is not None:
            refused: Future[Problems] = Future()
            refused.set_result(dict.fromkeys(wanted, why))
            return refused
        known = self.directory
        unknown = {
            name: create for name, create in wanted.items() if name not in known and is_id(name)
        }
        return self.keeper.name(unknown) if unknown else None

    @property
    def lapsed(self) -> bool:
        """Whether other servers may have taken sessions that are known here."""
        return self.keeper is not None and self.keeper.health.lapsed

    def confirm(self, session_id: str) -> Future[None]:
        """Done once a session is stored as it is, or newer.

        Raises:
            ServingError: the future does, if it cannot be.
        """
        return self._have_kept(session_id, lambda keeper: keeper.confirm)

    def fetch(self, session_id: str) -> Future[None]:
        """Done once a session's state has come out of the store, for a call that found it away
        (`StateAway`). By the time that it is asked for again it may be away again. Fails as
        `confirm`."""
        return self._have_kept(session_id, lambda keeper: keeper.fetch)

    def _have_kept(
        self, session_id: str, work: Callable[[Keeper], Callable[[Handles, Told], None]]
    ) -> Future[None]:
        """Have the keeper do something with a session, if it has it."""
        done: Future[None] = Future()
        handle = self.directory.handle(session_id)

        def then(failed: Mapping[int, ServingError]) -> None:
            if not done.set_running_or_notify_cancel():
                return
            if handle in failed:
                done.set_exception(failed[handle])
            else:
                done.set_result(None)

        if self.keeper is None or not handle:
            then({})
        else:
            work(self.keeper)(np.array([handle], dtype=np.int64), then)
        return done

    def durable(self, handles: Handles) -> NDArray[np.int64] | None:
        """How many steps of each session are stored; None where there is no store."""
        return None if self.keeper is None else self.directory.durable(handles)

    def at_hand(self, handles: Handles) -> NDArray[np.bool_]:
        """Which of the sessions may step without having their state brought in first, as far as
        can be told beside a run."""
        return self._residence.at_hand(handles)

    def forgotten(self) -> Future[None] | None:
        """Done once the store has forgotten the sessions that have ended."""
        return None if self.keeper is None else self.keeper.forgotten()

    def leave(self, leaving: bool = True) -> None:
        """From now on take no new sessions; or take some again."""
        self.directory.leaving = leaving

    @property
    def leaving(self) -> bool:
        """Whether it takes no new sessions."""
        return self.directory.leaving

    @property
    def queued(self) -> int:
        """Steps waiting or running."""
        return self._scheduler.queue.steps

    @property
    def over(self) -> bool:
        """Whether it takes no new sessions, and has none left."""
        return self.directory.vacated and not self._scheduler.queue.steps

    def end_all(self) -> None:
        """Close every session."""
        while page := self.directory.page("", CLOSED_AT_ONCE):
            for info in page:
                with suppress(SessionEnded, UnknownSession):  # it ends by itself just now
                    self.close(info.session_id)

    def unload(self) -> None:
        """End the scheduler and give back the memory; nobody may be told of this model any more.
        Rows of streams that still name it hear how their sessions ended."""
        self._stopped = True
        self.stop()
        self.discard()

    def discard(self) -> None:
        """Give back the memory of a model that does not run: no more, or not at all."""
        self._scheduler.release()
        self._cache.release()
        if self.moving.kept is not None:
            self.moving.kept.release()
        self.metrics.remove()

    def attach(self, session_id: str, create: bool) -> tuple[int, int, bool]:
        """A live session's handle, its steps, and whether it was opened just now, which it is only
        if `create`. Raises as `Directory.open` and `Directory.find`."""
        if not create:
            return *self.directory.find(session_id), False
        handle, steps, created = self.directory.open(session_id)
        if created:
            self.metrics.opened.inc()
        return handle, steps, created

    def open(self, session_id: str) -> tuple[SessionInfo, bool]:
        """Open a session, or attach to the live one; the flag tells whether it was opened. Raises
        as `Directory.open`."""
        _, _, created = self.attach(session_id, create=True)
        return self.get(session_id), created

    def close(self, session_id: str) -> int:
        """End a session; returns the steps it had applied. Steps still waiting fail. Raises as
        `Directory.find`."""
        if self.keeper is not None and self.keeper.discard(session_id):
            return 0  # what was stored of it could not be read
        steps = self.directory.close(session_id)
        self.metrics.closed.inc()
        return steps

    def get(self, session_id: str) -> SessionInfo:
        """A live session. Raises as `Directory.find`."""
        return self.directory.look(session_id)[1]

    def submit(self, submission: Submission) -> None:
        """Queue steps whose features were checked (see `sessions.validation`), from any thread.

        Raises:
            QueueFull: no room; nothing was queued.
            BadInput: there are more steps than the queue ever holds.
            Draining: the server is shutting down.
        """
        if self._stopped:
            self._tell_ends(submission)
            return
        if self.directory.draining:
            raise Draining
        try:
            self._scheduler.submit(submission)
        except Draining:
            if not self._stopped:
                raise
            self._tell_ends(submission)

    @property
    def most_together(self) -> int:
        """Single steps that `run_together` may take."""
        return self._scheduler.most_together

    def run_together(self, submissions: Sequence[Submission]) -> bool:
        """Run several submissions right now, as one run; False, and nothing is done, where that
        cannot be: then each is to be submitted by itself."""
        if self._stopped or self.directory.draining:
            return False
        return self._scheduler.run_together(submissions)

    def expire(self) -> int:
        """End the sessions idle for longer than the time to live, none with a step queued; returns
        how many."""
        gone = self.directory.expire(self._scheduler.queue.busy)
        self.metrics.idle.inc(gone)
        return gone

    def _watch(self, applied: Applied) -> None:
        for each in self._watchers:
            each(applied)
        if (shadow := self.shadow) is not None:
            shadow(applied)

    def _on_made(self, handle: int) -> None:
        if self.moving.kept is not None:
            self.moving.kept.forget(handle)
        self.on_made(handle)

    def _tell_ends(self, submission: Submission) -> None:
        for row in submission.queued_rows.tolist():
            submission.fail(row, self.directory.error(int(submission.handles[row])))
        submission.on_done(submission)
