"""Export and Import: a session goes on elsewhere as it was, or is refused by name."""

from __future__ import annotations

import queue
import re
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.conftest import SmallModel
from tests.harness import RunningServer, running_server, small_model
from tests.server.wire.wire import (
    Floats,
    batch,
    connected,
    failing,
    observations,
    outputs,
    reasons,
    step_request,
)
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.v1 import tidegate_pb2_grpc
from training.reference import NumpyLstm

Stub = tidegate_pb2_grpc.TidegateStub


def assert_close(got: Floats, wanted: Floats) -> None:
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)


def expected(small: SmallModel, xs: Floats) -> Floats:
    lstm = NumpyLstm(small.weights)
    return lstm.run(xs, lstm.initial())[0].astype(np.float32)


def begin(stub: Stub, name: str, xs: Floats) -> pb.Snapshot:
    """A session that has seen `xs`, exported."""
    stub.Open(pb.OpenRequest(model="small", session_id=name))
    if len(xs):
        stub.Step(step_request(name, 0, xs))
    return stub.Export(pb.ExportRequest(model="small", session_id=name))


def taken(stub: Stub, snapshot: pb.Snapshot, name: str = "", replace: bool = False) -> pb.Session:
    request = pb.ImportRequest(snapshot=snapshot, session_id=name, replace=replace)
    return stub.Import(request).session


def test_a_session_goes_on_under_another_id(server: RunningServer, small: SmallModel) -> None:
    xs = observations(1, 20)
    with connected(server) as stub:
        snapshot = begin(stub, "moving", xs[:12])
        session = taken(stub, snapshot, "moved")
        assert (session.session_id, session.steps, session.version) == ("moved", 12, 1)
        for name in ("moved", "moving"):
            reply = stub.Step(step_request(name, 12, xs[12:]))
            assert_close(outputs(reply), expected(small, xs)[12:])


def test_a_session_survives_its_server_in_a_snapshot(small: SmallModel) -> None:
    """The server is killed, and another one with less and with more memory goes on."""
    xs = observations(2, 30)
    with running_server(small.repository) as first, connected(first) as stub:
        packed = begin(stub, "a", xs[:20]).SerializeToString()
        first.process.kill()
    for remembered in (64, 200):
        with (
            running_server(small.repository, remembered_steps=remembered) as second,
            connected(second) as stub,
        ):
            assert taken(stub, pb.Snapshot.FromString(packed)).steps == 20
            again = stub.Step(step_request("a", 15, xs[15:20]))  # a retry from before the move
            assert again.remembered
            assert_close(outputs(again), expected(small, xs)[15:20])
            with failing("STEP_CONFLICT"):
                stub.Step(step_request("a", 15, xs[15:20] + 1))
            reply = stub.Step(step_request("a", 20, xs[20:]))
            assert not reply.remembered
            assert_close(outputs(reply), expected(small, xs)[20:])


def test_a_session_without_a_step_moves_too(server: RunningServer, small: SmallModel) -> None:
    xs = observations(3, 4)
    with connected(server) as stub:
        snapshot = begin(stub, "unborn", xs[:0])
        assert {state.name for state in snapshot.states} == {"h0", "c0", "h1", "c1"}
        assert not any(any(state.data) for state in snapshot.states)
        assert taken(stub, snapshot, "born").steps == 0
        assert_close(outputs(stub.Step(step_request("born", 0, xs))), expected(small, xs))


def test_a_live_session_is_replaced_only_where_that_is_asked_for(
    server: RunningServer, small: SmallModel
) -> None:
    xs, other = observations(4, 10), observations(5, 3)
    with connected(server) as stub:
        snapshot = begin(stub, "source", xs[:6])
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
        snapshot = begin(stub, "origin", xs[:5])

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


def rename_state(snapshot: pb.Snapshot) -> None:
    snapshot.states[0].name = "h7"


def poison(snapshot: pb.Snapshot) -> None:
    values = np.full(12, np.nan, np.float32)
    snapshot.states[1].data = values.tobytes()


def shorten(snapshot: pb.Snapshot) -> None:
    snapshot.states[2].data = snapshot.states[2].data[:-4]


def reshape(snapshot: pb.Snapshot) -> None:
    snapshot.states[2].shape[:] = [3, 4]


def halve(snapshot: pb.Snapshot) -> None:
    snapshot.states[3].dtype = "float16"


def retype(snapshot: pb.Snapshot) -> None:
    snapshot.states[3].dtype = "bfloat16"


def another_format(snapshot: pb.Snapshot) -> None:
    snapshot.format = 2


def no_version(snapshot: pb.Snapshot) -> None:
    snapshot.version = 0


def endless(snapshot: pb.Snapshot) -> None:
    snapshot.steps = 2**63


def forgetful(snapshot: pb.Snapshot) -> None:
    snapshot.remembered_fingerprints = snapshot.remembered_fingerprints[8:]


def unaligned(snapshot: pb.Snapshot) -> None:
    snapshot.remembered_outputs = snapshot.remembered_outputs[:-1]


def too_few_steps(snapshot: pb.Snapshot) -> None:
    snapshot.steps = 2


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (rename_state, r"states \['h7'"),
        (poison, "state 'c0' .* not finite"),
        (shorten, "state 'h1' has 11 values for"),
        (reshape, r"state 'h1' .* float32 \[3, 4\], the model's is float32 \[12\]"),
        (halve, "state 'c1' has 24 values for"),
        (retype, "unknown type 'bfloat16'"),
        (another_format, "format 2; this server takes format 1"),
        (no_version, "version 0, not of"),
        (endless, "9223372036854775808 steps, out of range"),
        (forgetful, "remembers 4 of 5 steps"),
        (unaligned, "59 bytes"),
        (too_few_steps, "remembers 5 of 2 steps"),
    ],
)
def test_a_snapshot_that_does_not_fit_is_refused_and_leaves_nothing_behind(
    server: RunningServer, spoil: Callable[[pb.Snapshot], None], told: str
) -> None:
    with connected(server) as stub:
        name = f"spoiled-{spoil.__name__}"
        snapshot = begin(stub, name, observations(8, 5))
        spoil(snapshot)
        with failing("BAD_SNAPSHOT") as seen:
            taken(stub, snapshot, f"{name}-new")
        assert seen[0].status is grpc.StatusCode.FAILED_PRECONDITION
        assert re.search(told, seen[0].detail.message), seen[0].detail.message
        with failing("UNKNOWN_SESSION"):
            stub.Get(pb.GetRequest(model="small", session_id=f"{name}-new"))
        assert stub.Get(pb.GetRequest(model="small", session_id=name)).steps == 5


def test_a_snapshot_of_another_model_or_version_is_refused_by_name(tmp_path: Path) -> None:
    small_model(tmp_path)
    small_model(tmp_path, version=2, seed=9)
    with running_server(tmp_path) as server, connected(server) as stub:
        stub.Open(pb.OpenRequest(model="small", version=1, session_id="old"))
        snapshot = stub.Export(pb.ExportRequest(model="small", version=1, session_id="old"))
        assert taken(stub, snapshot, "copy").version == 1  # to where it belongs, not to the newest
        snapshot.version = 3
        with failing("UNKNOWN_VERSION") as seen:
            taken(stub, snapshot, "copy-3")
        assert "'small' has no version 3" in seen[0].detail.message
        snapshot.model = "other"
        with failing("UNKNOWN_MODEL") as seen:
            taken(stub, snapshot, "copy-4")
        assert "'other'" in seen[0].detail.message


def test_a_full_server_takes_no_snapshot_in(small: SmallModel) -> None:
    with running_server(small.repository, max_sessions=1) as server, connected(server) as stub:
        snapshot = begin(stub, "only", observations(9, 3))
        with failing("SESSIONS_FULL") as seen:
            taken(stub, snapshot, "second")
        assert seen[0].detail.retry_after_ms > 0
        assert server.metric("tidegate_errors_total", reason="sessions_full") == 1


def test_an_export_under_load_is_of_a_whole_number_of_steps(
    server: RunningServer, small: SmallModel
) -> None:
    """Each snapshot's state is the one after exactly its count of steps."""
    xs = observations(10, 600)
    lstm = NumpyLstm(small.weights)
    with connected(server) as stub, connected(server) as beside:
        opens = [pb.LaneOpen(lane=0, session_id="busy", create=True)]
        messages = [batch(0, [0], xs[:1], [0], opens=opens)]
        messages += [batch(k, [0], xs[k : k + 1], [k]) for k in range(1, len(xs))]
        replies = stub.StepStream(iter(messages))
        next(replies)
        counts: list[int] = []
        while not counts or (counts[-1] < len(xs) and len(counts) < 100):
            snapshot = beside.Export(pb.ExportRequest(model="small", session_id="busy"))
            counts.append(snapshot.steps)
            _, state = lstm.run(xs[: snapshot.steps], lstm.initial())
            for tensor, values in zip(snapshot.states, flat(state), strict=True):
                assert_close(np.frombuffer(tensor.data, "<f4"), values)
        assert len(list(replies)) == len(xs) - 1
    assert len(set(counts)) > 3, counts


def flat(state: object) -> list[Floats]:
    """h0, c0, h1, c1 of the reference's state."""
    assert isinstance(state, list | tuple)
    return [np.asarray(each, np.float32).reshape(-1) for pair in state for each in pair]
