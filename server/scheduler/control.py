"""A control call: work on the engine between two runs, such as reading sessions' states.

Only whoever holds the engine may touch it, and only between runs is a session's state the one that
its count says. Like a step, a control call carries its own completion.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from server.engine.engine import Engine
from server.errors import Internal, QueueFull, ServingError

log = logging.getLogger(__name__)

T = TypeVar("T")
Q = TypeVar("Q")

MAX_CALLS = 4096  # that wait
SHARED = 256  # requests in one call


class ControlCall(Generic[T]):
    """Work to be done once; `done` gets its result or its error."""

    def __init__(self, work: Callable[[Engine], T]) -> None:
        self._work = work
        self.done: Future[T] = Future()

    def run(self, engine: Engine) -> None:
        """Do the work, unless nobody waits for it any more."""
        if not self.done.set_running_or_notify_cancel():
            return
        try:
            self.done.set_result(self._work(engine))
        except ServingError as error:
            self.done.set_exception(error)
        except Exception:
            log.exception("work between two runs failed")
            self.done.set_exception(Internal())

    def fail(self, error: ServingError) -> None:
        """It will not be done."""
        if self.done.set_running_or_notify_cancel():
            self.done.set_exception(error)


class SharedCalls(Generic[Q, T]):
    """Requests of one kind that share a control call: as many as wait once the engine is free.

    Args:
        begin: has work done between two runs (`Scheduler.between_runs`).
        serve: does what several requests ask for: their results or errors, in order.
        most: how many requests a call may serve.
    """

    def __init__(
        self,
        begin: Callable[[Callable[[Engine], None]], Future[None]],
        serve: Callable[[Engine, list[Q]], Sequence[T | ServingError]],
        most: int = SHARED,
    ) -> None:
        self._begin, self._serve, self._most = begin, serve, most
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Q, Future[T]]] = deque()

    def ask(self, request: Q) -> Future[T]:
        """Queue a request, from any thread.

        Raises:
            QueueFull: too many wait already.
        """
        done: Future[T] = Future()
        with self._lock:
            if len(self._waiting) >= MAX_CALLS:
                raise QueueFull(f"{MAX_CALLS} calls wait for the engine already", 0.1)
            self._waiting.append((request, done))
            first = len(self._waiting) == 1
        if first:
            self._call()
        return done

    def _call(self) -> None:
        try:
            self._begin(self._run).add_done_callback(self._over)
        except ServingError as error:
            self._fail(error)

    def _run(self, engine: Engine) -> None:
        with self._lock:
            count = min(self._most, len(self._waiting))
            taken = [self._waiting.popleft() for _ in range(count)]
            more = bool(self._waiting)
        if more:
            self._call()
        asked = [(request, done) for request, done in taken if done.set_running_or_notify_cancel()]
        try:
            results = self._serve(engine, [request for request, _ in asked])
        except Exception:
            log.exception("work between two runs failed")
            results = [Internal()] * len(asked)
        for (_, done), result in zip(asked, results, strict=True):
            if isinstance(result, ServingError):
                done.set_exception(result)
            else:
                done.set_result(result)

    def _over(self, call: Future[None]) -> None:
        """A call that was never run (the scheduler is dead) leaves nobody waiting."""
        if isinstance(error := call.exception(), ServingError):
            self._fail(error)

    def _fail(self, error: ServingError) -> None:
        with self._lock:
            taken, self._waiting = list(self._waiting), deque()
        for _, done in taken:
            if done.set_running_or_notify_cancel():
                done.set_exception(error)
