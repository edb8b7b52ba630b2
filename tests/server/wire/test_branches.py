"""Fork, Reset and Peek."""

from __future__ import annotations

import numpy as np

from tests.conftest import SmallModel
from tests.harness import RunningServer
from tests.server.wire.whole import assert_close, begin, expected, flat
from tests.server.wire.wire import (
    connected,
    failing,
    observations,
    outputs,
    step_request,
)
from tidegate.v1 import tidegate_pb2 as pb
from training.reference import NumpyLstm


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
    lstm = NumpyLstm(small.weights)
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
