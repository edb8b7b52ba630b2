"""An errand: work on the engine between two runs, such as reading one session's state.

Only the batcher's thread may touch the engine, and only between runs is a session's state the one
that its count says. Like a step, an errand carries its own completion.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from server.engine.engine import Engine
from server.errors import Internal, ServingError

log = logging.getLogger(__name__)

T = TypeVar("T")


class Errand(Generic[T]):
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
