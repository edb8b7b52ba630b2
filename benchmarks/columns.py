"""Streams that keep a server busy: messages of rows, several under way on each connection.

Messages are built beforehand and only their step numbers change. Every reply is checked for its
status and its step numbers.
"""

from __future__ import annotations

import select
import time
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.http2 import Connection
from benchmarks.load import CYCLE, TOLERANCE, FollowedSession, WrongAnswer
from benchmarks.models import H64
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.wire import MAX_OPENS

Floats = NDArray[np.float32]
METHOD = "/tidegate.v1.Tidegate/StepStream"


class ColumnsLoad:
    """`connections`, each with a stream of `groups` of `rows` sessions, which share messages.
    `in_flight` messages are under way on each, of the groups in turn; as many as there are, unless
    it is said."""

    def __init__(
        self,
        address: str,
        name: str,
        rows: int,
        groups: int,
        connections: int = 1,
        in_flight: int = 0,
    ) -> None:
        self.streams = [
            _Stream(address, f"{name}-{number}", rows, groups, in_flight or groups)
            for number in range(connections)
        ]
        for stream in self.streams:
            stream.open()

    @property
    def steps(self) -> int:
        """Steps answered so far."""
        return sum(stream.steps for stream in self.streams)

    @property
    def took(self) -> list[float]:
        """Seconds from each message to its reply, so far."""
        return [each for stream in self.streams for group in stream.groups for each in group.took]

    def go(self) -> None:
        """Send every message."""
        for stream in self.streams:
            stream.running = True
            stream.go()

    def run(self, seconds: float) -> None:
        """Keep them under way for so long.

        Raises:
            WrongAnswer: a reply's status or step number is not what was asked for.
        """
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            self._turn()

    def rest(self) -> None:
        """Take the last replies, and send nothing until it is to `go` again."""
        for stream in self.streams:
            stream.running = False
        while any(stream.waits for stream in self.streams):
            self._turn()

    def leave(self) -> None:
        """Close the connections."""
        for stream in self.streams:
            stream.connection.close()

    def finish(self, tolerance: float = TOLERANCE) -> int:
        """Take the last replies, compare a session's outputs with the NumPy LSTM's, and leave;
        returns how many steps that was."""
        self.rest()
        self.leave()
        return self.streams[0].groups[0].followed.check(tolerance)

    def _turn(self) -> None:
        if len(self.streams) == 1:
            self.streams[0].connection.turn()
            return
        for stream in self.streams:
            stream.connection.flush()
        ready, _, _ = select.select([stream.connection for stream in self.streams], [], [])
        for connection in ready:
            connection.turn()


class _Stream:
    def __init__(self, address: str, name: str, rows: int, groups: int, in_flight: int) -> None:
        self.connection, self._name, self._rows = Connection(address), name, rows
        self._in_flight = in_flight
        self.groups = [_Group(k, rows) for k in range(groups)]
        self._idle = deque(self.groups)
        self.steps, self.waits, self.running = 0, 0, True
        self._hears: Callable[[pb.StepBatchReply], None] = self._opened
        self._stream = self.connection.begin(
            METHOD, lambda packed: self._hears(pb.StepBatchReply.FromString(packed))
        )

    def open(self) -> None:
        """Name the lanes, and wait until they are named."""
        opens = [
            pb.LaneOpen(lane=lane, session_id=f"{self._name}-{lane}", create=True)
            for lane in range(self._rows * len(self.groups))
        ]
        for at in range(0, len(opens), MAX_OPENS):
            some = pb.StepBatch(model=H64.name, opens=opens[at : at + MAX_OPENS])
            self.waits += 1
            self._stream.send(some.SerializeToString())
        while self.waits:
            self.connection.turn()
        self._hears = self._answered

    def go(self) -> None:
        """Send as many messages as may be under way."""
        for _ in range(self._in_flight):
            self._say()

    def _opened(self, reply: pb.StepBatchReply) -> None:
        if not all(lane.created for lane in reply.opened):
            raise WrongAnswer(f"{self._name}: not every lane opened a session")
        self.waits -= 1

    def _answered(self, reply: pb.StepBatchReply) -> None:
        group = self.groups[reply.id]
        group.check(reply)
        self.steps, self.waits = self.steps + self._rows, self.waits - 1
        self._idle.append(group)
        if self.running:
            self._say()

    def _say(self) -> None:
        """The message of the group that has waited longest."""
        self.waits += 1
        self._stream.send(self._idle.popleft().next())


class _Group:
    """The sessions that share messages: lanes k * rows and on, always at the same step."""

    def __init__(self, k: int, rows: int) -> None:
        features = _observations(rows, seed=k)
        lanes = np.arange(k * rows, (k + 1) * rows, dtype="<u4").tobytes()
        self._messages = [
            pb.StepBatch(id=k, lanes=lanes, features=each.tobytes()) for each in features
        ]
        self._step, self._numbers = 0, np.zeros(rows, dtype="<u8")
        self._applied = bytes(rows)
        self.took: list[float] = []
        self.followed = FollowedSession(features[:, 0])

    def next(self) -> bytes:
        """The message of the next step."""
        message = self._messages[self._step % CYCLE]
        self._numbers[:] = self._step
        message.first_steps = self._numbers.tobytes()
        self._since = time.perf_counter()
        return message.SerializeToString()

    def check(self, reply: pb.StepBatchReply) -> None:
        """Every row applied, under the number sent."""
        self.took.append(time.perf_counter() - self._since)
        numbers = self._messages[self._step % CYCLE].first_steps
        if reply.status != self._applied or reply.first_steps != numbers:
            raise WrongAnswer(f"step {self._step} of group {reply.id}: {reply.errors[:1]}")
        outputs = np.frombuffer(reply.outputs, dtype="<f4").reshape(len(numbers) // 8, -1)
        self.followed.answered(outputs[0].copy())
        self._step += 1


def _observations(sessions: int, seed: int = 0) -> Floats:
    """f32 [CYCLE, sessions, I]."""
    shape = (CYCLE, sessions, H64.inputs)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
