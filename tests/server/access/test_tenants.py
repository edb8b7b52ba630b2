"""Tenants: each has its own sessions, by whatever ids, and no call of one reaches another's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient import grpc as triton

from tests.conftest import SmallModel
from tests.harness import RunningServer, running_server
from tests.server.access.doors import as_caller, bearer, entry, guarded
from tests.server.oip.triton import tensor
from tests.server.wire.session_rpcs import assert_close, begin, expected, exported, state, taken
from tests.server.wire.wire import batch, failing, observations
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.v1.tidegate_pb2_grpc import TidegateStub

SAID = entry("acme", tenant="acme") + entry("other", tenant="other") + entry("bare")
X = observations(3, 6)


@pytest.fixture(scope="module", params=["native", "aio"])
def server(
    request: pytest.FixtureRequest, small: SmallModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server with two tenants, and callers of none."""
    file: Path = tmp_path_factory.mktemp("access") / "access.toml"
    with guarded(small.repository, file, SAID, transport=request.param) as running:
        yield running


@pytest.fixture
def callers(server: RunningServer) -> Iterator[tuple[TidegateStub, TidegateStub, TidegateStub]]:
    """acme, other, and one without a tenant."""
    with ExitStack() as stack:
        a, b, c = (
            stack.enter_context(as_caller(server, name)) for name in ("acme", "other", "bare")
        )
        yield a, b, c


Callers = tuple[TidegateStub, TidegateStub, TidegateStub]


def step(stub: TidegateStub, name: str, row: int) -> list[float]:
    request = pb.StepRequest(model="small", session_id=name, features=X[row].tolist())
    return list(stub.Step(request).outputs)


def listed(stub: TidegateStub, size: int = 100) -> list[str]:
    """All ids, page by page."""
    names: list[str] = []
    request = pb.ListRequest(model="small", page_size=size)
    while True:
        page = stub.List(request)
        names += [each.session_id for each in page.sessions]
        if not page.next_page_token:
            return names
        request.page_token = page.next_page_token


def test_the_same_id_names_a_session_for_each_tenant(small: SmallModel, callers: Callers) -> None:
    wanted = expected(small, X)
    for stub in callers:
        begin(stub, "same", X[:0])
    for row in range(3):
        for stub in callers:
            assert_close(step(stub, "same", row), wanted[row])  # type: ignore[arg-type]
    for stub in callers:
        got = stub.Get(pb.GetRequest(model="small", session_id="same"))
        assert (got.session_id, got.steps) == ("same", 3)
        assert stub.Close(pb.CloseRequest(model="small", session_id="same")).steps == 3


def test_no_call_reaches_another_tenant_s_session(callers: Callers) -> None:
    acme, *others = callers
    begin(acme, "mine", X[:2])
    for stub in others:
        for name in ("mine", "acme\x1fmine", "\x1fmine"):
            about: Any = {"model": "small", "session_id": name}
            calls: list[tuple[Callable[[Any], object], Any]] = [
                (stub.Get, pb.GetRequest(**about)),
                (stub.Close, pb.CloseRequest(**about)),
                (stub.Export, pb.ExportRequest(**about)),
                (stub.Peek, pb.PeekRequest(**about)),
                (stub.Reset, pb.ResetRequest(**about)),
                (stub.Fork, pb.ForkRequest(**about, new_session_id="copy")),
                (stub.Forecast, pb.ForecastRequest(**about, steps=1, features=X[0].tolist())),
                (stub.Step, pb.StepRequest(**about, features=X[0].tolist())),
            ]
            for call, request in calls:
                reason = "UNKNOWN_SESSION" if name == "mine" else "BAD_INPUT"
                with failing(reason) as seen:
                    call(request)
                assert "acme" not in seen[0].detail.message
            lane = pb.LaneOpen(lane=0, session_id=name)
            (reply,) = stub.StepStream(iter([batch(1, [0], X[:1], opens=[lane])]))
            assert len(reply.errors) == 1
    got = acme.Get(pb.GetRequest(model="small", session_id="mine"))
    assert got.steps == 2
    acme.Close(pb.CloseRequest(model="small", session_id="mine"))


def test_lists_hold_a_tenant_s_own_ids_page_by_page(callers: Callers) -> None:
    acme, other, _ = callers
    names = [f"n{k}" for k in range(7)]
    opened = acme.OpenMany(pb.OpenManyRequest(model="small", session_ids=names))
    assert [each.opened.session.session_id for each in opened.outcomes] == names
    begin(other, "n3", X[:1])
    assert (listed(acme, 2), listed(other)) == (names, ["n3"])
    page = acme.List(pb.ListRequest(model="small", page_size=2))
    assert "\x1f" not in page.next_page_token
    forged = pb.ListRequest(model="small", page_token="1/", page_size=100)
    assert [each.session_id for each in other.List(forged).sessions] == ["n3"]
    closed = acme.CloseMany(pb.CloseManyRequest(model="small", session_ids=[*names, "none"]))
    assert [each.HasField("error") for each in closed.outcomes] == [False] * 7 + [True]
    assert listed(other) == ["n3"]
    other.Close(pb.CloseRequest(model="small", session_id="n3"))


def test_forks_snapshots_and_lanes_stay_with_their_tenant(callers: Callers) -> None:
    acme, other, _ = callers
    begin(acme, "a", X[:3])
    forked = acme.Fork(pb.ForkRequest(model="small", session_id="a", new_session_id="b"))
    assert (forked.session_id, forked.steps) == ("b", 3)
    snapshot = exported(acme, "a")
    assert snapshot.session_id == "a"
    assert taken(other, snapshot).session_id == "a"  # its own, of that name
    assert state(other, "a") == state(acme, "a")
    step(other, "a", 3)
    assert state(other, "a") != state(acme, "a")
    lanes = [pb.LaneOpen(lane=0, session_id="a"), pb.LaneOpen(lane=1, session_id="b")]
    (reply,) = other.StepStream(iter([batch(1, [0, 1], X[:2], opens=lanes)]))
    assert [each.HasField("error") for each in reply.opened] == [False, True]
    assert "other" not in reply.opened[1].error.message
    for stub, names in ((acme, ["a", "b"]), (other, ["a"])):
        stub.CloseMany(pb.CloseManyRequest(model="small", session_ids=names))


def test_triton_s_clients_are_tenants_too(server: RunningServer, callers: Callers) -> None:
    acme, other, _ = callers
    headers = dict(bearer("acme"))
    with triton.InferenceServerClient(server.address) as client:
        for sequence, session_id in (("call-1", "call-1"), (77, "77")):
            for row in range(3):
                client.infer(
                    "small", [tensor(X[row])], headers=headers, sequence_id=sequence,
                    sequence_start=row == 0,
                )  # fmt: skip
            assert acme.Get(pb.GetRequest(model="small", session_id=session_id)).steps == 3
            with failing("UNKNOWN_SESSION"):
                other.Get(pb.GetRequest(model="small", session_id=session_id))
            with pytest.raises(triton.InferenceServerException, match="must specify the START"):
                client.infer(
                    "small", [tensor(X[0])], headers=dict(bearer("other")), sequence_id=sequence
                )
        with pytest.raises(triton.InferenceServerException, match="UNAUTHENTICATED"):
            client.infer("small", [tensor(X[0])], sequence_id="call-1")
    acme.CloseMany(pb.CloseManyRequest(model="small", session_ids=["call-1", "77"]))


def test_ids_are_as_long_as_without_tenants_and_no_longer(callers: Callers) -> None:
    acme, *_ = callers
    longest = "é" * 128
    begin(acme, longest, X[:1])
    assert listed(acme) == [longest]
    acme.Close(pb.CloseRequest(model="small", session_id=longest))
    for name in ("", longest + "x"):
        with failing("BAD_INPUT"):
            begin(acme, name, X[:1])


def test_a_tenant_s_sessions_outlive_the_server(small: SmallModel, tmp_path: Path) -> None:
    flags = {"data_folder": tmp_path / "data", "access": tmp_path / "access.toml"}
    (tmp_path / "access.toml").write_text(SAID)
    with running_server(small.repository, **flags) as running:
        with as_caller(running, "acme") as acme:
            begin(acme, "kept", X[:2])
        assert running.terminate() == 0
    with (
        running_server(small.repository, **flags) as running,
        as_caller(running, "acme") as acme,
        as_caller(running, "other") as other,
    ):
        assert acme.Get(pb.GetRequest(model="small", session_id="kept")).steps == 2
        with failing("UNKNOWN_SESSION"):
            other.Get(pb.GetRequest(model="small", session_id="kept"))


def test_a_token_that_is_taken_back_ends_its_streams(small: SmallModel, tmp_path: Path) -> None:
    file = tmp_path / "access.toml"
    with (
        guarded(small.repository, file, SAID) as running,
        as_caller(running, "acme") as acme,
        as_caller(running, "other") as other,
    ):
        opens = [pb.LaneOpen(lane=0, session_id="s", create=True)]

        def messages() -> Iterator[pb.StepBatch]:
            yield batch(0, [0], X[:1], opens=opens)
            file.write_text(entry("other", tenant="other"))
            number = 0
            while True:  # nobody else calls
                number += 1
                time.sleep(0.01)
                yield batch(number, [0], X[1:2])

        replies = acme.StepStream(messages())
        assert next(replies).id == 0
        with pytest.raises(grpc.RpcError) as caught:
            list(replies)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        with failing("UNAUTHENTICATED"):
            listed(acme)
        assert "who may call is as" in running.log()
        file.write_text("tokens = 5")
        while "stays as it was" not in running.log():
            listed(other)
