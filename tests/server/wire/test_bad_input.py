"""Bad input over a real channel: a typed error that names the culprit, and nothing changed."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from tests.harness import RunningServer
from tests.server.transports import NATIVE, over
from tests.server.wire.wire import (
    Failure,
    batch,
    connected,
    failing,
    in_order,
    observations,
    outputs,
    reasons,
    step_request,
)
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.v1.tidegate_pb2_grpc import TidegateStub

X = observations(11, 8)
USUAL = 65_536
MAX_CHUNK, INPUTS, STATES = 64, 5, 2 * 2 * 12  # of the small model


@pytest.fixture
def stub(server: RunningServer) -> Iterator[TidegateStub]:
    """A connection with the session `victim`, which bad input must leave at its two steps."""
    with connected(server) as stub:
        stub.Open(pb.OpenRequest(model="small", session_id="victim"))
        before = stub.Step(step_request("victim", 0, X[:2]))
        yield stub
        after = stub.Step(step_request("victim", 0, X[:2]))
        assert after.remembered and list(after.outputs) == list(before.outputs)
        assert stub.Close(pb.CloseRequest(model="small", session_id="victim")).steps == 2


def refused(stub: TidegateStub, reason: str, request: pb.StepRequest) -> Failure:
    with failing(reason) as seen:
        stub.Step(request)
    return seen[0]


@pytest.mark.parametrize("name", ["nobody", "", "../../etc", "small/1", "s" * 10_000])
def test_an_unknown_model_is_named(stub: TidegateStub, name: str) -> None:
    failure = refused(stub, "UNKNOWN_MODEL", step_request("victim", 2, X[2], model=name))
    assert failure.status is grpc.StatusCode.NOT_FOUND
    assert repr(name[:300]) in failure.detail.message


def test_an_unknown_version_is_named(stub: TidegateStub) -> None:
    request = step_request("victim", 2, X[2])
    request.version = 42
    assert "42" in refused(stub, "UNKNOWN_VERSION", request).detail.message


def test_an_unknown_session_is_named(stub: TidegateStub) -> None:
    failure = refused(stub, "UNKNOWN_SESSION", step_request("stranger", 0, X[0]))
    assert failure.status is grpc.StatusCode.NOT_FOUND
    assert "'stranger'" in failure.detail.message


@pytest.mark.parametrize("count", [0, 1, 4, 6, 10])
def test_a_wrong_number_of_features_is_refused(stub: TidegateStub, count: int) -> None:
    request = pb.StepRequest(model="small", session_id="victim", features=[1.0] * count)
    failure = refused(stub, "BAD_INPUT", request)
    assert failure.status is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.detail.field == "features"
    assert f"{count} values" in failure.detail.message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named_by_feature_and_step(
    stub: TidegateStub, value: float
) -> None:
    features = X[2:6].copy()
    features[2, 3] = value
    detail = refused(stub, "BAD_INPUT", step_request("victim", 2, features)).detail
    assert (detail.field, detail.feature, detail.index) == ("features", "x3", 2)


def test_a_chunk_longer_than_the_model_takes_is_refused(stub: TidegateStub) -> None:
    features = np.zeros((65, 5), np.float32)
    detail = refused(stub, "BAD_INPUT", step_request("victim", 2, features)).detail
    assert detail.field == "steps"
    assert "64" in detail.message


def test_a_step_gap_and_an_absurd_number_are_refused(stub: TidegateStub) -> None:
    assert refused(stub, "STEP_GAP", step_request("victim", 9, X[2])).detail.expected_step == 2
    huge = refused(stub, "BAD_INPUT", step_request("victim", 2**64 - 1, X[2]))
    assert huge.detail.field == "first_step"


@pytest.mark.parametrize("session_id", ["", "x" * 257, "é" * 129])
def test_an_id_empty_or_too_long_is_refused(stub: TidegateStub, session_id: str) -> None:
    with failing("BAD_INPUT") as seen:
        stub.Open(pb.OpenRequest(model="small", session_id=session_id))
    assert seen[0].detail.field == "session_id"
    assert str(len(session_id.encode())) in seen[0].detail.message


def test_the_longest_id_is_accepted(stub: TidegateStub) -> None:
    name = "é" * 128
    assert stub.Open(pb.OpenRequest(model="small", session_id=name)).created
    stub.Close(pb.CloseRequest(model="small", session_id=name))


@pytest.mark.parametrize("token", ["rubbish", "x/y", "/", "-1/a", "9" * 5000 + "/a"])
def test_a_page_token_of_our_own_making_is_asked_for(stub: TidegateStub, token: str) -> None:
    with failing("BAD_INPUT") as seen:
        stub.List(pb.ListRequest(model="small", page_token=token))
    assert seen[0].detail.field == "page_token"


def test_an_oversized_message_is_refused(stub: TidegateStub, server: RunningServer) -> None:
    request = pb.StepRequest(model="small", session_id="victim", features=[0.0] * 5_000_000)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Step(request)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in str(caught.value.details())
    assert server.process.poll() is None


def test_rubbish_bytes_are_refused(stub: TidegateStub, server: RunningServer) -> None:
    with grpc.insecure_channel(server.address) as channel:
        for method in ("Step", "Open", "Close", "Get", "List"):
            path = f"/tidegate.v1.Tidegate/{method}"
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
            with pytest.raises(grpc.RpcError):
                call(b"\xff\xfe rubbish \x00" * 7)
    assert server.process.poll() is None


def test_a_huge_but_finite_value_leaves_its_neighbours_right(stub: TidegateStub) -> None:
    stub.Open(pb.OpenRequest(model="small", session_id="huge"))
    huge = np.full((1, 5), 3.4e38, np.float32)
    assert np.isfinite(outputs(stub.Step(step_request("huge", 0, huge)))).all()
    stub.Close(pb.CloseRequest(model="small", session_id="huge"))


def one_row(**more: object) -> pb.StepBatch:
    return pb.StepBatch(id=5, lanes=bytes(4), features=bytes(20), **more)  # type: ignore[arg-type]


def opens(*names: str) -> list[pb.LaneOpen]:
    return [pb.LaneOpen(lane=k, session_id=name, create=True) for k, name in enumerate(names)]


def test_a_bad_row_of_a_stream_never_harms_its_neighbours(stub: TidegateStub) -> None:
    features = X[:4].copy()
    features[1, 2] = np.nan
    messages = [
        batch(1, [0, 1, 9, 2], features, [0] * 4, opens=opens("good-a", "bad-b", "good-c")),
        batch(2, [0, 1, 2], X[4:7], [1, 0, 1]),
    ]
    first, second = in_order(stub.StepStream(iter(messages)))
    assert reasons(first) == {1: "BAD_INPUT", 2: "UNKNOWN_LANE"}
    assert list(first.status) == [0, 2, 2, 0]
    assert first.errors[0].error.feature == "x2"
    assert len(first.outputs) == 2 * 3 * 4
    assert (reasons(second), list(second.status)) == ({}, [0, 0, 0])
    for name in ("good-a", "bad-b", "good-c"):
        stub.Close(pb.CloseRequest(model="small", session_id=name))


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.StepBatch(id=5, lanes=b"\0\0\0"), "lanes"),
        (pb.StepBatch(id=5, lanes=bytes(4), features=bytes(7)), "features"),
        (pb.StepBatch(id=5, lanes=bytes(4), features=bytes(16)), "features"),
        (one_row(first_steps=bytes(16)), "first_steps"),
        (one_row(first_steps=b"\xff" * 8), "first_steps"),
        (one_row(lengths=bytes(8)), "lengths"),
        (one_row(lengths=bytes(4)), "steps"),
        (one_row(lengths=b"\xff" * 4), "steps"),
        (one_row(model="other"), "model"),
    ],
)
def test_malformed_columns_are_named_and_the_stream_lives_on(
    stub: TidegateStub, message: pb.StepBatch, field: str
) -> None:
    messages = [
        pb.StepBatch(id=4, model="small", opens=[pb.LaneOpen(lane=0, session_id="victim")]),
        message,
        batch(6, [0], X[1], [1]),
    ]
    replies = {reply.id: reply for reply in stub.StepStream(iter(messages))}
    assert replies[4].opened[0].steps == 2
    assert {e.error.field for e in replies[5].errors} == {field}
    assert list(replies[6].status) == [1]


def test_a_lane_for_an_unknown_session_says_so(stub: TidegateStub) -> None:
    lane = pb.LaneOpen(lane=3, session_id="never-opened")
    (reply,) = stub.StepStream(iter([batch(1, [3], X[0], opens=[lane])]))
    assert reply.opened[0].error.reason == pb.REASON_UNKNOWN_SESSION
    assert reasons(reply) == {0: "UNKNOWN_LANE"}


def test_a_lane_number_out_of_range_is_refused(stub: TidegateStub) -> None:
    lane = pb.LaneOpen(lane=2**32 - 1, session_id="far", create=True)
    (reply,) = stub.StepStream(iter([pb.StepBatch(id=1, model="small", opens=[lane])]))
    assert reply.opened[0].error.field == "opens.lane"
    with failing("UNKNOWN_SESSION"):
        stub.Get(pb.GetRequest(model="small", session_id="far"))


def test_a_stream_of_an_unknown_model_ends_with_the_error(stub: TidegateStub) -> None:
    with failing("UNKNOWN_MODEL"):
        list(stub.StepStream(iter([pb.StepBatch(id=1, model="nobody")])))


@over(NATIVE)
@pytest.mark.parametrize(
    ("method", "most"),
    [
        ("tidegate.v1.Tidegate/Get", USUAL),
        ("tidegate.v1.Tidegate/Step", USUAL + 4 * MAX_CHUNK * INPUTS),
        ("tidegate.v1.Tidegate/Import", (1 << 20) + 2 * 4 * STATES),
        ("tidegate.v1.Admin/Describe", USUAL),
        ("inference.GRPCInferenceService/ModelInfer", 1 << 20),
    ],
)
@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_a_message_is_as_large_as_its_method_needs(
    server: RunningServer, method: str, most: int, compression: grpc.Compression
) -> None:
    with grpc.insecure_channel(server.address) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{method}")
        for size in (most, most + 1):
            with pytest.raises(grpc.RpcError) as caught:
                call(b"\xff" * size, compression=compression)
            too_large = caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert too_large == (size > most), caught.value
            if too_large and compression is grpc.Compression.NoCompression:
                assert caught.value.details() == (
                    f"SERVER: Received message larger than max ({size} vs. {most})"
                )
