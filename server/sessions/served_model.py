"""One model version being served: its sessions, its batcher and its engine, as one object.

The transport talks to this: it opens, closes and lists sessions, and submits steps.
"""

from __future__ import annotations

import time

from server.batcher.batcher import Batcher
from server.batcher.submission import Submission
from server.config import Config
from server.engine.engine import Engine
from server.errors import BadInput, Draining, SessionsFull
from server.metrics import Metrics, ModelMetrics
from server.sessions.drift import watch
from server.sessions.endings import Endings
from server.sessions.ledger import SessionLedger
from server.sessions.memory import Memory
from server.sessions.states import States
from server.sessions.table import SessionInfo, SessionTable

MAX_ID_BYTES = 256
LONGEST_WAIT = 1.0


class ServedModel:
    """A model version and its live sessions."""

    def __init__(self, engine: Engine, config: Config, metrics: Metrics) -> None:
        self.manifest = engine.manifest
        self.name, self.version = engine.manifest.name, engine.manifest.version
        self.device = engine.device.name
        self.capacity = engine.capacity
        self.metrics = ModelMetrics(metrics, self.name, self.version)
        self.ttl = config.session_ttl
        self._table = SessionTable(engine.capacity)
        self._endings = Endings(self.name)
        # A retry of the longest chunk must find all of it.
        depth = max(config.remembered_steps, self.manifest.max_chunk)
        width = self.manifest.outputs_width
        may_miss = bool(self.manifest.may_miss.any())
        memory = Memory(engine.capacity, depth, self.manifest.inputs_width, width, may_miss)
        drift = watch(self.manifest, config.drift_window, self.metrics)
        self._batcher = Batcher(
            engine,
            SessionLedger(self._table, memory, self._endings, self.metrics, drift),
            self.metrics,
            max_batch=config.max_batch,
            max_queued_steps=config.max_queued_steps,
        )
        self.states = States(self.manifest, self._batcher, self, self._table, memory)
        self.max_forecast = config.max_forecast_steps
        self._draining = False
        queue = self._batcher.queue
        self.metrics.watch(
            lambda: len(self._table), lambda: queue.steps, engine.state_bytes, self.device
        )

    def start(self) -> None:
        """Begin to run steps."""
        self._batcher.start()

    def refuse(self) -> None:
        """From now on, new sessions and steps get `Draining`; what is queued still runs."""
        self._draining = True

    def drain(self, deadline: float) -> bool:
        """Wait for what is queued; False if `deadline` (monotonic) came first."""
        return self._batcher.queue.wait_idle(deadline)

    def stop(self) -> None:
        """Finish what is queued and end the batcher's thread."""
        self._batcher.stop()

    def open(self, session_id: str) -> tuple[SessionInfo, bool]:
        """Open a session, or attach to the live one; the flag tells whether it was opened.

        Raises:
            BadInput: the id is empty, or longer than 256 bytes of UTF-8.
            SessionsFull: no slot is free.
            Draining: the server is shutting down.
        """
        check_id(session_id)
        with self._table.lock:
            created = session_id not in self._table.by_id
            if created:
                self.admit(session_id)
            self._table.last_used[self._table.by_id[session_id]] = time.time()
            return self.info(session_id), created

    def close(self, session_id: str) -> int:
        """End a session; returns the steps it had applied. Steps still waiting fail.

        Raises:
            UnknownSession, SessionExpired, SessionClosed: it is not live.
        """
        with self._table.lock:
            self.slot(session_id)
            self._endings.closed(session_id, time.time())
            self.metrics.closed.inc()
            return self._table.remove(session_id)

    def get(self, session_id: str) -> SessionInfo:
        """A live session.

        Raises:
            UnknownSession, SessionExpired, SessionClosed: it is not live.
        """
        with self._table.lock:
            self.slot(session_id)
            return self.info(session_id)

    def list(self, after: str, size: int) -> list[SessionInfo]:
        """Up to `size` live sessions whose ids follow `after`, by id."""
        with self._table.lock:
            return [self.info(session_id) for session_id in self._table.page(after, size)]

    def holds(self, session_id: str) -> bool:
        """Whether the session is live here."""
        return session_id in self._table.by_id

    def recalls(self, session_id: str) -> bool:
        """Whether a session of that id ended here."""
        return self._endings.knows(session_id)

    def locate(self, session_id: str) -> tuple[int, int]:
        """The slot and generation by which steps name a live session.

        Raises:
            UnknownSession, SessionExpired, SessionClosed: it is not live.
        """
        with self._table.lock:
            slot = self.slot(session_id)
            return slot, int(self._table.generations[slot])

    def submit(self, submission: Submission) -> None:
        """Queue steps whose features were checked (see `inputs`).

        Raises:
            QueueFull: no room; nothing was queued.
            Draining: the server is shutting down.
        """
        if self._draining:
            raise Draining
        self._batcher.submit(submission)

    def expire(self, now: float) -> int:
        """End the sessions idle for longer than the time to live, none with a step queued."""
        with self._table.lock:
            idle = self._table.idle_since(now - self.ttl)
            gone = idle[~self._batcher.queue.busy(idle)]
            for slot in gone.tolist():
                session_id = str(self._table.ids[slot])
                self._endings.expired(session_id, now)
                self._table.remove(session_id)
        self.metrics.idle.inc(len(gone))
        return len(gone)

    def admit(self, session_id: str) -> int:
        """Open a session that is not live, under the table's lock; its slot. Raises as `open`."""
        check_id(session_id)
        self._make_room()
        self._endings.forget(session_id)
        self.metrics.opened.inc()
        return self._table.add(session_id)

    def slot(self, session_id: str) -> int:
        """A live session's slot, under the table's lock. Raises as `get`."""
        slot = self._table.by_id.get(session_id)
        if slot is None:
            raise self._endings.error(session_id)
        return slot

    def _make_room(self) -> None:
        if self._draining:
            raise Draining
        if self._table.full:
            oldest = float(self._table.last_used[self._table.slots()].min())
            # The next expiry is certain; a close may come at any time, so never wait for long.
            wait = min(LONGEST_WAIT, max(0.001, oldest + self.ttl - time.time()))
            raise SessionsFull(f"model {self.name!r} holds {self.capacity} sessions", wait)

    def info(self, session_id: str) -> SessionInfo:
        """A live session, under the table's lock."""
        table, slot = self._table, self._table.by_id[session_id]
        used = float(table.last_used[slot])
        return SessionInfo(
            model=self.name,
            version=self.version,
            session_id=session_id,
            steps=int(table.counts[slot]),
            opened_at=float(table.opened_at[slot]),
            last_used_at=used,
            expires_at=used + self.ttl,
        )


def check_id(session_id: str) -> None:
    """Refuse what cannot be a session's id.

    Raises:
        BadInput: it is empty, or longer than 256 bytes of UTF-8.
    """
    size = len(session_id.encode())
    if not 1 <= size <= MAX_ID_BYTES:
        text = f"session_id must have 1 to {MAX_ID_BYTES} bytes of UTF-8, not {size}"
        raise BadInput(text, field="session_id")
