"""Triton's own clients, as their users hold them, and what the model should answer."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient import grpc as triton
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from tests.harness import RunningServer
from tidegate.v1 import tidegate_pb2
from training.network import Network
from training.reference import NumpyNetwork

WIDTH, OUTPUTS = 5, 3
TOLERANCE = 1e-5
Floats = NDArray[np.float32]


def observations(steps: int, seed: int = 0) -> Floats:
    """Raw features [steps, WIDTH]."""
    return np.random.default_rng(seed).normal(0, 2, (steps, WIDTH)).astype(np.float32)


def expected(weights: Network, xs: Floats) -> Floats:
    """What a sequence that saw exactly `xs` answers."""
    lstm = NumpyNetwork(weights)
    return lstm.run(xs, lstm.initial())[0].astype(np.float32)


def name() -> str:
    """A sequence id nobody has used."""
    return f"call-{uuid4()}"


def tensor(x: Floats) -> Any:
    """One observation as an input."""
    given = triton.InferInput("input", [1, WIDTH], "FP32")
    given.set_data_from_numpy(x.reshape(1, WIDTH))
    return given


@contextmanager
def client(server: RunningServer) -> Iterator[Any]:
    """A synchronous client."""
    connection = triton.InferenceServerClient(server.address)
    try:
        yield connection
    finally:
        connection.close()


def step(connection: Any, x: Floats, sequence: str | int, **more: Any) -> Floats:
    """One unary step; its outputs [OUTPUTS]."""
    result = connection.infer("small", [tensor(x)], sequence_id=sequence, **more)
    return np.array(result.as_numpy("y")[0])


def play(connection: Any, xs: Floats, sequence: str | int) -> Floats:
    """A whole sequence, from START to END."""
    last = len(xs) - 1
    return np.array(
        [
            step(connection, x, sequence, sequence_start=k == 0, sequence_end=k == last)
            for k, x in enumerate(xs)
        ]
    )


@contextmanager
def stream(connection: Any, **more: Any) -> Iterator[queue.Queue[Any]]:
    """A client's stream; replies and errors arrive in the queue."""
    replies: queue.Queue[Any] = queue.Queue()
    connection.start_stream(callback=lambda result, error: replies.put(error or result), **more)
    try:
        yield replies
    finally:
        connection.stop_stream()


def request(sequence: Any, x: Floats | None = None, **parameters: Any) -> Any:
    """A raw request; parameters as messages or as bool, int or str."""
    x = np.zeros(WIDTH, np.float32) if x is None else x
    message = pb.ModelInferRequest(model_name="small", raw_input_contents=[x.tobytes()])
    message.inputs.add(name="input", datatype="FP32", shape=[1, WIDTH])
    given = parameters if sequence is None else {"sequence_id": sequence, **parameters}
    for key, value in given.items():
        message.parameters[key].CopyFrom(parameter(value))
    return message


def parameter(value: Any) -> Any:
    """A parameter's value as a message."""
    if isinstance(value, bool):
        return pb.InferParameter(bool_param=value)
    if isinstance(value, int):
        return pb.InferParameter(int64_param=value)
    return pb.InferParameter(string_param=value) if isinstance(value, str) else value


@dataclass(frozen=True)
class Refusal:
    """How a raw call was refused."""

    code: grpc.StatusCode
    text: str
    reason: str


@contextmanager
def raw(server: RunningServer) -> Iterator[Any]:
    """The protocol's stub, without a client library."""
    with grpc.insecure_channel(server.address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def refusal(stub: Any, message: Any, **more: Any) -> Refusal:
    """Send a request that must be refused."""
    try:
        stub.ModelInfer(message, **more)
    except grpc.RpcError as error:
        entries: Any = error.trailing_metadata()
        packed = dict(entries)["tidegate-error-bin"]
        detail = tidegate_pb2.ErrorDetail.FromString(packed)
        assert detail.code == error.code().value[0]
        reason = tidegate_pb2.Reason.Name(detail.reason).removeprefix("REASON_")
        return Refusal(error.code(), error.details() or "", reason)
    raise AssertionError("the request was not refused")
