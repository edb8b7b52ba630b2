"""Rows whose sessions are not resident: they wait until these were brought in, between two runs;
what lies in the store is fetched before that, while others run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from server.engine.engine import Engine
from server.errors import ServingError
from server.scheduler.batch import Batch
from server.scheduler.parts import Part, Picked
from server.scheduler.protocol import StepProtocol
from server.scheduler.queue import StepQueue


class Absent:
    """Sets such rows aside, and has their sessions brought in.

    Args:
        leave: completes rows that leave, from any thread.
    """

    def __init__(
        self, queue: StepQueue, steps: StepProtocol, leave: Callable[[list[Picked]], None]
    ) -> None:
        self._queue, self._steps, self._leave = queue, steps, leave

    def set_aside(self, batch: Batch) -> list[Picked]:
        """Have a batch's rows wait that must; what of the picked is left."""
        if batch.absent is None:
            return batch.picked
        waits = batch.absent & batch.open_rows
        waiting, left = batch.parts(np.flatnonzero(waits)), batch.parts(np.flatnonzero(~waits))
        batch.open_rows[waits], batch.touched = False, True
        self._queue.defer(waiting)
        return [(part, 0, part.left) for part in left]

    def bring_in(self, engine: Engine) -> None:
        """The sessions that rows wait for, as many as there is room for."""
        parts = self._fetch(self._queue.absent(self._steps.room))
        if not parts:
            return
        handles = np.concatenate([part.handles for part in parts])
        try:
            self._steps.bring_in(engine, handles)
        finally:
            self._queue.admit(parts)

    def _fetch(self, parts: list[Part]) -> list[Part]:
        """Have what some of the parts need fetched; returns those that need nothing."""
        wanted = [self._steps.missing(part.handles) for part in parts]
        away = [part for part, missing in zip(parts, wanted, strict=True) if len(missing)]
        if away:
            self._queue.send_away(away)
            self._steps.fetch(np.unique(np.concatenate(wanted)), partial(self._fetched, away))
        return [part for part, missing in zip(parts, wanted, strict=True) if not len(missing)]

    def _fetched(self, parts: list[Part], failed: Mapping[int, ServingError]) -> None:
        """What rows waited for has come, but for some of it; from any thread."""
        pieces = [part.split(failed) for part in parts]
        over = [(bad, 0, bad.left) for _, bad in pieces if bad is not None]
        for part, start, stop in over:
            part.fail(start, stop, failed)
        self._queue.come_back(len(parts), [good for good, _ in pieces if good is not None])
        self._leave(over)
