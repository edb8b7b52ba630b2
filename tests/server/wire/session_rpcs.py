"""Short ways to begin, move and look into whole sessions over a real channel."""

from __future__ import annotations

import numpy as np

from tests.conftest import SmallModel
from tests.server.wire.wire import Floats
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.v1 import tidegate_pb2_grpc
from training.reference import NumpyNetwork, State

Stub = tidegate_pb2_grpc.TidegateStub


def assert_close(got: Floats, wanted: Floats) -> None:
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)


def expected(small: SmallModel, xs: Floats) -> Floats:
    """What the equations say to `xs`, from the initial state."""
    lstm = NumpyNetwork(small.weights)
    return lstm.run(xs, lstm.initial())[0].astype(np.float32)


def flat(state: State) -> list[Floats]:
    """h0, c0, h1, c1 of the reference's state."""
    return [np.asarray(each, np.float32) for pair in state for each in pair]


def begin(stub: Stub, name: str, xs: Floats, model: str = "small") -> None:
    """A session that has seen `xs`."""
    stub.Open(pb.OpenRequest(model=model, session_id=name))
    if len(xs):
        request = pb.StepRequest(model=model, session_id=name, first_step=0, steps=len(xs))
        request.features.extend(xs.ravel().tolist())
        stub.Step(request)


def exported(stub: Stub, name: str, model: str = "small") -> pb.Snapshot:
    return stub.Export(pb.ExportRequest(model=model, session_id=name))


def taken(stub: Stub, snapshot: pb.Snapshot, name: str = "", replace: bool = False) -> pb.Session:
    """The session that an import made."""
    request = pb.ImportRequest(snapshot=snapshot, session_id=name, replace=replace)
    return stub.Import(request).session


def state(stub: Stub, name: str, model: str = "small") -> list[bytes]:
    """A session's states, bit by bit."""
    peeked = stub.Peek(pb.PeekRequest(model=model, session_id=name))
    return [tensor.data for tensor in peeked.states]


def forecast(
    stub: Stub, name: str, steps: int, given: Floats | None = None, model: str = "small"
) -> Floats:
    """The outputs [steps, O] of the next steps."""
    request = pb.ForecastRequest(model=model, session_id=name, steps=steps)
    if given is not None:
        request.features.extend(given.ravel().tolist())
    return np.array(stub.Forecast(request).outputs, np.float32).reshape(steps, -1)
