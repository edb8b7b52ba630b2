"""Export and Import: a session goes on elsewhere as it was, or is refused by name."""

from __future__ import annotations

import queue

import grpc
import numpy as np

from tests.conftest import SmallModel
from tests.harness import RunningServer, running_server
from tests.server.transports import NATIVE, over
from tests.server.wire.session_rpcs import assert_close, begin, expected, exported, flat, taken
from tests.server.wire.wire import (
    batch,
    connected,
    failing,
    observations,
    outputs,
    reasons,
    step_request,
)
from tidegate.v1 import tidegate_pb2 as pb
from training.reference import NumpyNetwork

pytestmark = over(NATIVE)


def test_a_session_goes_on_under_another_id(server: RunningServer, small: SmallModel) -> None:
    xs = observations(1, 20)
    with connected(server) as stub:
        begin(stub, "moving", xs[:12])
        snapshot = exported(stub, "moving")
        session = taken(stub, snapshot, "moved")
        assert (session.session_id, session.steps, session.version) == ("moved", 12, 1)
        for name in ("moved", "moving"):
            reply = stub.Step(step_request(name, 12, xs[12:]))
            assert_close(outputs(reply), expected(small, xs)[12:])


def test_a_session_survives_its_server_in_a_snapshot(small: SmallModel) -> None:
    """The server is killed, and others go on: with as much memory, and with more."""
    xs = observations(2, 110)
    with running_server(small.repository) as first, connected(first) as stub:
        begin(stub, "a", xs[:50])
        stub.Step(step_request("a", 50, xs[50:100]))
        snapshot = exported(stub, "a")
        packed = snapshot.SerializeToString()
        first.process.kill()
    for remembered in (64, 200):
        with (
            running_server(small.repository, remembered_steps=remembered) as second,
            connected(second) as stub,
        ):
            assert taken(stub, pb.Snapshot.FromString(packed)).steps == 100
            moved = exported(stub, "a")
            moved.taken_at.CopyFrom(snapshot.taken_at)
            assert moved == snapshot
            again = stub.Step(step_request("a", 36, xs[36:100]))  # a retry from before the move
            assert again.remembered
            assert_close(outputs(again), expected(small, xs)[36:100])
            with failing("STEP_CONFLICT"):
                stub.Step(step_request("a", 95, xs[95:100] + 1))
            with failing("STEP_TOO_OLD"):  # which the snapshot did not bring
                stub.Step(step_request("a", 35, xs[35]))
            reply = stub.Step(step_request("a", 100, xs[100:]))
            assert not reply.remembered
            assert_close(outputs(reply), expected(small, xs)[100:])


def test_a_session_without_a_step_moves_too(server: RunningServer, small: SmallModel) -> None:
    xs = observations(3, 4)
    with connected(server) as stub:
        begin(stub, "unborn", xs[:0])
        snapshot = exported(stub, "unborn")
        assert {state.name for state in snapshot.states} == {"h0", "c0", "h1", "c1"}
        assert not any(any(state.data) for state in snapshot.states)
        assert taken(stub, snapshot, "born").steps == 0
        assert_close(outputs(stub.Step(step_request("born", 0, xs))), expected(small, xs))


def test_a_live_session_is_replaced_only_where_that_is_asked_for(
    server: RunningServer, small: SmallModel
) -> None:
    xs, other = observations(4, 10), observations(5, 3)
    with connected(server) as stub:
        begin(stub, "source", xs[:6])
        snapshot = exported(stub, "source")
        begin(stub, "target", other)
        with failing("SESSION_EXISTS") as seen:
            taken(stub, snapshot, "target")
        assert seen[0].status is grpc.StatusCode.ALREADY_EXISTS
        assert stub.Get(pb.GetRequest(model="small", session_id="target")).steps == 3
        assert taken(stub, snapshot, "target", replace=True).steps == 6
        assert_close(outputs(stub.Step(step_request("target", 6, xs[6:]))), expected(small, xs)[6:])


def test_the_lane_of_a_replaced_session_goes_on(server: RunningServer, small: SmallModel) -> None:
    xs, other = observations(6, 8), observations(7, 2)
    with connected(server) as stub:
        begin(stub, "origin", xs[:5])
        snapshot = exported(stub, "origin")

        messages: queue.Queue[pb.StepBatch | None] = queue.Queue()
        replies = stub.StepStream(iter(messages.get, None))
        opens = [pb.LaneOpen(lane=0, session_id="lane", create=True)]
        messages.put(batch(0, [0], other, [0], [2], opens))
        assert next(replies).status == b"\0"
        taken(stub, snapshot, "lane", replace=True)
        spoiled = xs[4:6].copy()
        spoiled[0] += 1
        messages.put(batch(1, [0, 0], spoiled, [4, 5]))
        messages.put(None)
        (last,) = replies
        assert reasons(last) == {0: "STEP_CONFLICT"}
        assert_close(np.frombuffer(last.outputs, "<f4"), expected(small, xs)[5])


def test_a_draining_server_takes_no_sessions_in_and_still_gives_them_away(
    small: SmallModel,
) -> None:
    """Its last second is when they are wanted elsewhere; what it takes in would be lost."""
    with running_server(small.repository) as server, connected(server) as stub:
        begin(stub, "leaving", observations(4, 3))
        snapshot = exported(stub, "leaving")
        messages: queue.Queue[pb.StepBatch | None] = queue.Queue()
        replies = stub.StepStream(iter(messages.get, None))
        opens = [pb.LaneOpen(lane=0, session_id="leaving")]
        messages.put(batch(0, [0], observations(5, 1), opens=opens))
        assert next(replies).status == b"\0"
        server.process.terminate()
        while True:
            try:
                stub.Open(pb.OpenRequest(model="small", session_id="leaving"))
                stub.Step(step_request("leaving", None, observations(5, 1)))
            except grpc.RpcError:
                break
        for name, replace in (("new", False), ("leaving", True)):
            with failing("DRAINING"):
                taken(stub, snapshot, name, replace)
        with failing("DRAINING"):
            stub.Fork(pb.ForkRequest(model="small", session_id="leaving", new_session_id="b"))
        assert exported(stub, "leaving").steps >= 4
        messages.put(None)
        assert server.process.wait(20) == 0


def test_an_export_under_load_is_of_a_whole_number_of_steps(
    server: RunningServer, small: SmallModel
) -> None:
    """Each snapshot's state is the one after exactly its count of steps."""
    burst, bursts = 50, 12
    xs = observations(10, burst * bursts)
    lstm = NumpyNetwork(small.weights)
    sent: queue.SimpleQueue[pb.StepBatch | None] = queue.SimpleQueue()
    counts: list[int] = []
    with connected(server) as stub, connected(server) as beside:
        replies = stub.StepStream(iter(sent.get, None))
        opens = [pb.LaneOpen(lane=0, session_id="busy", create=True)]
        sent.put(pb.StepBatch(id=0, model="small", opens=opens))
        next(replies)
        for start in range(0, len(xs), burst):
            for k in range(start, start + burst):
                sent.put(batch(k + 1, [0], xs[k : k + 1], [k]))
            snapshot = beside.Export(pb.ExportRequest(model="small", session_id="busy"))
            counts.append(snapshot.steps)
            _, state = lstm.run(xs[: snapshot.steps], lstm.initial())
            for tensor, values in zip(snapshot.states, flat(state), strict=True):
                assert_close(np.frombuffer(tensor.data, "<f4"), values)
            for _ in range(burst):
                assert next(replies).status == b"\0"
        sent.put(None)
        assert not list(replies)
    assert len(set(counts)) > 3, counts
