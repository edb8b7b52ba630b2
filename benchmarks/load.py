"""Clients that keep a server busy: unary calls, or messages of rows on one stream.

Requests are built beforehand and only their step numbers change, so that the load costs its core as
little as grpc.aio allows. Every reply is checked for its status and its step numbers, and one
session's outputs are compared with the NumPy LSTM's.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from benchmarks.models import H64
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.v1 import tidegate_pb2_grpc
from training.reference import NumpyNetwork

Floats = NDArray[np.float32]
# Each session is fed these many different observations, in turn.
CYCLE = 4
TOLERANCE = 1e-5


class WrongAnswer(AssertionError):
    """A reply is not what the load's inputs ask for; the message says which."""


def check_outputs(observations: Floats, outputs: Floats, tolerance: float = TOLERANCE) -> int:
    """Compare outputs [T, O] of a session with the NumPy h64's; returns T.

    The session was fed `observations` [K, I] in turn, over and over, from its first step.

    Raises:
        WrongAnswer: an output is off by more than `tolerance`, or there is none.
    """
    if not len(outputs):
        raise WrongAnswer("no step was answered")
    inputs = np.resize(observations, (len(outputs), H64.inputs))
    model = NumpyNetwork(H64.weights())
    expected, _ = model.run(inputs, model.initial())
    error = np.abs(outputs - expected).max(axis=1)
    if not error.max() <= tolerance:
        raise WrongAnswer(f"step {int(error.argmax())} is off by {error.max():.2g}")
    return len(outputs)


class FollowedSession:
    """All outputs of one of a load's sessions, which is fed `observations` [K, I] in turn."""

    def __init__(self, observations: Floats) -> None:
        self._observations = observations
        self._outputs: list[Floats] = []

    def answered(self, outputs: Floats) -> None:
        """Keep the outputs [O] of the session's next step."""
        self._outputs.append(outputs)

    def check(self, tolerance: float = TOLERANCE) -> int:
        """Compare them with the NumPy h64's; returns how many steps that was.

        Raises:
            WrongAnswer: as `check_outputs`.
        """
        outputs = np.array(self._outputs, np.float32)
        return check_outputs(self._observations, outputs, tolerance)


class Load(ABC):
    """Sessions of h64 stepped until stopped; `steps` counts what was answered."""

    def __init__(self, channel: grpc.aio.Channel, name: str) -> None:
        self.name, self.steps = name, 0
        self._stub: Any = tidegate_pb2_grpc.TidegateStub(channel)
        self._running = True

    @abstractmethod
    async def open(self) -> None:
        """Open the sessions."""

    @abstractmethod
    async def run(self) -> None:
        """Step them until `stop`, and take the last replies.

        Raises:
            WrongAnswer: a reply's status or step number is not what was asked for.
        """

    @property
    @abstractmethod
    def followed(self) -> FollowedSession:
        """One of the sessions."""

    def stop(self) -> None:
        """Send no more."""
        self._running = False


class UnaryLoad(Load):
    """`in_flight` sessions, each with one unary Step under way."""

    def __init__(self, channel: grpc.aio.Channel, name: str, in_flight: int) -> None:
        super().__init__(channel, name)
        self._features = _observations(in_flight)
        self._followed = FollowedSession(self._features[:, 0])

    @property
    def followed(self) -> FollowedSession:
        return self._followed

    async def open(self) -> None:
        for session in range(self._features.shape[1]):
            await self._stub.Open(pb.OpenRequest(model=H64.name, session_id=self._id(session)))

    async def run(self) -> None:
        await asyncio.gather(*map(self._step, range(self._features.shape[1])))

    async def _step(self, session: int) -> None:
        requests = [
            pb.StepRequest(model=H64.name, session_id=self._id(session), features=row[session])
            for row in self._features
        ]
        step = 0
        while self._running:
            request = requests[step % CYCLE]
            request.first_step = step
            reply = await self._stub.Step(request)
            if reply.first_step != step or reply.remembered:
                raise WrongAnswer(f"step {step} was answered as {reply.first_step}")
            if session == 0:
                self._followed.answered(np.array(reply.outputs, dtype=np.float32))
            step += 1
            self.steps += 1

    def _id(self, session: int) -> str:
        return f"{self.name}-{session}"


class StreamLoad(Load):
    """`in_flight` messages under way on one stream, each with `rows` sessions of its own."""

    def __init__(self, channel: grpc.aio.Channel, name: str, in_flight: int, rows: int) -> None:
        super().__init__(channel, name)
        self._rows = rows
        self._groups = [_Group(k, _observations(rows, seed=k)) for k in range(in_flight)]
        self._call: Any = None

    @property
    def followed(self) -> FollowedSession:
        return self._groups[0].followed

    async def open(self) -> None:
        opens = [
            pb.LaneOpen(lane=lane, session_id=f"{self.name}-{lane}", create=True)
            for lane in range(self._rows * len(self._groups))
        ]
        self._call = self._stub.StepStream()
        await self._call.write(pb.StepBatch(model=H64.name, opens=opens))
        reply = await self._call.read()
        if not all(lane.created for lane in reply.opened):
            raise WrongAnswer(f"{self.name}: not every lane opened a session")

    async def run(self) -> None:
        for group in self._groups:
            await self._call.write(group.next())
        waiting = len(self._groups)
        while waiting:
            reply = await self._call.read()
            group = self._groups[reply.id]
            group.check(reply)
            self.steps += self._rows
            if self._running:
                await self._call.write(group.next())
            else:
                waiting -= 1
        await self._call.done_writing()
        if await self._call.read() is not grpc.aio.EOF:
            raise WrongAnswer("the stream goes on after its last reply")


class _Group:
    """The sessions that share messages: lanes k * rows and on, always at the same step."""

    def __init__(self, k: int, features: Floats) -> None:
        rows = features.shape[1]
        lanes = np.arange(k * rows, (k + 1) * rows, dtype="<u4").tobytes()
        self._messages = [
            pb.StepBatch(id=k, lanes=lanes, features=each.tobytes()) for each in features
        ]
        self._step, self._numbers = 0, np.zeros(rows, dtype="<u8")
        self._applied = bytes(rows)
        self.followed = FollowedSession(features[:, 0])

    def next(self) -> pb.StepBatch:
        """The message of the next step."""
        message = self._messages[self._step % CYCLE]
        self._numbers[:] = self._step
        message.first_steps = self._numbers.tobytes()
        return message

    def check(self, reply: pb.StepBatchReply) -> None:
        """Every row applied, under the number sent."""
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
