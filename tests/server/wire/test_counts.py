"""What the metrics tell of calls, connections, faults and the process, after they came to pass."""

from __future__ import annotations

import json
import platform
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.conftest import SmallModel
from tests.harness import RunningServer, freeze, running_server, small_model, thaw
from tests.server.oip import triton
from tests.server.transports import AIO, NATIVE, over
from tests.server.wire.wire import batch, connected, observations, step_request
from tidegate.v1 import tidegate_pb2 as pb

SERVICE = "tidegate.v1.Tidegate"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)


@pytest.fixture(scope="module")
def counted(transport: str, small: SmallModel) -> Iterator[RunningServer]:
    """A server after calls of every fate."""
    x = observations(1, 20)
    with running_server(small.repository) as server, connected(server) as stub:
        stub.Open(pb.OpenRequest(model="small", session_id="one"))
        for step in range(5):
            stub.Step(step_request("one", step, x[step]))
        several = pb.StepRequest(model="small", session_id="one", steps=3, first_step=5)
        several.features.extend(np.zeros(15).tolist())
        stub.Step(several)
        with pytest.raises(grpc.RpcError):
            stub.Step(step_request("a-stranger", 0, x[0]))
        opens = [pb.LaneOpen(lane=0, session_id="lane", create=True)]
        list(stub.StepStream(batch(t, [0], x, opens=opens) for t in range(4)))
        stream = stub.StepStream(iter(lambda: time.sleep(60), None))
        stream.cancel()
        unknown(server)
        yield server


def unknown(server: RunningServer) -> None:
    """Calls of methods that there are not, one of them of our service."""
    with grpc.insecure_channel(server.address) as channel:
        for path in ("/evil.Service/Secret", f"/{SERVICE}/Nothing"):
            with pytest.raises(grpc.RpcError):
                send(channel, path, b"")
        with pytest.raises(grpc.RpcError, match="no message of this call"):
            send(channel, f"/{SERVICE}/Get", b"\xff")


def send(channel: grpc.Channel, path: str, packed: bytes) -> None:
    call: Any = channel.unary_unary(path)
    call(packed, timeout=30)


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether it comes to hold, in a minute."""
    deadline = time.monotonic() + 60
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


def handled(server: RunningServer, method: str, code: str) -> float:
    return server.metric(
        "grpc_server_handled_total", grpc_service=SERVICE, grpc_method=method, grpc_code=code
    )


def test_calls_are_counted_by_method_and_code_as_dashboards_know_them(
    counted: RunningServer,
) -> None:
    assert handled(counted, "Step", "OK") == 6
    assert handled(counted, "Step", "NotFound") == 1
    assert handled(counted, "StepStream", "OK") == 1
    assert eventually(lambda: handled(counted, "StepStream", "Canceled") == 1)
    assert counted.metric("grpc_server_started_total", grpc_method="Step", grpc_type="unary") == 7
    stream = {"grpc_method": "StepStream", "grpc_type": "bidi_stream"}
    assert counted.metric("grpc_server_started_total", **stream) == 2
    assert counted.metric("grpc_server_handling_seconds_count", grpc_method="Step") == 7
    assert counted.metric("tidegate_calls_under_way") == 0


def test_what_callers_make_up_becomes_no_label(counted: RunningServer) -> None:
    page = counted.metrics()
    assert not [each for each in ("evil", "Secret", "Nothing", "stranger") if each in page]
    made_up = {"grpc_service": "unknown", "grpc_method": "unknown"}
    assert counted.metric("grpc_server_handled_total", grpc_code="Unimplemented", **made_up) == 2


@over(NATIVE)  # grpc.aio does not tell
def test_replies_are_timed_from_their_messages_arrival_by_model_and_rpc(
    counted: RunningServer,
) -> None:
    for rpc, replies in (("Step", 6), ("StepStream", 4)):
        labels = {"model": "small", "version": "1", "rpc": rpc}
        # A failed call names no model that has its session.
        assert counted.metric("tidegate_reply_seconds_count", **labels) == replies
        assert counted.metric("tidegate_reply_seconds_sum", **labels) > 0


def test_bytes_that_are_no_message_are_counted(counted: RunningServer) -> None:
    assert counted.metric("tidegate_decode_errors_total") == 1


def test_the_process_tells_of_itself(counted: RunningServer) -> None:
    assert (
        counted.metric("tidegate_build_info", python=platform.python_version(), device="cpu") == 1
    )
    assert counted.metric("process_resident_memory_bytes") > 1e6
    assert 0 < counted.metric("process_open_fds") < counted.metric("process_max_fds")
    assert counted.metric("process_cpu_seconds_total") > 0
    assert counted.metric("tidegate_threads") >= 3


@over(NATIVE)  # grpc.aio does not tell
def test_connections_are_counted_by_how_they_end(counted: RunningServer) -> None:
    host, _, port = counted.address.rpartition(":")

    def ended(reason: str) -> float:
        return counted.metric("tidegate_connections_ended_total", reason=reason)

    before, gone = counted.metric("tidegate_connections_opened_total"), ended("peer")
    for said in (b"GET / HTTP/1.1\r\n\r\n", PREFACE + bytes(20), PREFACE):
        with socket.create_connection((host, int(port)), timeout=60) as sock:
            sock.sendall(said)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65_536):
                pass
    assert eventually(lambda: ended("greeting") == 1 and ended("protocol") == 1)
    assert eventually(lambda: ended("peer") == gone + 1)
    assert counted.metric("tidegate_connections_opened_total") == before + 3
    assert counted.metric("tidegate_received_bytes_total") > 100
    assert counted.metric("tidegate_sent_bytes_total") > 100


@over(NATIVE)  # grpc.aio does not tell
def test_a_flood_that_is_throttled_is_counted(counted: RunningServer) -> None:
    host, _, port = counted.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as sock:
        sock.sendall(PREFACE + (b"\0\0\x08\x06" + bytes(13)) * 5_000)
        assert eventually(lambda: counted.metric("tidegate_connections_throttled_total") > 0)


def test_open_streams_are_under_way(counted: RunningServer) -> None:
    x, over = observations(1, 1), threading.Event()

    def messages() -> Iterator[pb.StepBatch]:
        yield batch(0, [0], x, opens=[pb.LaneOpen(lane=0, session_id="open", create=True)])
        over.wait(60)

    with connected(counted) as stub:
        replies = stub.StepStream(messages())
        next(replies)
        assert counted.metric("tidegate_calls_under_way", grpc_type="bidi_stream") >= 1
        over.set()
        assert list(replies) == []


@over(NATIVE)  # grpc.aio does not tell
def test_requests_of_tritons_clients_are_timed_too(counted: RunningServer) -> None:
    xs = triton.observations(3)
    with triton.client(counted) as connection:
        triton.step(connection, xs[0], "timed", sequence_start=True)
        triton.step(connection, xs[1], "timed")
    with triton.raw(counted) as stub:
        list(stub.ModelStreamInfer(iter([triton.request("timed", xs[2])])))
    assert counted.metric("tidegate_reply_seconds_count", rpc="ModelInfer", model="small") == 2
    assert counted.metric("tidegate_reply_seconds_count", rpc="ModelStreamInfer") == 1


def test_a_bundle_that_is_refused_is_counted(tmp_path: Path, small: SmallModel) -> None:
    small_model(tmp_path)
    broken = tmp_path / "broken" / "1"
    broken.mkdir(parents=True)
    (broken / "model.json").write_text(json.dumps({"format": 99}))
    with running_server(tmp_path) as server:
        assert server.metric("tidegate_models_broken") == 1
        assert server.metric("tidegate_bundles_refused_total") >= 1


def test_a_frozen_server_shows_in_its_lag_and_in_its_callers_times(
    transport: str, small: SmallModel
) -> None:
    x = observations(1, 2)
    with running_server(small.repository) as server, connected(server) as stub:
        stub.Open(pb.OpenRequest(model="small", session_id="one"))
        stub.Step(step_request("one", 0, x[0]))
        freeze(server.process)
        call = stub.Step.future(step_request("one", 1, x[1]), timeout=60)
        time.sleep(2)
        thaw(server.process)
        call.result()
        # A timer is due every tenth of a second.
        for loop in ("events",) if transport == AIO else ("events", "transport"):
            assert eventually(
                lambda loop=loop: server.metric("tidegate_loop_lag_worst_seconds", loop=loop) > 1.8  # type: ignore[misc]
            )
            assert server.metric("tidegate_loop_lag_seconds_sum", loop=loop) > 1.8
        if transport == NATIVE:  # counted once the reply is on its way, it may be a little late
            assert eventually(
                lambda: server.metric("tidegate_reply_seconds_count", rpc="Step") == 2
            )
            assert server.metric("tidegate_reply_seconds_sum", rpc="Step") > 1.8
            assert server.metric("grpc_server_handling_seconds_sum", grpc_method="Step") > 1.8
            assert server.metric("tidegate_slow_replies_total") >= 1
            slow = re.findall(
                r"slow: rpc=Step model=small/1 rows=1, took (\S+) s, arrived \S+ "
                r"until queued (\S+) s, in the queue \S+ s, run \S+ s with 1 rows, "
                r"until written \S+ s",
                server.log(),
            )
            assert any(min(map(float, times)) > 1.8 for times in slow)
