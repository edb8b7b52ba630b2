"""Lanes of a stream: one that could not be named names nothing, and none holds up other callers."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator

import grpc
import pytest

from server.api.columns import MAX_ROWS
from tests.harness import RunningServer
from tests.server.wire.wire import batch, connected, failing, observations, reasons
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.v1.tidegate_pb2_grpc import TidegateStub
from tidegate.wire import MAX_OPENS

X = observations(21, 8)


def naming(lane: int, session_id: str, create: bool = True) -> pb.LaneOpen:
    return pb.LaneOpen(lane=lane, session_id=session_id, create=create)


def steps(stub: TidegateStub, session_id: str) -> int:
    return stub.Get(pb.GetRequest(model="small", session_id=session_id)).steps


def seconds(stub: TidegateStub, lanes: int) -> float:
    """The median message that names so many lanes, all of one session."""
    names = pb.StepBatch(model="small", opens=[naming(k, "renamed") for k in range(lanes)])
    took = []
    for _ in range(5):
        started = time.perf_counter()
        (reply,) = stub.StepStream(iter([names]))
        took.append(time.perf_counter() - started)
        assert len(reply.opened) == lanes
        assert not any(each.HasField("error") for each in reply.opened)
    return statistics.median(took)


def test_a_lane_that_could_not_be_named_anew_no_longer_steps_its_former_session(
    server: RunningServer,
) -> None:
    messages = [
        batch(1, [0, 1], X[:2], opens=[naming(0, "former"), naming(1, "beside")]),
        batch(2, [0, 1], X[2:4], opens=[naming(0, "never-opened", create=False)]),
        batch(3, [0, 1], X[4:6]),
        batch(4, [0, 1], X[6:8], opens=[naming(0, "former", create=False)]),
    ]
    with connected(server) as stub:
        *first, last = messages
        answered = (
            threading.Event()
        )  # what is still under way need not count in what a lane is told

        def sent() -> Iterator[pb.StepBatch]:
            yield from first
            answered.wait(60)
            yield last

        replies: dict[int, pb.StepBatchReply] = {}
        for reply in stub.StepStream(sent()):
            replies[reply.id] = reply
            if len(replies) == len(first):
                answered.set()
        assert replies[2].opened[0].error.reason == pb.REASON_UNKNOWN_SESSION
        assert reasons(replies[2]) == reasons(replies[3]) == {0: "UNKNOWN_LANE"}
        assert replies[4].opened[0].steps == 1
        assert (reasons(replies[4]), steps(stub, "former"), steps(stub, "beside")) == ({}, 2, 4)


def test_a_message_for_another_model_names_no_lanes(server: RunningServer) -> None:
    wrong = pb.StepBatch(id=2, model="other", opens=[naming(0, "misdirected")])
    messages = [pb.StepBatch(id=1, model="small"), wrong, batch(3, [0], X[0])]
    with connected(server) as stub:
        replies = {reply.id: reply for reply in stub.StepStream(iter(messages))}
        assert replies[2].errors[0].error.field == "model"
        assert not replies[2].opened
        assert reasons(replies[3]) == {0: "UNKNOWN_LANE"}
        with pytest.raises(grpc.RpcError) as caught:
            steps(stub, "misdirected")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("lanes", pb.StepBatch(id=2, lanes=bytes(4 * (MAX_ROWS + 1)))),
        ("lanes", pb.StepBatch(id=2, lanes=bytes(4_000_000), opens=[naming(0, "too-many")])),
        ("opens", pb.StepBatch(id=2, opens=[pb.LaneOpen()] * (MAX_OPENS + 1))),
    ],
)
def test_too_many_rows_or_lanes_in_a_message_are_refused_in_a_few_words(
    server: RunningServer, field: str, message: pb.StepBatch
) -> None:
    """Once an error for each of them: a message of 2 MB kept every caller waiting for seconds."""
    messages = [pb.StepBatch(id=1, model="small"), message, pb.StepBatch(id=3)]
    with connected(server) as stub:
        replies = {reply.id: reply for reply in stub.StepStream(iter(messages))}
    assert [(each.row, each.also, each.error.field) for each in replies[2].errors] == [
        (0, b"", field)
    ]
    assert (replies[2].status, list(replies[2].opened)) == (b"", [])
    assert not replies[3].errors


def test_lanes_beyond_all_reason_end_the_stream(server: RunningServer) -> None:
    """In memory they would be fifty times their bytes, so they are never unfolded."""
    messages = [pb.StepBatch(id=1, model="small"), pb.StepBatch(opens=[pb.LaneOpen()] * 1_000_000)]
    with connected(server) as stub:
        replies = stub.StepStream(iter(messages))
        assert next(replies).id == 1
        with failing("BAD_INPUT") as seen:
            next(replies)
    assert "far more fields" in seen[0].detail.message


def test_to_name_many_lanes_costs_no_more_for_each_than_to_name_few(server: RunningServer) -> None:
    """Once the names were copied for each lane: for 50,000 lanes every caller waited 8 seconds."""
    with connected(server) as stub:
        seconds(stub, 1)
        few, many = seconds(stub, MAX_OPENS // 16), seconds(stub, MAX_OPENS)
    assert many < 4 * 16 * few  # in proportion; a copy for each would make it 256 times
