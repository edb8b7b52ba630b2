"""Unary calls as fast as one core can make them, so that the server's core is the one that is full:
HTTP/2 by hand, without a coroutine, a thread or a channel a call. Every reply is looked at."""

from __future__ import annotations

import socket
import time
from abc import ABC, abstractmethod
from typing import Final

import numpy as np
from hpack import Encoder
from numpy.typing import NDArray

from benchmarks.load import CYCLE, TOLERANCE, FollowedSession, WrongAnswer
from benchmarks.models import H64
from inference import grpc_service_pb2 as oip
from server.transport.http2 import frames
from server.transport.http2.headers import Heads
from tidegate.v1 import packed_pb2

Floats = NDArray[np.float32]

READ: Final = 1 << 18
WINDOW: Final = 1 << 30


class Connection:
    """Calls of one method, any number under way."""

    def __init__(self, address: str, method: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._out = [frames.PREFACE, frames.settings([(frames.INITIAL_WINDOW_SIZE, WINDOW)])]
        self._out.append(frames.window_update(0, WINDOW))
        self._credit, self._rest, self._next = WINDOW, b"", 1
        self._heads, self._encoder = Heads(dict), Encoder()
        self._fields = [
            (":method", "POST"), (":scheme", "http"), (":path", method), (":authority", address),
            ("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "benchmark"),
        ]  # fmt: skip
        self._head: bytes | None = None
        self._waiting: dict[int, Session] = {}
        self._replies: dict[int, bytes] = {}

    def begin(self, request: bytes, session: Session) -> None:
        """Make a call; the session hears of its reply."""
        stream, self._next = self._next, self._next + 2
        self._waiting[stream] = session
        size = len(request) + 5
        self._out += (
            frames.frame(frames.HEADERS, frames.END_HEADERS, stream, self._headers()),
            frames.HEAD.pack(size >> 8, size & 0xFF, frames.DATA, frames.END_STREAM, stream),
            b"\0" + frames.NUMBER.pack(len(request)),
            request,
        )

    def _headers(self) -> bytes:
        """After the first time, from the tables."""
        if self._head is None:
            first, self._head = self._encoder.encode(self._fields), b""
            return first
        self._head = self._head or self._encoder.encode(self._fields)
        return self._head

    def turn(self) -> None:
        """Make the calls that were begun, wait for replies, and look at them.

        Raises:
            WrongAnswer: one is not what was asked for.
        """
        self._flush()
        come = self._socket.recv(READ)
        if not come:
            raise WrongAnswer("the server has gone")
        come, at = self._rest + come, 0
        while len(come) - at >= frames.HEAD_SIZE:
            high, low, kind, flags, stream = frames.HEAD.unpack_from(come, at)
            start = at + frames.HEAD_SIZE
            end = start + (high << 8 | low)
            if end > len(come):
                break
            self._take(kind, flags, stream, come[start:end])
            at = end
        self._rest = come[at:]

    def _flush(self) -> None:
        out, self._out = b"".join(self._out), []
        if out:
            self._socket.sendall(out)

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == frames.DATA:
            self._replies[stream] = self._replies.get(stream, b"") + payload
            self._credit -= len(payload)
            if self._credit < WINDOW // 2:
                self._out.append(frames.window_update(0, WINDOW - self._credit))
                self._credit = WINDOW
        elif kind == frames.HEADERS:
            said = self._heads.read(payload)
            if flags & frames.END_STREAM:
                self._end(stream, said)
        elif kind in (frames.PING, frames.SETTINGS) and not flags & frames.ACK:
            self._out.append(frames.frame(kind, frames.ACK, 0, payload * (kind == frames.PING)))
        elif kind in (frames.RST_STREAM, frames.GOAWAY):
            raise WrongAnswer(f"the server gave up: {payload!r}")

    def _end(self, stream: int, trailers: dict[bytes, bytes]) -> None:
        if trailers[b"grpc-status"] != b"0":
            raise WrongAnswer(f"a call ended with {trailers}")
        self._waiting.pop(stream).answered(self._replies.pop(stream)[5:])

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


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
