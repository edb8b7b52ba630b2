"""The audit: who did what to whole sessions and to models, whichever transport carries it."""

from __future__ import annotations

import contextlib
import json
import logging
import math
from typing import Any

import grpc
import pytest

from server.access.caller import CALLER, Caller
from server.access.policy import Policy
from server.access.tenants import Tenants
from server.metrics import Metrics
from server.names import prefix
from server.transport.rpcs.audit import Audit, peer
from tests.conftest import SmallModel
from tests.harness import running_server
from tests.server.wire.wire import batch, connected, failing, observations, step_request
from tidegate.v1 import admin_pb2, admin_pb2_grpc
from tidegate.v1 import tidegate_pb2 as pb

TRANSPORTS = ("native", "aio")
M = "small"


def busy(stub: Any) -> None:
    """What sessions are for: none of it is noted."""
    stub.Open(pb.OpenRequest(model=M, session_id="one"))
    stub.OpenMany(pb.OpenManyRequest(model=M, session_ids=["two", "three"]))
    stub.Step(step_request("one", 0, observations(1, 1)))
    opens = [pb.LaneOpen(lane=0, session_id="four", create=True)]
    assert list(stub.StepStream(iter([batch(1, [0], observations(1, 1), opens=opens)])))
    stub.Get(pb.GetRequest(model=M, session_id="one"))
    x = observations(1, 1).ravel().tolist()
    stub.Forecast(pb.ForecastRequest(model=M, session_id="one", steps=1, features=x))
    stub.ListModels(pb.ListModelsRequest())


def meddle(stub: Any) -> None:
    """What is noted, in this order."""
    snapshot = stub.Export(pb.ExportRequest(model=M, session_id="one"))
    stub.Import(pb.ImportRequest(snapshot=snapshot, session_id="five"))
    with failing("SESSION_EXISTS"):
        stub.Import(pb.ImportRequest(snapshot=snapshot))
    stub.Fork(pb.ForkRequest(model=M, session_id="one", new_session_id="six"))
    stub.Peek(pb.PeekRequest(model=M, session_id="one"))
    stub.Reset(pb.ResetRequest(model=M, session_id="one"))
    stub.List(pb.ListRequest(model=M))
    stub.Close(pb.CloseRequest(model=M, version=1, session_id="six"))
    with failing("UNKNOWN_SESSION"):
        stub.Close(pb.CloseRequest(model=M, session_id="seven"))
    stub.CloseMany(pb.CloseManyRequest(model=M, session_ids=["one", "seven", "two"]))


NOTED: list[dict[str, Any]] = [
    {"message": "Export", "session": "one", "outcome": "OK"},
    {"message": "Import", "session": "five", "outcome": "OK", "version": 1},
    {"message": "Import", "session": "one", "outcome": "SESSION_EXISTS", "version": 1},
    {"message": "Fork", "session": "one", "new_session": "six", "outcome": "OK"},
    {"message": "Peek", "session": "one", "outcome": "OK"},
    {"message": "Reset", "session": "one", "outcome": "OK"},
    {"message": "List", "outcome": "OK"},
    {"message": "Close", "session": "six", "outcome": "OK", "version": 1},
    {"message": "Close", "session": "seven", "outcome": "UNKNOWN_SESSION"},
    {"message": "CloseMany", "session": "one seven two", "sessions": 3, "failed": 1,
     "outcome": "OK"},
    {"message": "Load", "outcome": "UNKNOWN_VERSION", "version": 7},
    {"message": "Migrate", "outcome": "UNKNOWN_VERSION", "version": 1, "to_version": 2,
     "session": "three", "sessions": 1},
    {"message": "Unload", "outcome": "OK", "version": 1},
]  # fmt: skip


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_calls_about_whole_sessions_and_models_leave_a_record_each_and_steps_none(
    small: SmallModel, transport: str
) -> None:
    flags = {"transport": transport, "log_format": "json"}
    with running_server(small.repository, **flags) as server, connected(server) as stub:
        busy(stub)
        meddle(stub)
        with grpc.insecure_channel(server.address) as channel:
            admin = admin_pb2_grpc.AdminStub(channel)
            calls: list[tuple[Any, Any]] = [
                (admin.Load, admin_pb2.LoadRequest(model=M, version=7)),
                (admin.Migrate, admin_pb2.MigrateRequest(
                    model=M, from_version=1, to_version=2, session_ids=["three"],
                    by=admin_pb2.MIGRATE_BY_STATE,
                )),
                (admin.Unload, admin_pb2.UnloadRequest(model=M, version=1)),
            ]  # fmt: skip
            for call, request in calls:
                with contextlib.suppress(grpc.RpcError):
                    call(request, metadata=(("x-request-id", "r-1"),))
        assert server.terminate() == 0
        records = [json.loads(line) for line in server.log().splitlines()]
    noted = [each for each in records if each["logger"] == "server.audit"]
    for each, wanted in zip(noted, NOTED, strict=True):
        assert each["peer"].startswith("127.0.0.1:")
        assert each.get("request_id") == ("r-1" if wanted in NOTED[-3:] else None)
        got = {k: v for k, v in each.items()
               if k not in ("ts", "level", "logger", "peer", "request_id")}  # fmt: skip
        assert got == {"model": M, **wanted}


class Asked:
    """A call's context, as far as the audit looks."""

    def __init__(self, where: str = "ipv6:%5B::1%5D:50051") -> None:
        self._where = where

    def peer(self) -> str:
        return self._where

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return (("authorization", "me"), ("x-request-id", "bad\nid"))


@pytest.mark.parametrize(("tenant", "told"), [("acme", "me@acme"), ("", "me")])
def test_who_calls_is_told_as_its_token_says(
    caplog: pytest.LogCaptureFixture, tenant: str, told: str
) -> None:
    context: Any = Asked()
    usage = Tenants(Policy.model_construct(), Metrics()).of(tenant)
    token = CALLER.set(Caller("me", tenant, frozenset(), math.inf, usage))
    try:
        with caplog.at_level(logging.INFO, "server.audit"):
            named = f"{prefix(tenant)}one"
            note = Audit().of("Export")
            note(context, pb.ExportRequest(model=M, session_id=named), None, "CANCELLED")
    finally:
        CALLER.reset(token)
    (record,) = caplog.records
    said = vars(record)
    assert (said["identity"], said["session"], said["peer"], said["outcome"]) == (
        told, "one", "[::1]:50051", "CANCELLED",
    )  # fmt: skip
    assert "request_id" not in said


@pytest.mark.parametrize(
    ("where", "told"),
    [("ipv4:10.0.0.1:5", "10.0.0.1:5"), ("ipv6:[::1]:5", "[::1]:5"), ("unix:/a b", "unix:/a b")],
)
def test_a_peer_is_told_as_addresses_are_written(where: str, told: str) -> None:
    context: Any = Asked(where)
    assert peer(context) == told
