"""Many sessions opened and closed in one call: each outcome is what its own call would tell."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from tests.conftest import SmallModel
from tests.harness import RunningServer, running_server, small_model
from tests.server.transports import NATIVE, over
from tests.server.wire.wire import connected, failing, observations, step_request
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.v1.tidegate_pb2_grpc import TidegateStub
from tidegate.wire import MAX_SESSIONS

pytestmark = over(NATIVE)

X = observations(31, 3)


def opening(*ids: str, version: int = 0, model: str = "small") -> pb.OpenManyRequest:
    return pb.OpenManyRequest(model=model, version=version, session_ids=ids)


def closing(*ids: str, version: int = 0) -> pb.CloseManyRequest:
    return pb.CloseManyRequest(model="small", version=version, session_ids=ids)


def errors(reply: pb.OpenManyReply | pb.CloseManyReply) -> list[str]:
    """The reason of each outcome; "" where there is none."""
    return [
        pb.Reason.Name(each.error.reason).removeprefix("REASON_") if each.HasField("error") else ""
        for each in reply.outcomes
    ]


def live(stub: TidegateStub, session_id: str) -> bool:
    try:
        stub.Get(pb.GetRequest(model="small", session_id=session_id))
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.NOT_FOUND
        return False
    return True


def test_each_session_is_opened_or_attached_to(server: RunningServer) -> None:
    with connected(server) as stub:
        stub.Open(pb.OpenRequest(model="small", session_id="many-live"))
        stub.Step(step_request("many-live", 0, X))
        outcomes = stub.OpenMany(opening("many-a", "many-live", "many-a")).outcomes
        assert [each.opened.created for each in outcomes] == [True, False, False]
        assert [each.opened.session.steps for each in outcomes] == [0, 3, 0]
        assert [each.opened.session.session_id for each in outcomes] == [
            "many-a",
            "many-live",
            "many-a",
        ]
        assert stub.Get(pb.GetRequest(model="small", session_id="many-a")).version == 1


def test_an_id_that_is_none_costs_the_others_nothing(server: RunningServer) -> None:
    with connected(server) as stub:
        reply = stub.OpenMany(opening("many-b", "", "i" * 257, "many-c"))
        assert errors(reply) == ["", "BAD_INPUT", "BAD_INPUT", ""]
        assert reply.outcomes[1].error.field == "session_id"
        assert live(stub, "many-b") and live(stub, "many-c")


def test_each_session_is_closed_once(server: RunningServer) -> None:
    with connected(server) as stub:
        stub.OpenMany(opening("many-d", "many-e"))
        stub.Step(step_request("many-d", 0, X))
        reply = stub.CloseMany(closing("many-d", "many-never", "many-e", "many-d"))
        assert errors(reply) == ["", "UNKNOWN_SESSION", "", "CLOSED"]
        assert [each.closed.steps for each in reply.outcomes] == [3, 0, 0, 0]
        assert not live(stub, "many-d") and not live(stub, "many-e")


def test_no_sessions_are_no_failure_and_too_many_are_refused_whole(server: RunningServer) -> None:
    ids = [f"many-{k}" for k in range(MAX_SESSIONS + 1)]
    with connected(server) as stub:
        assert not stub.OpenMany(opening()).outcomes and not stub.CloseMany(closing()).outcomes
        with failing("BAD_INPUT") as seen:
            stub.OpenMany(opening(*ids))
        assert seen[0].detail.field == "session_ids"
        with failing("BAD_INPUT"):
            stub.CloseMany(closing(*ids))
        assert not live(stub, "many-0")


@pytest.mark.parametrize("call", [opening("a", model="none"), opening("a", version=9)])
def test_a_model_that_is_not_served_is_told_once(
    server: RunningServer, call: pb.OpenManyRequest
) -> None:
    with (
        connected(server) as stub,
        failing("UNKNOWN_VERSION" if call.version else "UNKNOWN_MODEL"),
    ):
        stub.OpenMany(call)


def test_a_full_server_opens_as_many_as_it_may(small: SmallModel) -> None:
    ids = [f"s-{k}" for k in range(100)]
    with running_server(small.repository, max_sessions=10) as server, connected(server) as stub:
        reply = stub.OpenMany(opening(*ids))
        assert errors(reply).count("SESSIONS_FULL") == 90
        messages = {each.error.message for each in reply.outcomes if each.HasField("error")}
        assert len(messages) == 2 and "likewise" in messages
        assert errors(stub.CloseMany(closing(*ids))).count("") == 10
        assert server.metric("tidegate_errors_total", reason="sessions_full") == 90


def test_sessions_outlive_the_server_and_are_closed_for_good(
    small: SmallModel, tmp_path: Path
) -> None:
    ids = [f"s-{k}" for k in range(50)]
    kept = {"data_folder": tmp_path / "data"}
    with running_server(small.repository, **kept) as server, connected(server) as stub:
        stub.OpenMany(opening(*ids))
        stub.Step(step_request("s-7", 0, X))
        assert server.terminate() == 0
    with running_server(small.repository, **kept) as server, connected(server) as stub:
        assert errors(stub.CloseMany(closing(*ids[:5], "s-7"))) == [""] * 6
        outcomes = stub.OpenMany(opening(*ids)).outcomes
        assert [each.opened.created for each in outcomes[:8]] == [True] * 5 + [False, False, True]
        server.process.kill()
    with running_server(small.repository, **kept) as server, connected(server) as stub:
        assert not any(each.opened.created for each in stub.OpenMany(opening(*ids)).outcomes)


def test_each_session_is_found_on_the_version_that_holds_it(tmp_path: Path) -> None:
    small_model(tmp_path, version=1)
    small_model(tmp_path, version=2)
    with running_server(tmp_path) as server, connected(server) as stub:
        stub.OpenMany(opening("old", version=1))
        outcomes = stub.OpenMany(opening("old", "new")).outcomes
        assert [each.opened.session.version for each in outcomes] == [1, 2]
        assert errors(stub.CloseMany(closing("old", "new"))) == ["", ""]
