"""Fork, Reset and Peek."""

from __future__ import annotations

import queue

import numpy as np

from tests.conftest import SmallModel
from tests.harness import RunningServer
from tests.server.transports import NATIVE, over
from tests.server.wire.session_rpcs import assert_close, begin, expected, flat, state
from tests.server.wire.wire import (
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
from training.reference import NumpyNetwork

pytestmark = over(NATIVE)


def test_branches_go_their_own_ways(server: RunningServer, small: SmallModel) -> None:
    xs, left, right = observations(1, 6), observations(2, 5), observations(3, 5)
    with connected(server) as stub:
        begin(stub, "trunk", xs)
        for branch in ("left", "right"):
            request = pb.ForkRequest(model="small", session_id="trunk", new_session_id=branch)
            assert stub.Fork(request).steps == 6
        for name, more in (("left", left), ("right", right), ("trunk", left)):
            reply = stub.Step(step_request(name, 6, more))
            assert_close(outputs(reply), expected(small, np.concatenate([xs, more]))[6:])
        again = stub.Step(step_request("left", 4, xs[4:]))  # what it remembers of the trunk
        assert again.remembered
        with failing("SESSION_EXISTS"):
            stub.Fork(pb.ForkRequest(model="small", session_id="trunk", new_session_id="left"))
        with failing("UNKNOWN_SESSION"):
            stub.Fork(pb.ForkRequest(model="small", session_id="nobody", new_session_id="x"))
        with failing("BAD_INPUT"):
            stub.Fork(pb.ForkRequest(model="small", session_id="trunk", new_session_id=""))


def test_a_reset_session_starts_from_nothing(server: RunningServer, small: SmallModel) -> None:
    xs = observations(4, 9)
    with connected(server) as stub:
        begin(stub, "started-again", xs)
        request = pb.ResetRequest(model="small", session_id="started-again")
        assert stub.Reset(request).steps == 0
        with failing("STEP_GAP") as seen:
            stub.Step(step_request("started-again", 9, xs))
        assert seen[0].detail.expected_step == 0
        reply = stub.Step(step_request("started-again", 0, xs))
        assert not reply.remembered
        assert_close(outputs(reply), expected(small, xs))


def test_a_peek_shows_the_state_of_the_equations(server: RunningServer, small: SmallModel) -> None:
    xs = observations(5, 11)
    lstm = NumpyNetwork(small.weights)
    with connected(server) as stub:
        begin(stub, "seen", xs)
        peeked = stub.Peek(pb.PeekRequest(model="small", session_id="seen"))
        assert peeked.session.steps == 11
        assert [tensor.name for tensor in peeked.states] == ["h0", "c0", "h1", "c1"]
        for tensor, wanted in zip(
            peeked.states, flat(lstm.run(xs, lstm.initial())[1]), strict=True
        ):
            assert (tensor.dtype, list(tensor.shape)) == ("float32", [12])
            assert_close(np.frombuffer(tensor.data, "<f4"), wanted)


def test_a_fork_outlives_its_original(server: RunningServer, small: SmallModel) -> None:
    """Its slot goes to another session, and it remembers as many steps as any."""
    xs, others = observations(14, 110), observations(15, 70)
    with connected(server) as stub:
        begin(stub, "parent", xs[:50])
        stub.Step(step_request("parent", 50, xs[50:100]))
        request = pb.ForkRequest(model="small", session_id="parent", new_session_id="child")
        stub.Fork(request)
        stub.Close(pb.CloseRequest(model="small", session_id="parent"))
        begin(stub, "stranger", others[:60])
        again = stub.Step(step_request("child", 40, xs[40:100]))
        assert again.remembered
        assert_close(outputs(again), expected(small, xs)[40:100])
        with failing("STEP_TOO_OLD"):
            stub.Step(step_request("child", 35, xs[35]))
        assert_close(
            outputs(stub.Step(step_request("child", 100, xs[100:]))), expected(small, xs)[100:]
        )
        assert_close(
            outputs(stub.Step(step_request("stranger", 60, others[60:]))),
            expected(small, others)[60:],
        )


def test_a_lane_goes_on_after_a_reset(server: RunningServer, small: SmallModel) -> None:
    xs = observations(16, 6)
    with connected(server) as stub:
        messages: queue.Queue[pb.StepBatch | None] = queue.Queue()
        replies = stub.StepStream(iter(messages.get, None))
        opens = [pb.LaneOpen(lane=0, session_id="laned", create=True)]
        messages.put(batch(0, [0], xs[:4], [0], [4], opens))
        assert next(replies).status == b"\0"
        stub.Reset(pb.ResetRequest(model="small", session_id="laned"))
        messages.put(batch(1, [0, 0, 0], xs[[4, 0, 1]], [4, 0, 1]))
        messages.put(batch(2, [0], xs[2:], None, [4]))
        messages.put(None)
        first, second = in_order(replies)
        assert reasons(first) == {0: "STEP_GAP"}
        assert_close(rows_of(first), expected(small, xs)[:2])
        assert np.frombuffer(second.first_steps, "<u8") == 2
        assert_close(rows_of(second), expected(small, xs)[2:])


def test_a_session_without_a_step_shows_its_initial_state(server: RunningServer) -> None:
    """Not what the slot's last holder left there."""
    with connected(server) as stub:
        begin(stub, "earlier", observations(17, 5))
        assert any(map(any, state(stub, "earlier")))
        stub.Close(pb.CloseRequest(model="small", session_id="earlier"))
        begin(stub, "later", observations(17, 0))
        assert state(stub, "later") == [bytes(48)] * 4
        begin(stub, "put-back", observations(17, 5))
        stub.Reset(pb.ResetRequest(model="small", session_id="put-back"))
        assert state(stub, "put-back") == [bytes(48)] * 4
