"""One model version being served: its sessions, its scheduler and its engine, as one object.

The api talks to this: it opens, closes and lists sessions, and submits steps. Any thread may.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from server.config import Config
from server.engine.engine import Engine
from server.errors import Draining
from server.metrics import Metrics, ModelMetrics
from server.scheduler.scheduler import Scheduler
from server.scheduler.submission import Submission
from server.serving.drift import watch
from server.sessions.directory import Directory, SessionInfo
from server.sessions.operations import Operations
from server.sessions.replay_cache import ReplayCache
from server.sessions.slots import Residence
from server.sessions.step_protocol import SessionSteps


class ServedModel:
    """A model version and its live sessions.

    Args:
        on_death: called, from another thread, should the model stop serving by itself.
    """

    def __init__(
        self,
        engine: Engine,
        config: Config,
        metrics: Metrics,
        on_death: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.manifest = manifest = engine.manifest
        self.name, self.version = manifest.name, manifest.version
        self.device, self.capacity = engine.device.name, config.max_sessions
        self.max_forecast, self.ttl = config.max_forecast_steps, config.session_ttl
        self.metrics = ModelMetrics(metrics, self.name, self.version)
        self.directory = Directory(self.name, self.version, self.capacity, self.ttl, clock)
        cache = _cache(engine, config)
        residence = Residence(engine.capacity, self.directory, cache)
        drift = watch(manifest, config.drift_window, self.metrics)
        self._scheduler = Scheduler(
            engine,
            SessionSteps(
                self.directory, residence, cache, self.metrics, drift.note if drift else None
            ),
            self.metrics,
            max_batch=config.max_batch,
            max_queued_steps=config.max_queued_steps,
            on_death=on_death,
        )
        queue = self._scheduler.queue
        residence.busy = queue.busy
        self.operations = Operations(
            manifest, self._scheduler, self.directory, residence, cache, self.metrics
        )
        self.metrics.watch(
            live=lambda: len(self.directory),
            resident=lambda: len(residence),
            queued=lambda: queue.steps,
            state_bytes=engine.state_bytes,
            device=self.device,
        )

    def start(self) -> None:
        """Begin to run steps."""
        self._scheduler.start()

    def refuse(self) -> None:
        """From now on, new sessions and steps get `Draining`; what is queued still runs."""
        self.directory.draining = True

    def drain(self, deadline: float) -> bool:
        """Wait for what is queued; False if `deadline` (monotonic) came first."""
        return self._scheduler.queue.wait_idle(deadline)

    def stop(self) -> None:
        """Finish what is queued and end the scheduler's thread."""
        self._scheduler.stop()

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
        if self.directory.draining:
            raise Draining
        self._scheduler.submit(submission)

    def expire(self) -> int:
        """End the sessions idle for longer than the time to live, none with a step queued; returns
        how many."""
        gone = self.directory.expire(self._scheduler.queue.busy)
        self.metrics.idle.inc(gone)
        return gone


def _cache(engine: Engine, config: Config) -> ReplayCache:
    manifest = engine.manifest
    return ReplayCache(
        engine.capacity,
        max(config.remembered_steps, manifest.max_chunk),  # a retry finds all of a longest chunk
        manifest.inputs_width,
        manifest.outputs_width,
        bool(manifest.may_miss.any()),
    )
