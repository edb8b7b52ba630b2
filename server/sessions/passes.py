"""Passes: all that has moved is written to the store by and by, over the whole of the checkpoint
interval, and what somebody waits for at once."""

from __future__ import annotations

import time
from functools import partial

import numpy as np

from server.errors import ServingError
from server.scheduler.submission import Handles
from server.sessions.checkpoint import Checkpoint
from server.sessions.handover import BetweenRuns
from server.store.health import Health

Failed = dict[int, ServingError]
"""By session: why what was asked for has not come to pass."""

AT_ONCE = 2048  # sessions captured while the engine is held, and written in one go
PACE = 0.9  # of the checkpoint interval, between two passes: the rest is for writing


class Passes:
    """Writes the sessions of one model version. For the keeper's thread.

    Args:
        between_runs: `Scheduler.between_runs`.
        interval: seconds after which a step is stored.
    """

    def __init__(
        self,
        health: Health,
        checkpoint: Checkpoint,
        between_runs: BetweenRuns,
        interval: float,
    ) -> None:
        self._health, self._checkpoint, self._between_runs = health, checkpoint, between_runs
        self._interval = interval
        self._due = np.zeros(0, dtype=np.int64)  # what is left of the present pass
        self._next = 0.0

    @property
    def left(self) -> int:
        """Sessions that the present pass has still to write."""
        return len(self._due)

    def wait(self) -> float:
        """Seconds until the next pass is due."""
        return max(0.0, self._next - time.monotonic())

    def go_on(self, at_once: bool) -> None:
        """Go on with the present pass, or begin the next if it is time, or is to be `at_once`."""
        now = time.monotonic()
        if not len(self._due) and (now >= self._next or at_once):
            self._due, self._next = self._checkpoint.due(), now + PACE * self._interval
        if len(self._due):
            some, self._due = self._due[:AT_ONCE], self._due[AT_ONCE:]
            self.write(some)
            if not len(self._due):
                self._checkpoint.done()

    def write(self, handles: Handles) -> Failed:
        """Capture and write sessions now; returns those that another server has taken over."""
        failed: Failed = {}
        for at in range(0, len(handles), AT_ONCE):
            some = handles[at : at + AT_ONCE]
            try:
                capture = partial(self._checkpoint.capture, handles=some)
                captured = self._between_runs(capture).result()
                failed |= self._checkpoint.store(captured)
                self._health.answered()
            except BaseException:
                self._checkpoint.mark(handles[at:])
                raise
        return failed
