"""The bounded queue of parts. What it hands out may run at once: no session twice, one width.

A part that names a session which already waits or runs is held back behind the part that does, so
a session's steps stay in order and taking a batch never searches the queue.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from heapq import heappop, heappush
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.batcher.errand import Errand
from server.batcher.part import Part, split
from server.batcher.submission import Submission
from server.errors import BadInput, QueueFull, ServingError

Picked = tuple[Part, int, int]

MAX_ERRANDS = 4096
FREE = {0}


class StepQueue:
    """Steps waiting for the engine, at most `limit` of them, over slots 0..capacity."""

    def __init__(self, capacity: int, limit: int) -> None:
        self._limit = limit
        # Parts that may run, by width; each a heap by number, so that the oldest comes first.
        self._ready: dict[int, list[tuple[int, Part]]] = {}
        # Which part was the last to name a slot, by number; 0: the slot neither waits nor runs.
        self._last = np.zeros(capacity + 1, dtype=np.int64)
        self._parts: dict[int, Part] = {}
        self._numbers: dict[Part, int] = {}
        self._next = 1
        self._condition = threading.Condition()
        self._errands: deque[Errand[Any]] = deque()
        self._stopped = False
        self.steps = 0

    def is_free_for(self, steps: int) -> bool:
        """Whether nothing waits or runs, and so many steps would be let in."""
        return self.steps == 0 and steps <= self._limit and not (self._errands or self._stopped)

    def busy(self, slots: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the slots have a step waiting or running."""
        busy: NDArray[np.bool_] = self._last[slots] != 0
        return busy

    def put(self, submission: Submission, rate: float) -> None:
        """Queue every row, or none.

        Raises:
            QueueFull: there is no room; `rate` (steps a second) tells when to try again.
            BadInput: the submission is larger than the whole queue.
        """
        with self._condition:
            if self.steps + submission.steps > self._limit:
                raise self._full(submission.steps, rate)
            for part in split(submission):
                self.steps += part.steps
                self._add(part)
            self._condition.notify()

    def take(self, max_rows: int) -> list[Picked] | None:
        """Wait for rows that may run now, or for an errand; take at most `max_rows`, oldest first.

        Returns (part, from, to) triples of one width, none if there are only errands; None when
        stopped.
        """
        with self._condition:
            while not (self._ready or self._errands or self._stopped):
                self._condition.wait()
            if self._ready:
                return self._pick(max_rows)
            return [] if self._errands else None

    def ask(self, errand: Errand[Any]) -> None:
        """Queue work to be done between two runs.

        Raises:
            QueueFull: too much of it waits already.
        """
        with self._condition:
            if len(self._errands) >= MAX_ERRANDS:
                raise QueueFull(f"{MAX_ERRANDS} calls wait for the engine already", 0.1)
            self._errands.append(errand)
            self._condition.notify()

    def errand(self) -> Errand[Any] | None:
        """The oldest errand: one between two runs, so that steps hardly wait for them."""
        return self._errands.popleft() if self._errands else None

    def finish(self, picked: list[Picked]) -> None:
        """The rows have left their run: let in what was held back behind them."""
        with self._condition:
            for part, start, stop in picked:
                self.steps -= part.count(start, stop)
                part.unfinished -= stop - start
                if part.unfinished == 0:
                    self._release(part)

    def stop(self) -> None:
        """Make `take` return None once nothing is left."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()

    def wait_idle(self, deadline: float) -> bool:
        """Wait until nothing waits or runs; False if `deadline` (monotonic) came first."""
        while self.steps:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True

    def _full(self, steps: int, rate: float) -> ServingError:
        if steps > self._limit:  # waiting would not help
            text = f"{steps} steps are more than the queue's {self._limit}; send fewer at once"
            return BadInput(text, field="steps")
        text = f"{self.steps} steps wait already and the queue holds {self._limit}"
        return QueueFull(text, min(1.0, max(0.001, self.steps / max(rate, 1.0))))

    def _add(self, part: Part) -> None:
        number, self._next = self._next, self._next + 1
        ahead = self._last[part.slots].tolist()
        self._last[part.slots] = number
        self._parts[number] = part
        self._numbers[part] = number
        for other in set(ahead) - FREE:
            self._parts[other].blocked.append(part)
            part.blockers += 1
        if part.blockers == 0:
            self._let_in(number, part)

    def _let_in(self, number: int, part: Part) -> None:
        heappush(self._ready.setdefault(part.width, []), (number, part))

    def _release(self, part: Part) -> None:
        number = self._numbers.pop(part)
        del self._parts[number]
        mine = part.slots[self._last[part.slots] == number]
        self._last[mine] = 0
        for other in part.blocked:
            other.blockers -= 1
            if other.blockers == 0:
                self._let_in(self._numbers[other], other)

    def _pick(self, room: int) -> list[Picked]:
        width = min(self._ready, key=lambda width: self._ready[width][0])
        parts = self._ready[width]
        picked: list[Picked] = []
        while parts and room:
            _, part = parts[0]
            start, stop = part.taken, part.taken + min(part.left, room)
            picked.append((part, start, stop))
            part.taken, room = stop, room - (stop - start)
            if part.left == 0:
                heappop(parts)
        if not parts:
            del self._ready[width]
        return picked
