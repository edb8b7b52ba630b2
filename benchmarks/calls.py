"""Calls of sessions, unary or on a stream of each, which make their next once one is answered;
every reply is looked at."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.http2 import Connection, Stream
from benchmarks.load import CYCLE, TOLERANCE, FollowedSession, WrongAnswer
from benchmarks.models import H64
from tidegate.v1 import packed_pb2
from tidegate.v1 import tidegate_pb2 as pb

Floats = NDArray[np.float32]
OPEN_MANY = "/tidegate.v1.Tidegate/OpenMany"


class Session(ABC):
    """One session, which makes its next call whenever one is answered, until told to stop."""

    method: str
    tolerance = TOLERANCE

    def __init__(
        self, connection: Connection, number: int, observations: Floats, name: str = ""
    ) -> None:
        self._connection, self.number = connection, number
        self.name = name or str(number)
        """The session's id, of digits unless it is given, for not everybody takes others."""
        self._observations = [each.astype("<f4").tobytes() for each in observations]
        self._followed = FollowedSession(observations)
        self.followed = False
        """Whether its outputs are kept, to be compared with the NumPy LSTM's."""
        self.steps, self.running, self.waits = 0, False, False
        self.took: list[float] = []
        """Seconds that each call took."""

    def go(self, since: float | None = None) -> None:
        """Make the next call; its time counts from `since`, by `time.perf_counter`, or from now."""
        packed = self.request(self.steps, self._observations[self.steps % CYCLE])
        self.waits, self._since = True, time.perf_counter() if since is None else since
        self.send(packed)

    def send(self, packed: bytes) -> None:
        """Send a step's request."""
        self._connection.begin(self.method, self.answered).send(packed, last=True)

    def answered(self, packed: bytes) -> None:
        """Look at the reply to the last call, and make the next."""
        self.took.append(time.perf_counter() - self._since)
        self.look(packed)
        self.steps, self.waits = self.steps + 1, False
        if self.running:
            self.go()

    def leave(self) -> None:  # noqa: B027  # most have nothing to do
        """Make a last call, where others need to hear that no more come."""

    def look(self, packed: bytes) -> None:
        """Look at the reply to the last call. Raises WrongAnswer."""
        outputs = self.outputs(self.steps, packed)
        if self.followed:
            self._followed.answered(np.frombuffer(outputs, "<f4"))

    def check(self, tolerance: float | None = None) -> int:
        """Compare all outputs with the NumPy LSTM's; returns how many steps that was.

        Raises:
            WrongAnswer: one is off.
        """
        return self._followed.check(self.tolerance if tolerance is None else tolerance)

    @abstractmethod
    def request(self, step: int, features: bytes) -> bytes:
        """The bytes of a step's request."""

    @abstractmethod
    def outputs(self, step: int, packed: bytes) -> bytes:
        """The outputs f32 [O] in a step's reply. Raises WrongAnswer."""


class StepSession(Session):
    """By the unary `Step`."""

    method = "/tidegate.v1.Tidegate/Step"

    def request(self, step: int, features: bytes) -> bytes:
        """Numbered."""
        return packed_pb2.PackedStepRequest(
            model=H64.name, session_id=self.name, first_step=step, features=features
        ).SerializeToString()

    def outputs(self, step: int, packed: bytes) -> bytes:
        """Those of that number, applied just now."""
        reply = packed_pb2.PackedStepReply.FromString(packed)
        if reply.first_step != step or reply.remembered:
            raise WrongAnswer(f"step {step} was answered as {reply.first_step}")
        return reply.outputs


class Streamed(Session):
    """A session whose steps all go by one stream of its own."""

    _stream: Stream | None = None

    def send(self, packed: bytes) -> None:
        """On the stream."""
        if self._stream is None:
            self._stream = self._connection.begin(self.method, self.answered)
        self._stream.send(packed)


class StreamSession(Streamed):
    """By `StepStream`, a row a message; the first opens the session."""

    method = "/tidegate.v1.Tidegate/StepStream"

    def request(self, step: int, features: bytes) -> bytes:
        """Numbered."""
        message = pb.StepBatch(lanes=bytes(4), features=features)
        message.first_steps = step.to_bytes(8, "little")
        if step == 0:
            message.model = H64.name
            message.opens.add(lane=0, session_id=self.name, create=True)
        return message.SerializeToString()

    def outputs(self, step: int, packed: bytes) -> bytes:
        """Those of that number, applied just now."""
        reply = pb.StepBatchReply.FromString(packed)
        if reply.status != bytes(1) or reply.first_steps != step.to_bytes(8, "little"):
            raise WrongAnswer(f"step {step} was answered with {reply.status!r} {reply.errors}")
        return reply.outputs


class EchoSession(StepSession):
    """A `Step`'s bytes, sent back as they are (see `echo`)."""

    method = "/echo"

    def look(self, packed: bytes) -> None:
        """The same bytes."""
        if packed != self._sent:
            raise WrongAnswer(f"echo {self.steps} was another")

    def request(self, step: int, features: bytes) -> bytes:
        """Kept, to be compared."""
        self._sent = super().request(step, features)
        return self._sent

    def check(self, tolerance: float | None = None) -> int:
        """Every one has been looked at."""
        return self.steps


class UnaryLoad:
    """`in_flight` sessions, each with one unary `Step` under way."""

    def __init__(self, address: str, name: str, in_flight: int) -> None:
        self._connection = Connection(address)
        shape = in_flight, CYCLE, H64.inputs
        drawn = np.random.default_rng(in_flight).normal(size=shape).astype(np.float32)
        self._sessions = [
            StepSession(self._connection, number, each, f"{name}-{number}")
            for number, each in enumerate(drawn)
        ]
        self._sessions[0].followed = True
        open_all(self._connection, self._sessions)

    @property
    def steps(self) -> int:
        """Steps answered so far."""
        return sum(session.steps for session in self._sessions)

    @property
    def took(self) -> list[float]:
        """Seconds that each call took, so far."""
        return [each for session in self._sessions for each in session.took]

    def go(self) -> None:
        """Make every session's call."""
        for session in self._sessions:
            session.running = True
            session.go()

    def run(self, seconds: float) -> None:
        """Keep every session busy for so long. Raises WrongAnswer."""
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            self._connection.turn()

    def finish(self, tolerance: float = TOLERANCE) -> int:
        """Take the last replies; returns how many steps were compared with the NumPy LSTM's."""
        for session in self._sessions:
            session.running = False
        while any(session.waits for session in self._sessions):
            self._connection.turn()
        self._connection.close()
        return self._sessions[0].check(tolerance)


def open_all(connection: Connection, sessions: Sequence[Session]) -> None:
    """Open sessions, of which the server must know nothing. Raises WrongAnswer."""
    ids = [session.name for session in sessions]
    request = pb.OpenManyRequest(model=H64.name, session_ids=ids).SerializeToString()
    replies: list[bytes] = []
    connection.begin(OPEN_MANY, replies.append).send(request, last=True)
    while not replies:
        connection.turn()
    outcomes = pb.OpenManyReply.FromString(replies[0]).outcomes
    if not all(outcome.opened.created for outcome in outcomes):
        raise WrongAnswer("not every session was opened")
