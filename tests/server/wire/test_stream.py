"""The columnar stream: many sessions, chunks, repeated lanes, deadlines, closed sessions."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from tests.conftest import SmallModel
from tests.harness import RunningServer, running_server
from tests.server.wire.wire import (
    batch,
    connected,
    failing,
    in_order,
    observations,
    reasons,
    rows_of,
)
from tidegate.v1 import tidegate_pb2 as pb
from training.reference import NumpyNetwork


def opens(prefix: str, count: int) -> list[pb.LaneOpen]:
    return [pb.LaneOpen(lane=k, session_id=f"{prefix}-{k}", create=True) for k in range(count)]


def test_many_sessions_in_columns_equal_the_reference(
    server: RunningServer, small: SmallModel
) -> None:
    x = np.stack([observations(k, 30) for k in range(200)])
    messages = [pb.StepBatch(id=0, model="small", opens=opens("columns", 200))]
    messages += [batch(t + 1, range(200), x[:, t], [t] * 200) for t in range(30)]
    with connected(server) as stub:
        replies = {reply.id: reply for reply in stub.StepStream(iter(messages))}
    assert all(opened.created for opened in replies[0].opened)
    reference = NumpyNetwork(small.weights)
    got = np.stack([rows_of(replies[t + 1]) for t in range(30)], axis=1)
    for k in range(200):
        expected, _ = reference.run(x[k], reference.initial())
        np.testing.assert_allclose(got[k], expected, atol=1e-5)


def test_one_message_may_carry_chunks_and_the_same_lane_again(
    server: RunningServer, small: SmallModel
) -> None:
    x, y = observations(1, 12), observations(2, 3)
    message = batch(
        1,
        [0, 1, 0, 0],
        np.concatenate([x[:4], y, x[4:5], x[5:12]]),
        first_steps=[0, 0, 4, 5],
        lengths=[4, 3, 1, 7],
        opens=opens("again", 2),
    )
    with connected(server) as stub:
        (reply,) = stub.StepStream(iter([message]))
    assert list(reply.status) == [0, 0, 0, 0]
    reference = NumpyNetwork(small.weights)
    of_x, _ = reference.run(x, reference.initial())
    of_y, _ = reference.run(y, reference.initial())
    expected = np.concatenate([of_x[:4], of_y, of_x[4:]])
    np.testing.assert_allclose(rows_of(reply), expected, atol=1e-5)


def test_a_resent_message_is_answered_from_memory_on_another_stream(server: RunningServer) -> None:
    x = np.stack([observations(k, 1)[0] for k in range(50)])
    message = batch(1, range(50), x, [0] * 50, opens=opens("resent", 50))
    with connected(server) as stub:
        (first,) = stub.StepStream(iter([message]))
        (second,) = stub.StepStream(iter([message]))
    assert list(first.status) == [0] * 50
    assert list(second.status) == [1] * 50
    assert second.outputs == first.outputs
    assert [opened.steps for opened in second.opened] == [1] * 50


def test_replies_tell_the_numbers_of_unnumbered_steps(server: RunningServer) -> None:
    x = observations(9, 3)
    messages = [
        batch(t, [0], x[t], opens=opens("unnumbered", 1) if t == 0 else ()) for t in range(3)
    ]
    with connected(server) as stub:
        replies = in_order(stub.StepStream(iter(messages)))
    assert [int(np.frombuffer(reply.first_steps, "<u8")[0]) for reply in replies] == [0, 1, 2]


def test_a_session_closed_behind_a_lane_says_so(server: RunningServer) -> None:
    x = observations(3, 2)
    sent: queue.Queue[pb.StepBatch | None] = queue.Queue()

    def requests() -> Iterator[pb.StepBatch]:
        while (message := sent.get()) is not None:
            yield message

    with connected(server) as stub:
        replies = stub.StepStream(requests())
        sent.put(batch(1, [0], x[0], [0], opens=opens("closing", 1)))
        assert list(next(replies).status) == [0]
        stub.Close(pb.CloseRequest(model="small", session_id="closing-0"))
        sent.put(batch(2, [0], x[1], [1]))
        late = next(replies)
        sent.put(None)
    assert reasons(late) == {0: "CLOSED"}


def test_a_lane_never_reaches_the_slot_s_next_holder(small: SmallModel) -> None:
    x = observations(4, 2)
    with running_server(small.repository, max_sessions=1) as server, connected(server) as stub:
        first = [batch(1, [0], x[0], [0], opens=opens("holder-a", 1))]
        list(stub.StepStream(iter(first)))
        stub.Close(pb.CloseRequest(model="small", session_id="holder-a-0"))
        stub.Open(pb.OpenRequest(model="small", session_id="holder-b"))
        old = pb.LaneOpen(lane=0, session_id="holder-a-0")
        (reply,) = stub.StepStream(iter([batch(2, [0], x[1], [1], opens=[old])]))
        assert reply.opened[0].error.reason == pb.REASON_CLOSED
        assert stub.Get(pb.GetRequest(model="small", session_id="holder-b")).steps == 0


def test_a_message_larger_than_the_queue_is_refused_and_nothing_is_lost(small: SmallModel) -> None:
    x = observations(5, 64)
    flags = {"max_queued_steps": 32}
    with running_server(small.repository, **flags) as server, connected(server) as stub:
        big = batch(1, range(64), x, [0] * 64, opens=opens("full", 64))
        half = batch(2, range(32), x[:32], [0] * 32)
        first, second = in_order(stub.StepStream(iter([big, half])))
        assert reasons(first) == dict.fromkeys(range(64), "BAD_INPUT")
        assert "more than the queue's 32" in first.errors[0].error.message
        assert list(second.status) == [0] * 32
        assert server.metric("tidegate_steps_total") == 32


def test_a_full_queue_refuses_at_once_and_applies_what_it_took(small: SmallModel) -> None:
    x = np.repeat(observations(5, 1), 60, axis=0)
    flags = {"max_queued_steps": 64, "max_batch": 1}
    with running_server(small.repository, **flags) as server, connected(server) as stub:
        lanes = [pb.StepBatch(id=0, model="small", opens=opens("full", 60))]
        messages = [batch(number, range(60), x) for number in range(1, 31)]
        _, *replies = stub.StepStream(iter(lanes + messages))
        refused = [reply for reply in replies if reply.errors]
        assert refused and len(refused) < 30
        for reply in refused:
            assert reasons(reply) == dict.fromkeys(range(60), "QUEUE_FULL")
            assert 1 <= reply.errors[0].error.retry_after_ms <= 1000
        assert server.metric("tidegate_steps_total") == 60 * (30 - len(refused))


def test_rows_past_their_time_are_dropped_and_change_nothing(server: RunningServer) -> None:
    x = np.stack([observations(k, 1)[0] for k in range(300)])
    with connected(server) as stub:
        late = batch(1, range(300), x, [0] * 300, opens=opens("late", 300), timeout_us=1)
        (reply,) = stub.StepStream(iter([late]))
        assert set(reasons(reply).values()) <= {"DEADLINE"}
        for k in range(0, 300, 50):
            steps = stub.Get(pb.GetRequest(model="small", session_id=f"late-{k}")).steps
            assert steps == (0 if reply.status[k] == 2 else 1)
    assert set(reply.status) == {2}


def test_a_cancelled_stream_leaves_the_server_serving(server: RunningServer) -> None:
    x = observations(6, 1)
    stop = threading.Event()

    def endless() -> Iterator[pb.StepBatch]:
        yield pb.StepBatch(id=0, model="small", opens=opens("cancelled", 8))
        step = 0
        while not stop.is_set() and step < 5000:
            yield batch(step + 1, range(8), np.repeat(x, 8, axis=0), [step] * 8)
            step += 1

    with connected(server) as stub:
        call = stub.StepStream(endless())
        for _ in range(20):
            next(call)
        call.cancel()
        stop.set()
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        assert caught.value.code() is grpc.StatusCode.CANCELLED
        (reply,) = stub.StepStream(iter([batch(1, [0], x, [0], opens=opens("after", 1))]))
        assert list(reply.status) == [0]


def test_a_stream_without_a_model_is_refused(server: RunningServer) -> None:
    with connected(server) as stub, failing("UNKNOWN_MODEL"):
        list(stub.StepStream(iter([pb.StepBatch(id=1)])))
