"""Every rpc of every service, by who calls: nobody, a stranger, one who is late, each role."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from server.access.rules import ANYBODY, ROLES, RULES
from tests.conftest import SmallModel
from tests.harness import ROOT, RunningServer, await_ready, start
from tests.server.access.doors import bearer, entry, guarded
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.wire import DETAIL_KEY

RPC = re.compile(r"rpc (\w+)\((stream )?")
SERVICES = {
    "tidegate/v1/tidegate.proto": "tidegate.v1.Tidegate",
    "tidegate/v1/admin.proto": "tidegate.v1.Admin",
    "inference/grpc_service.proto": "inference.GRPCInferenceService",
}
OURS = {
    f"/{service}/{name}": bool(streams)
    for file, service in SERVICES.items()
    for name, streams in RPC.findall((ROOT / "protos" / file).read_text())
}
"""Every method of ours, and whether its caller streams."""

MAY = {
    "/tidegate.v1.Tidegate/Export": {"inspect"},
    "/tidegate.v1.Tidegate/Get": {"inspect", "step"},
    "/tidegate.v1.Tidegate/List": {"inspect"},
    "/tidegate.v1.Tidegate/ListModels": {"inspect", "step", "admin"},
    "/tidegate.v1.Tidegate/Peek": {"inspect"},
}
"""Said again here, so that a change of the rules is a change of this too: `step` for the rest of
Tidegate's, `admin` for Admin's."""

UNAUTHENTICATED, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
PAST = "expires = 2001-01-01T00:00:00Z"


def called(server: RunningServer, method: str, metadata: tuple[tuple[str, str], ...]) -> grpc.Call:
    """A call with an empty message, which nothing can be done with but to let it in."""
    with grpc.insecure_channel(server.address, [("grpc.enable_retries", 0)]) as channel:
        rpc: Any = channel.stream_stream(method) if OURS[method] else channel.unary_unary(method)
        try:
            if OURS[method]:
                list(rpc(iter([b""]), metadata=metadata, timeout=20))
            else:
                rpc(b"", metadata=metadata, timeout=20)
        except grpc.RpcError as error:
            assert isinstance(error, grpc.Call)
            return error
    raise AssertionError("the call was done")


def status(server: RunningServer, method: str, *metadata: tuple[str, str]) -> grpc.StatusCode:
    """How such a call ends, OK included."""
    try:
        return called(server, method, metadata).code()
    except AssertionError:
        return grpc.StatusCode.OK


@pytest.fixture(scope="module", params=["native", "aio"])
def server(
    request: pytest.FixtureRequest, small: SmallModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server that knows a caller for each role, and one of the past."""
    said = "".join(entry(role, [role]) for role in sorted(ROLES)) + entry("former", more=PAST)
    file: Path = tmp_path_factory.mktemp("access") / "access.toml"
    with guarded(small.repository, file, said, transport=request.param) as running:
        yield running


def wanted(method: str) -> set[str]:
    if method.startswith("/tidegate.v1.Admin/"):
        return {"admin"}
    if method.startswith("/tidegate.v1.Tidegate/"):
        return MAY.get(method, {"step"})
    if method.endswith(("ModelInfer", "ModelStreamInfer")):
        return {"step"}
    return {"step", "inspect", "admin"}


def test_every_method_has_a_rule() -> None:
    ours = {method for method in RULES if not method.startswith("/grpc.")}
    assert ours == set(OURS)
    for method in ours:
        assert RULES[method] in (ANYBODY, frozenset(wanted(method))), method


@pytest.mark.parametrize("method", sorted(OURS))
def test_a_method_is_for_those_with_its_roles_alone(server: RunningServer, method: str) -> None:
    if RULES[method] is ANYBODY:
        assert status(server, method) not in (UNAUTHENTICATED, DENIED)
        return
    assert status(server, method) is UNAUTHENTICATED
    assert status(server, method, *bearer("stranger")) is UNAUTHENTICATED
    assert status(server, method, *bearer("former")) is UNAUTHENTICATED
    assert status(server, method, ("authorization", "Basic c3RlcA==")) is UNAUTHENTICATED
    for role in sorted(ROLES - {"admin"} if method.endswith("/Drain") else ROLES):
        got = status(server, method, *bearer(role))
        if role in wanted(method):
            assert got not in (UNAUTHENTICATED, DENIED), role
        else:
            assert got is DENIED, role


def test_probes_health_and_reflection_ask_for_nothing(server: RunningServer) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    with grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        (told,) = stub.ServerReflectionInfo(iter([asked]))
        assert "tidegate.v1.Tidegate" in {s.name for s in told.list_services_response.service}


def test_a_refusal_is_typed_and_counted_and_repeats_no_token(server: RunningServer) -> None:
    before = server.metric("tidegate_access_refused_total", reason="unauthenticated")
    failed = called(server, "/tidegate.v1.Tidegate/Get", bearer("stranger"))
    (packed,) = [value for key, value in failed.trailing_metadata() if key == DETAIL_KEY]
    assert isinstance(packed, bytes)
    detail = pb.ErrorDetail.FromString(packed)
    assert detail.reason == pb.REASON_UNAUTHENTICATED
    assert "stranger" not in failed.details()
    assert server.metric("tidegate_access_refused_total", reason="unauthenticated") == before + 1
    denied = called(server, "/tidegate.v1.Tidegate/List", bearer("admin"))
    assert "needs the role inspect" in denied.details()
    assert "secret-" not in server.log()


def test_reflection_can_be_closed(small: SmallModel) -> None:
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    process, log = start(small.repository, "--no-reflection")
    try:
        with (
            grpc.insecure_channel(await_ready(process, log).address) as channel,
            pytest.raises(grpc.RpcError) as caught,
        ):
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            list(
                stub.ServerReflectionInfo(
                    iter([reflection_pb2.ServerReflectionRequest(list_services="")])
                )
            )
    finally:
        process.kill()
        process.wait()
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
