"""Inputs of steps that were applied and that the server's store has not got yet.

A server with a store writes sessions behind. After a crash it comes back at a session's last stored
step, and the client sends again what followed it. So each `Course` keeps the inputs of its applied
steps until the server says that they are stored. A server without a store has nothing kept for it.
"""

from __future__ import annotations

from weakref import WeakSet

from tidegate.options import Replay


class Kept:
    """The inputs of one session's steps `first` to before `end`, in packed bytes.

    Args:
        step_bytes: bytes of one step's features.
        most_bytes: past it the oldest are forgotten; 0 keeps nothing.
        most_steps: the longest row that may be sent.
    """

    __slots__ = (
        "__weakref__",
        "data",
        "end",
        "first",
        "most_bytes",
        "most_steps",
        "step_bytes",
        "turn",
    )

    def __init__(self, step_bytes: int = 4, most_bytes: int = 0, most_steps: int = 1) -> None:
        self.step_bytes, self.most_bytes, self.most_steps = step_bytes, most_bytes, most_steps
        self.data = bytearray()
        self.first = self.end = 0
        self.turn = 0
        """When something was last kept: a number that grows."""

    def add(self, number: int, packed: bytes, steps: int, durable: int, turn: int) -> None:
        """Keep the inputs of the applied steps from `number`, of which those below `durable` need
        not be kept. What is kept already, or was, is not kept twice."""
        end = number + steps
        if end > self.end:
            if number != self.end:
                self.data.clear()
                self.first = number
            self.data += packed
            self.end, self.turn = end, turn
            if len(self.data) > self.most_bytes:
                self.forget(len(self.data) - self.most_bytes)
        if durable > self.first:
            self.stored(durable)

    def stored(self, durable: int) -> None:
        """The server's store has every step below `durable`."""
        self.forget((min(durable, self.end) - self.first) * self.step_bytes)

    def forget(self, size: int) -> int:
        """Forget the oldest inputs, at least `size` bytes in whole steps; returns the bytes."""
        steps = min(-(-size // self.step_bytes), self.end - self.first)
        if steps <= 0:
            return 0
        del self.data[: steps * self.step_bytes]
        self.first += steps
        return steps * self.step_bytes

    def clear(self, number: int = 0) -> None:
        """Keep nothing; the next step is `number`."""
        self.data.clear()
        self.first = self.end = number

    def piece(self, start: int, stop: int) -> bytes | None:
        """The packed inputs of steps `start` to before `stop`, or as many as a row may have; None
        where not all of them are kept."""
        if not self.first <= start < stop <= self.end:
            return None
        stop = min(stop, start + self.most_steps)
        low, high = (self.step_bytes * (step - self.first) for step in (start, stop))
        return bytes(self.data[low:high])


class Keeping:
    """Bounds what the sessions of one model version keep.

    `grew` counts upward only, which costs next to nothing; what has left since is found out where
    the bound is met. A session that nobody holds any more goes with its `Kept`.
    """

    def __init__(self, limits: Replay, step_bytes: int, most_steps: int) -> None:
        self._step_bytes, self._most_steps = step_bytes, most_steps
        self._session_bytes, self._most_bytes = limits.kept_steps * step_bytes, limits.kept_bytes
        self._all: WeakSet[Kept] = WeakSet()
        self._bytes = 0
        self.turn = 0
        """How many messages had something kept, which tells what was kept before what."""

    def of_session(self) -> Kept:
        """For one session's inputs."""
        kept = Kept(self._step_bytes, self._session_bytes, self._most_steps)
        self._all.add(kept)
        return kept

    def grew(self, size: int) -> None:
        """At most so many bytes more are kept. Near the bound those of the sessions that were
        stepped longest ago are forgotten, until it is half used."""
        self._bytes += size
        if self._bytes <= self._most_bytes:
            return
        self._bytes = sum(len(each.data) for each in self._all)
        if self._bytes > self._most_bytes * 7 // 8:  # so that counting stays seldom
            self._shrink(self._most_bytes // 2)

    def _shrink(self, size: int) -> None:
        for each in sorted(self._all, key=lambda kept: kept.turn):
            if self._bytes <= size:
                return
            self._bytes -= each.forget(self._bytes - size)
