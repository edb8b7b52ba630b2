"""What callers' rubbish costs the log."""

from __future__ import annotations

import re
import socket
import struct
from collections import Counter
from typing import Any

import grpc
import pytest

from server.logs.limits import MOST
from tests.conftest import SmallModel
from tests.harness import RunningServer, running_server
from tests.server.transport.serving import Raw, prefixed
from tests.server.wire.wire import batch, connected, observations
from tidegate.v1 import tidegate_pb2 as pb

TRANSPORTS = ("native", "aio")


def malformed(server: RunningServer) -> Counter[grpc.StatusCode]:
    """Rubbish to every kind of call; the statuses that it got."""
    got: Counter[grpc.StatusCode] = Counter()
    with grpc.insecure_channel(server.address) as channel:
        calls: list[Any] = [
            *(channel.unary_unary(f"/{name}") for name in (
                "grpc.health.v1.Health/Check", "tidegate.v1.Tidegate/Step",
                "tidegate.v1.Tidegate/Export", "tidegate.v1.Admin/Load",
                "inference.GRPCInferenceService/ModelInfer",
            )),
            channel.unary_stream("/grpc.health.v1.Health/Watch"),
            *(channel.stream_stream(f"/{name}") for name in (
                "tidegate.v1.Tidegate/StepStream",
                "inference.GRPCInferenceService/ModelStreamInfer",
                "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            )),
        ]  # fmt: skip
        for k, call in enumerate(calls):
            for _ in range(3):
                try:
                    list(call(iter([b"\xff\xff"]) if k > 5 else b"\xff\xff", timeout=30))
                except grpc.RpcError as error:
                    got[error.code()] += 1
    return got


def leave_mid_write(server: RunningServer, times: int) -> None:
    """Callers of a stream that vanish while they are being answered."""
    x = observations(1, 500)
    opens = [pb.LaneOpen(lane=k, session_id=f"left-{k}", create=True) for k in range(500)]
    message = batch(1, range(500), x, opens=opens).SerializeToString()
    for _ in range(times):
        peer = Raw(int(server.address.rsplit(":", 1)[1]))
        stream = peer.begin(**{":path": "/tidegate.v1.Tidegate/StepStream"})
        for _ in range(16):
            peer.say(stream, prefixed(message))
        while peer.http2.remote_flow_control_window(stream):  # until what is written has to wait
            peer.events()
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_callers_that_send_rubbish_or_leave_are_no_matter_for_the_log(
    small: SmallModel, transport: str
) -> None:
    flags = {"transport": transport, "drain_seconds": 5}
    with running_server(small.repository, **flags) as server:
        before = server.log()
        got = malformed(server)
        assert sum(got.values()) == 9 * 3
        refused = {"native": 9, "aio": 6}[transport]  # grpc.aio says UNKNOWN for what is not ours
        assert got[grpc.StatusCode.INVALID_ARGUMENT] == refused * 3
        leave_mid_write(server, 4)
        assert server.terminate() == 0
        said = server.log().removeprefix(before)
    assert not re.search("Traceback|ERROR|WARNING", said), said


def test_a_peer_s_rubbish_costs_a_few_lines_however_often_it_comes(
    small: SmallModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEGATE_AUDIT", "false")
    with running_server(small.repository) as server:
        with connected(server) as stub:
            stub.List(pb.ListRequest(model="small"))
        host, port = server.address.split(":")
        for _ in range(50):
            with socket.create_connection((host, int(port))) as peer:
                peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
                while peer.recv(4_096):
                    pass
        assert server.terminate() == 0
        assert server.log().count("a connection is closed: not HTTP/2") == MOST
        assert f" {50 - MOST} more like this: a connection is closed: %s" in server.log()
        assert "server.audit" not in server.log()
