"""Features that may be missing: NaN goes in wherever a step does, in those features alone."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as oip
from tritonclient.grpc import service_pb2_grpc

from tests.harness import RunningServer, running_server
from tests.server.gaps import SIDES, WEIGHTS, gappy_model
from tests.server.transports import NATIVE, over
from tests.server.wire.wire import (
    Floats,
    batch,
    connected,
    failing,
    in_order,
    observations,
    outputs,
    reasons,
    rows_of,
    step_request,
)
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.v1.tidegate_pb2_grpc import TidegateStub
from training.reference import NumpyNetwork

pytestmark = over(NATIVE)

OTHER_NAN = np.array([0xFFC0BEEF], np.uint32).view(np.float32)[0]
X = observations(3, 8)
X[1:5, 1] = np.nan
X[3, 3] = np.nan
FILLED = np.nan_to_num(X)


@pytest.fixture(scope="module")
def gappy(transport: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of a model whose x1 and x3 may be missing."""
    repository = tmp_path_factory.mktemp("models")
    gappy_model(repository)
    with running_server(repository) as server:
        yield server


@pytest.fixture
def stub(gappy: RunningServer) -> Iterator[TidegateStub]:
    """A connection with the session `one`."""
    with connected(gappy) as stub:
        stub.Open(pb.OpenRequest(model="small", session_id="one"))
        yield stub
        stub.Close(pb.CloseRequest(model="small", session_id="one"))


def expected() -> Floats:
    """What the equations make of the gaps filled with 0."""
    network = NumpyNetwork(WEIGHTS)
    return network.run(FILLED, network.initial())[0].astype(np.float32)


def infer(server: RunningServer, x: Floats) -> Floats:
    request = oip.ModelInferRequest(model_name="small", raw_input_contents=[x.tobytes()])
    request.inputs.add(name="input", datatype="FP32", shape=[1, 5])
    request.parameters["sequence_id"].string_param = "oip"
    request.parameters["sequence_start"].bool_param = True
    request.parameters["sequence_end"].bool_param = True
    with grpc.insecure_channel(server.address) as channel:
        reply = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    return np.frombuffer(reply.raw_output_contents[0], "<f4")


def test_unary_steps_and_chunks_take_nan_where_a_feature_may_be_missing(
    stub: TidegateStub,
) -> None:
    first = outputs(stub.Step(step_request("one", 0, X[0])))
    second = outputs(stub.Step(step_request("one", 1, X[1])))
    rest = outputs(stub.Step(step_request("one", 2, X[2:])))
    np.testing.assert_allclose(np.concatenate([first, second, rest]), expected(), atol=2e-5)


def test_columns_take_nan_where_a_feature_may_be_missing(stub: TidegateStub) -> None:
    lane = [pb.LaneOpen(lane=0, session_id="one")]
    messages = [batch(k, [0], X[k], [k], opens=lane) for k in range(8)]
    replies = in_order(stub.StepStream(iter(messages)))
    assert [reasons(reply) for reply in replies] == [{}] * 8
    found = np.concatenate([rows_of(reply) for reply in replies])
    np.testing.assert_allclose(found, expected(), atol=2e-5)


def test_inference_requests_and_forecasts_take_nan_likewise(
    gappy: RunningServer, stub: TidegateStub
) -> None:
    plain = outputs(stub.Step(step_request("one", 0, FILLED[3])))[0]
    np.testing.assert_array_equal(infer(gappy, X[3]), plain)
    asked = [pb.ForecastRequest(model="small", session_id="one", steps=4, features=x.ravel())
             for x in (X[1:5], FILLED[1:5])]  # fmt: skip
    gaps, filled = (list(stub.Forecast(each).outputs) for each in asked)
    assert gaps == filled


@pytest.mark.parametrize(("column", "value"), [(0, np.nan), (4, np.nan), (1, np.inf), (3, -np.inf)])
def test_nan_in_any_other_feature_and_infinity_in_all_are_refused_by_name(
    gappy: RunningServer, stub: TidegateStub, column: int, value: float
) -> None:
    bad = X[1:4].copy()
    bad[1, column] = value
    with failing("BAD_INPUT") as seen:
        stub.Step(step_request("one", 0, bad))
    assert (seen[0].detail.feature, seen[0].detail.index) == (f"x{column}", 1)
    assert (f"{value}; values must be finite, or NaN" in seen[0].detail.message) == (column % 2)
    with pytest.raises(grpc.RpcError, match=f"'x{column}'"):
        infer(gappy, bad[1])
    with failing("BAD_INPUT"):
        stub.Forecast(
            pb.ForecastRequest(model="small", session_id="one", steps=3, features=bad.ravel())
        )


def test_a_bad_row_among_gaps_is_the_only_one_refused(stub: TidegateStub) -> None:
    lanes = [pb.LaneOpen(lane=k, session_id=f"row-{k}", create=True) for k in range(8)]
    bad = X.copy()
    bad[2, 1], bad[5, 0] = np.inf, np.nan
    (reply,) = stub.StepStream(iter([batch(1, range(8), bad, opens=lanes)]))
    assert reasons(reply) == {2: "BAD_INPUT", 5: "BAD_INPUT"}
    assert [each.error.feature for each in reply.errors] == ["x1", "x0"]


def test_a_retry_is_recognised_whatever_bits_its_nan_has(stub: TidegateStub) -> None:
    again = X.copy()
    again[np.isnan(X)] = OTHER_NAN
    assert again.tobytes() != X.tobytes()
    changed = X.copy()
    changed[4, 1] = 0.0
    lane = [pb.LaneOpen(lane=0, session_id="one")]
    messages = [batch(k, [0], x, [0], [8], opens=lane) for k, x in enumerate((X, again, changed))]
    first, retry, other = in_order(stub.StepStream(iter(messages)))
    assert (list(first.status), list(retry.status)) == ([0], [1])
    assert first.outputs == retry.outputs
    assert reasons(other) == {0: "STEP_CONFLICT"}


def test_callers_learn_which_features_may_be_missing_and_which_have_labels(
    stub: TidegateStub,
) -> None:
    (model,) = stub.ListModels(pb.ListModelsRequest()).models
    assert [each.missing for each in model.features] == [False, True, False, True, False]
    assert [tuple(each.labels) for each in model.features] == [()] * 4 + [SIDES]
