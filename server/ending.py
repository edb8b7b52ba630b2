"""How a server is told to end, and that it does: whatever hangs, its process is gone in time."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

T = TypeVar("T")

GRACE: Final = 1.0  # seconds past the deadline for what ends the last threads
HARD: Final = 2.0  # seconds past the deadline after which the process ends wherever it is


class Ending:
    """Signals, and the time that is left after the first. Made in the event loop's thread.

    Args:
        seconds: from the signal to the deadline.
        on_signal: called on the event loop, once.
    """

    def __init__(self, seconds: float, on_signal: Callable[[], object]) -> None:
        self._seconds, self._on_signal = seconds, on_signal
        self._loop = asyncio.get_running_loop()
        self.deadline: float | None = None
        """By the monotonic clock; None before it is time to end."""

    def catch_signals(self) -> None:
        """SIGTERM and SIGINT end the server; a second one ends it at once, with status 1."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._heard)

    def begin(self) -> float:
        """It is time to end; returns by when."""
        if self.deadline is None:
            self.deadline = time.monotonic() + self._seconds
            # In C, and a thread of its own: it needs neither the interpreter's lock nor this loop.
            faulthandler.dump_traceback_later(self._seconds + HARD, exit=True, file=2)
        return self.deadline

    async def wait_for(self, work: Callable[[], T]) -> T | None:
        """Do what blocks in a thread; None where it is not done by a little past the deadline."""
        left = self.begin() + GRACE - time.monotonic()
        working = asyncio.ensure_future(asyncio.to_thread(work))
        done, _ = await asyncio.wait((working,), timeout=max(0.0, left))
        return working.result() if done else None

    def _heard(self, number: int, _: Any) -> None:
        if self.deadline is not None:
            os.write(2, b"told to end again: at once, whatever is left\n")
            os._exit(1)
        self.begin()
        self._loop.call_soon_threadsafe(self._on_signal)
