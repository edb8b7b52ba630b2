"""The thread that an engine belongs to: it begins the engine, and is the one to run it then."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from server.engine.engine import Engine


class EngineThread(threading.Thread):
    """Does `work` once the engine has begun."""

    def __init__(self, engine: Engine, work: Callable[[], None], name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._engine, self._work = engine, work
        self._ready: Future[None] = Future()

    def start(self) -> None:
        """Start, and wait until the engine has begun.

        Raises:
            BadModel: as `Engine.begin`; the thread is over.
        """
        super().start()
        try:
            self._ready.result()
        except BaseException:
            self.join()
            raise

    def run(self) -> None:
        """The thread's part."""
        try:
            self._engine.begin()
        except BaseException as error:
            self._ready.set_exception(error)
        else:
            self._ready.set_result(None)
            self._work()
        finally:
            del self._engine, self._work  # as `Thread` lets go of its own: work leads back here
