"""Unary calls as fast as one core can make them: gRPC's completion queue, without a coroutine or a
thread a call, so that the server's core is the one that is full.

The private interface of grpcio, as in `server/transport/cq/core.py`. Every reply is looked at.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from grpc._cython import cygrpc  # type: ignore[attr-defined]
from numpy.typing import NDArray

from benchmarks.load import CYCLE, TOLERANCE, FollowedSession, WrongAnswer
from benchmarks.models import H64
from inference import grpc_service_pb2 as oip
from tidegate.v1 import packed_pb2

Floats = NDArray[np.float32]


class Connection:
    """Calls of one method, any number under way."""

    def __init__(self, address: str, method: str) -> None:
        self._channel = cygrpc.Channel(address.encode(), [("grpc.enable_retries", 0)], None)
        self._method = method.encode()
        self._handle = self._channel.get_registered_call_handle(self._method)

    def begin(self, request: bytes, session: Session) -> None:
        """Make a call; the session hears of its reply."""
        received, ended = (
            cygrpc.ReceiveMessageOperation(0),
            cygrpc.ReceiveStatusOnClientOperation(0),
        )

        def done(_: Any) -> None:
            if ended.code() != cygrpc.StatusCode.ok:
                raise WrongAnswer(f"status {ended.code()}: {ended.details()}")
            session.answered(received.message())

        operations = (
            cygrpc.SendInitialMetadataOperation(None, 0),
            cygrpc.SendMessageOperation(request, 0),
            cygrpc.SendCloseFromClientOperation(0),
            cygrpc.ReceiveInitialMetadataOperation(0),
            received,
            ended,
        )
        self._channel.integrated_call(
            0, self._method, None, None, None, None, ((operations, done),), None, self._handle
        )

    def turn(self) -> None:
        """Wait for a reply, and look at it.

        Raises:
            WrongAnswer: it is not what was asked for.
        """
        event = self._channel.next_call_event()
        event.tag(event)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close(cygrpc.StatusCode.cancelled, "done")


class Session(ABC):
    """One session, which makes its next call whenever one is answered, until told to stop."""

    method: str
    tolerance = TOLERANCE

    def __init__(self, connection: Connection, number: int, observations: Floats) -> None:
        self._connection, self.number = connection, number
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
        self._connection.begin(packed, self)

    def answered(self, packed: bytes) -> None:
        """Look at the reply to the last call, and make the next."""
        self.took.append(time.perf_counter() - self._since)
        self.look(packed)
        self.steps, self.waits = self.steps + 1, False
        if self.running:
            self.go()

    @property
    def name(self) -> str:
        """The session's id, of digits, for not everybody takes others."""
        return str(self.number)

    def leave(self) -> None:  # noqa: B027  # most have nothing to do
        """Make a last call, where others need to hear that no more come."""

    def look(self, packed: bytes) -> None:
        """Look at the reply to the last call. Raises WrongAnswer."""
        outputs = self.outputs(self.steps, packed)
        if self.followed:
            self._followed.answered(np.frombuffer(outputs, "<f4"))

    def check(self) -> int:
        """Compare all outputs with the NumPy LSTM's; returns how many steps that was.

        Raises:
            WrongAnswer: one is off.
        """
        return self._followed.check(self.tolerance)

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


class InferSession(Session):
    """By the Open Inference Protocol's `ModelInfer`. The first step opens the sequence, and the
    last one ends it: tritonserver has room for so many."""

    method = "/inference.GRPCInferenceService/ModelInfer"
    leaves = False

    def leave(self) -> None:
        """End the sequence."""
        self.leaves = True
        self.go()

    def request(self, step: int, features: bytes) -> bytes:
        """The sequence begins, or goes on."""
        request = oip.ModelInferRequest(model_name=H64.name, raw_input_contents=[features])
        request.inputs.add(name="input", datatype="FP32", shape=[1, H64.inputs])
        request.parameters["sequence_id"].int64_param = self.number
        if step == 0:
            request.parameters["sequence_start"].bool_param = True
        if self.leaves:
            request.parameters["sequence_end"].bool_param = True
        return request.SerializeToString()

    def outputs(self, step: int, packed: bytes) -> bytes:
        """The reply's only tensor."""
        (raw,) = oip.ModelInferResponse.FromString(packed).raw_output_contents
        return raw


class TritonSession(InferSession):
    """The same on tritonserver, whose model here computes in numpy."""

    tolerance = 1e-4


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

    def check(self) -> int:
        """Every one has been looked at."""
        return self.steps
