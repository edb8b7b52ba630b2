"""What callers do wrong, or do not do, is told in typed words, counted, and holds up nobody."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.conftest import SmallModel
from tests.harness import ROOT, RunningServer, running_server
from tests.server.wire.wire import WIDTH, batch, connected, failing, observations, step_request
from tidegate.v1 import tidegate_pb2 as pb

OURS = "Step Open Close Get List ListModels Export Import Fork Reset Forecast Peek"
THEIRS = (
    "ServerLive ServerReady ModelReady ServerMetadata ModelMetadata ModelConfig ModelStatistics "
    "RepositoryIndex ModelInfer"
)
UNARY = [f"tidegate.v1.Tidegate/{name}" for name in OURS.split(" ")] + [
    f"inference.GRPCInferenceService/{name}" for name in THEIRS.split(" ")
]


def call(channel: grpc.Channel, method: str) -> grpc.UnaryUnaryMultiCallable[bytes, bytes]:
    """A call of bytes."""
    return channel.unary_unary(f"/{method}")


@pytest.mark.parametrize("method", UNARY)
def test_bytes_that_are_no_request_are_told_so_in_typed_words(
    server: RunningServer, method: str
) -> None:
    before = server.metric("tidegate_errors_total", reason="bad_input", model="")
    with grpc.insecure_channel(server.address) as channel:
        for packed in (b"\xff" * 20, b"\x0a\x05abc", b"\x0b"):
            with failing("BAD_INPUT") as seen:
                call(channel, method)(packed)
            assert seen[0].status is grpc.StatusCode.INVALID_ARGUMENT
    assert server.metric("tidegate_errors_total", reason="bad_input", model="") == before + 3


CALLS: list[Callable[[object, str], object]] = [
    lambda stub, name: stub.Get(pb.GetRequest(model="small", session_id=name)),  # type: ignore[attr-defined]
    lambda stub, name: stub.Export(pb.ExportRequest(model="small", session_id=name)),  # type: ignore[attr-defined]
    lambda stub, name: stub.Reset(pb.ResetRequest(model="small", session_id=name)),  # type: ignore[attr-defined]
    lambda stub, name: stub.Step(step_request(name, 0, observations(1, 1))),  # type: ignore[attr-defined]
    lambda stub, name: stub.Fork(pb.ForkRequest(model="small", session_id=name)),  # type: ignore[attr-defined]
]


@pytest.mark.parametrize("letter", ["x", "é", "𐍈"])
@pytest.mark.parametrize("size", [300, 5_000, 15_000])
def test_a_long_name_is_not_thrown_back_whole(
    server: RunningServer, size: int, letter: str
) -> None:
    """Headers have room for some kilobytes: past that callers saw another failure, or none."""
    with connected(server) as stub:
        for each in CALLS:
            with failing("UNKNOWN_SESSION"):
                each(stub, letter * size)
        with failing("UNKNOWN_MODEL"):
            stub.Get(pb.GetRequest(model=letter * size, session_id="s"))
        with failing("BAD_INPUT"):
            stub.Open(pb.OpenRequest(model="small", session_id=letter * size))


def test_a_stream_that_ends_with_an_error_is_counted(server: RunningServer) -> None:
    with connected(server) as stub:
        before = server.metric("tidegate_errors_total", reason="unknown_model")
        with failing("UNKNOWN_MODEL"):
            next(stub.StepStream(iter([pb.StepBatch(model="nobody")])))
        assert server.metric("tidegate_errors_total", reason="unknown_model") == before + 1


def test_a_message_refused_whole_tells_the_numbers_it_came_with(server: RunningServer) -> None:
    message = batch(1, [0, 1, 2], np.zeros((2, WIDTH), np.float32), [7, 8, 9])
    with connected(server) as stub:
        (reply,) = stub.StepStream(iter([message]))
    assert np.frombuffer(reply.first_steps, "<u8").tolist() == [7, 8, 9]


def test_a_watch_of_the_health_does_not_hold_up_the_stop(small: SmallModel) -> None:
    """Once it took all the time there was to drain."""
    with (
        running_server(small.repository, drain_seconds=3600) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        assert server.terminate(60) == 0


def test_replies_that_nobody_reads_are_no_clean_stop(small: SmallModel) -> None:
    """Far more of them than the connection holds."""

    def messages() -> Iterator[pb.StepBatch]:
        opens = [pb.LaneOpen(lane=0, session_id="unread", create=True)]
        for number in range(200):
            yield batch(number, [0] * 4096, np.zeros((4096, WIDTH), np.float32), opens=opens)

    flags = {"drain_seconds": 2, "max_inflight_messages": 200, "max_queued_steps": 10_000_000}
    with running_server(small.repository, **flags) as server, connected(server) as stub:
        replies = stub.StepStream(messages())
        next(replies)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 1
        assert "NOT answered" in server.log()


@pytest.mark.parametrize("port", ["port", "metrics-port"])
def test_a_port_that_is_taken_is_named(small: SmallModel, server: RunningServer, port: str) -> None:
    taken = (server.address if port == "port" else server.metrics_url.split("/")[2]).split(":")[1]
    flags = {"port": "0", "metrics-port": "0"} | {port: taken}
    command = [sys.executable, "-m", "server", "--model-repository", str(small.repository)]
    command += ["--store=none", *(f"--{name}={value}" for name, value in flags.items())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 2
    assert f"127.0.0.1:{taken}" in done.stderr and "Traceback" not in done.stderr
