"""The bounded queue. What it hands out may run at once: no session twice, one width.

An entry that names a session which waits or runs already is held back behind the entry that does;
so a session's steps stay in order, and taking a run's rows never searches the queue (see `parts`
for what entries fall into).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from heapq import heappop, heappush
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.arrays import lengthened
from server.errors import BadInput, Draining, Internal, QueueFull, ServingError
from server.scheduler.control import MAX_CALLS, ControlCall
from server.scheduler.parts import Entry, Part, Picked, rounds
from server.scheduler.submission import INDEX, ROOM, Handles, Rows, Submission

FREE = {0}


class StepQueue:
    """Steps waiting for the engine, at most `limit` of them. Any thread may use it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._condition = threading.Condition()
        # Parts that may run, by width; each a heap by (entry, turn), the oldest first.
        self._ready: dict[int, list[tuple[int, int, Part]]] = {}
        # Which entry was the last to name a session, by number; 0: it neither waits nor runs.
        self._last = np.zeros(ROOM, dtype=np.int64)
        self._entries: dict[int, Entry] = {}
        self._absent: deque[Part] = deque()  # their sessions are to be brought in first
        self._calls: deque[ControlCall[Any]] = deque()
        self._arrivals = self._turns = self._away = 0
        self._stopped = False
        self._closed: type[ServingError] | None = None  # why nothing is let in any more
        self.steps = 0

    def is_free_for(self, steps: int) -> bool:
        """Whether no step waits or runs, and so many would be let in."""
        return self.steps == 0 and steps <= self._limit and not self._stopped

    def busy(self, handles: Handles) -> NDArray[np.bool_]:
        """Which of the sessions have a step waiting or running."""
        index = handles & INDEX
        with self._condition:
            known = index < len(self._last)
            busy: NDArray[np.bool_] = known & (self._last[np.where(known, index, 0)] != 0)
        return busy

    def put(self, submission: Submission, rate: float) -> None:
        """Queue every row that has not failed, or none.

        Raises:
            QueueFull: there is no room; `rate` (steps a second) tells when to try again.
            BadInput: the submission is larger than the whole queue.
            Draining, Internal: the queue has been stopped and is empty, or is abandoned.
        """
        queued = submission.queued_rows
        steps = _steps(submission, queued)
        entry = Entry(submission, 0, rounds(submission, queued))
        index = submission.handles[queued] & INDEX
        with self._condition:
            if self._closed is not None:
                raise self._closed()
            if self.steps + steps > self._limit:
                raise self._full(steps, rate)
            submission.expect(len(queued))
            self.steps += steps
            self._add(entry, index)
            self._condition.notify()

    def take(self, max_rows: int) -> list[Picked] | None:
        """Wait until there is something to do; take rows for a run, at most `max_rows`, oldest
        first, none if only control calls or absent sessions wait. None when stopped and empty."""
        with self._condition:
            while not (self._ready or self._calls or self._absent or self._over):
                self._condition.wait()
            if self._ready:
                return self._pick(max_rows)
            if self._calls or self._absent:
                return []
            self._closed = Draining
            return None

    def take_behind(self, max_rows: int) -> list[Picked]:
        """As `take`, for a run of single steps behind one that is under way: nothing if there is
        none just now, or if anything else wants the engine in between."""
        with self._condition:
            if not self._ready or self._calls or self._absent or self._next_width() != 1:
                return []
            return self._pick(max_rows)

    def call(self, call: ControlCall[Any]) -> None:
        """Queue work to be done between two runs.

        Raises:
            QueueFull: too much of it waits already. Or as `put`.
        """
        with self._condition:
            if self._closed is not None:
                raise self._closed()
            if len(self._calls) >= MAX_CALLS:
                raise QueueFull(f"{MAX_CALLS} calls wait for the engine already", 0.1)
            self._calls.append(call)
            self._condition.notify()

    @property
    def has_calls(self) -> bool:
        """Whether control calls wait."""
        return bool(self._calls)

    @property
    def has_absent(self) -> bool:
        """Whether deferred rows wait."""
        return bool(self._absent)

    def next_call(self) -> ControlCall[Any] | None:
        """The oldest control call: one between two runs, so that steps hardly wait for them."""
        return self._calls.popleft() if self._calls else None

    def finish(self, picked: list[Picked]) -> None:
        """The rows have left their run, and are confirmed where they have to be: let in what was
        held back behind them. Any thread may say so."""
        with self._condition:
            for part, start, stop in picked:
                self.steps -= part.steps(start, stop)
                part.entry.unfinished -= stop - start
                if part.entry.unfinished == 0:
                    self._next_round(part.entry)
            self._condition.notify()

    def defer(self, parts: list[Part]) -> None:
        """These rows were taken, and could not run because their sessions are not resident: they
        wait until those are brought in."""
        with self._condition:
            self._absent.extend(parts)

    def send_away(self, parts: list[Part]) -> None:
        """What these deferred parts need is being fetched; `come_back` follows."""
        with self._condition:
            self._away += len(parts)

    def come_back(self, away: int, parts: list[Part]) -> None:
        """Of so many parts that were away these go on: they are deferred again. Any thread may say
        so."""
        with self._condition:
            self._away -= away
            self._absent.extend(parts)
            self._condition.notify()

    def absent(self, room: int) -> list[Part]:
        """The oldest deferred parts, at most `room` rows of them; `admit` lets them in."""
        parts: list[Part] = []
        with self._condition:
            while self._absent and len(self._absent[0].handles) <= room:
                room -= len(self._absent[0].handles)
                parts.append(self._absent.popleft())
        return parts

    def admit(self, parts: list[Part]) -> None:
        """The parts' sessions are resident now, or over."""
        with self._condition:
            for part in parts:
                self._let_in(part)

    def stop(self) -> None:
        """Make `take` return None once nothing is left."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()

    def abandon(self) -> tuple[list[Submission], list[ControlCall[Any]]]:
        """Nobody will run what waits: take all of it out, and let nothing in any more."""
        with self._condition:
            submissions = [entry.submission for entry in self._entries.values()]
            calls = list(self._calls)
            self._entries.clear()
            self._calls.clear()
            self._absent.clear()
            self._away = 0
            self._ready.clear()
            self._last = np.zeros(len(self._last), dtype=np.int64)
            self.steps, self._stopped, self._closed = 0, True, Internal
        return submissions, calls

    def wait_idle(self, deadline: float) -> bool:
        """Wait until nothing waits or runs; False if `deadline` (monotonic) came first."""
        while self.steps:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True

    @property
    def _over(self) -> bool:
        return self._stopped and not self._away

    def _full(self, steps: int, rate: float) -> ServingError:
        if steps > self._limit:  # waiting would not help
            text = f"{steps} steps are more than the queue's {self._limit}; send fewer at once"
            return BadInput(text, field="steps")
        text = f"{self.steps} steps wait already and the queue holds {self._limit}"
        return QueueFull(text, min(1.0, max(0.001, self.steps / max(rate, 1.0))))

    def _add(self, entry: Entry, index: NDArray[np.int64]) -> None:
        self._arrivals += 1
        entry.number = self._arrivals
        if (most := int(index.max())) >= len(self._last):
            self._last = lengthened(self._last, len(self._last) + most + 1)
        ahead = set(self._last[index].tolist()) - FREE
        self._last[index] = entry.number
        self._entries[entry.number] = entry
        for number in ahead:
            self._entries[number].blocked.append(entry)
        entry.blockers = len(ahead)
        if not ahead:
            self._next_round(entry)

    def _next_round(self, entry: Entry) -> None:
        parts = next(entry.rounds, None)
        if parts is None:
            self._release(entry)
            return
        for rows, width in parts:
            part = entry.part(rows, width)
            entry.unfinished += len(part.handles)
            self._let_in(part)

    def _let_in(self, part: Part) -> None:
        self._turns += 1
        part.turn = self._turns
        heappush(self._ready.setdefault(part.width, []), (part.entry.number, part.turn, part))

    def _release(self, entry: Entry) -> None:
        del self._entries[entry.number]
        index = entry.submission.handles & INDEX
        index = index[index < len(self._last)]  # rows that were not queued may be of anybody
        self._last[index[self._last[index] == entry.number]] = 0
        for other in entry.blocked:
            other.blockers -= 1
            if other.blockers == 0:
                self._next_round(other)

    def _next_width(self) -> int:
        # A chain of rounds is let in again and again; by turns it leaves the other widths theirs.
        return min(self._ready, key=lambda width: self._ready[width][0][1])

    def _pick(self, room: int) -> list[Picked]:
        width = self._next_width()
        parts = self._ready[width]
        picked: list[Picked] = []
        while parts and room:
            part = parts[0][2]
            start, stop = part.taken, part.taken + min(part.left, room)
            picked.append((part, start, stop))
            part.taken, room = stop, room - (stop - start)
            if part.left == 0:
                heappop(parts)
        if not parts:
            del self._ready[width]
        return picked


def _steps(submission: Submission, queued: Rows) -> int:
    if len(queued) == len(submission):
        return submission.steps
    return int(submission.lengths[queued].sum())
