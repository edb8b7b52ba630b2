"""From start to stop: what refuses to start, health, drains, kills, caps and expiry."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.conftest import SmallModel
from tests.harness import ROOT, RunningServer, await_ready, running_server, small_model, start
from tests.server.transports import NATIVE, over
from tests.server.wire.wire import batch, connected, failing, observations, step_request
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.v1 import tidegate_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
MANY = 20


def health(address: str, service: str = "") -> int:
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=service)
        return int(stub.Check(request, timeout=10, wait_for_ready=True).status)


def many_models(repository: Path) -> Path:
    """Versions enough for loading to take a while."""
    for version in range(1, MANY + 1):
        small_model(repository, "small", version)
    return repository


def listening(process: subprocess.Popen[bytes], log: Path) -> str:
    """The address of a server that listens, before its models are loaded."""
    while process.poll() is None:
        if found := re.search(r"listening on (\S+:\d+)", log.read_text()):
            return found[1]
        time.sleep(0.002)
    raise AssertionError(f"the server did not listen:\n{log.read_text()}")


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server", "--port", "0", "--metrics-port", "0"]
    command += ["--store", "none", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--device", "cuda"], "device cuda cannot be used: no NVIDIA driver"),
        (["--device", "tpu"], "device must be 'auto', 'cpu' or 'cuda', not 'tpu'"),
        (["--port", "70000"], "port must be less than or equal to 65535, not '70000'"),
        (["--max-batch", "none"], "max_batch must be a valid integer"),
        (["--session-ttl", "-1"], "session_ttl must be greater than 0, not '-1'"),
        (["--model-repository", "/nowhere"], "model_repository must be a folder"),
    ],
)
def test_a_server_that_cannot_start_says_why_and_exits(
    small: SmallModel, flags: list[str], says: str
) -> None:
    done = run("--model-repository", str(small.repository), *flags)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@over(NATIVE)
def test_an_empty_repository_and_a_taken_port_are_said(
    small: SmallModel, server: RunningServer, tmp_path: Path
) -> None:
    assert "no NAME/VERSION folder" in run("--model-repository", str(tmp_path)).stderr
    port = server.address.rsplit(":", 1)[1]
    done = run("--model-repository", str(small.repository), "--port", port)
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr


def test_until_the_models_are_warm_health_says_so_and_calls_are_told_to_wait(
    tmp_path: Path,
) -> None:
    process, log = start(many_models(tmp_path))
    try:
        address = listening(process, log)
        with grpc.insecure_channel(address, [("grpc.enable_retries", 0)]) as channel:
            stub = tidegate_pb2_grpc.TidegateStub(channel)
            assert health(address) == NOT_SERVING
            calls: list[Callable[[], object]] = [
                lambda: stub.ListModels(pb.ListModelsRequest()),
                lambda: stub.List(pb.ListRequest(model="small")),
                lambda: stub.Open(pb.OpenRequest(model="small", session_id="early")),
                lambda: next(stub.StepStream(iter([pb.StepBatch(model="small")]))),
            ]
            for call in calls:
                with failing("STARTING") as seen:
                    call()
                assert seen[0].detail.retry_after_ms > 0
            index: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
                "/inference.GRPCInferenceService/RepositoryIndex"
            )
            with failing("STARTING"):
                index(b"")
            assert "serving grpc" not in log.read_text()
            await_ready(process, log)
            assert health(address) == SERVING
            assert len(stub.ListModels(pb.ListModelsRequest()).models) == MANY
            assert log.read_text().count(" server.serving.loader serving small/") == MANY
    finally:
        process.kill()
        process.wait()


def test_sigterm_while_models_load_stops_at_once_and_nothing_is_announced(tmp_path: Path) -> None:
    process, log = start(many_models(tmp_path))
    try:
        listening(process, log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
    assert "stopped while loading" in log.read_text()
    assert "serving grpc" not in log.read_text()


DYING = """
import sys, server.{module} as part
from server.__main__ import main
real = part.{owner}.{method}
def dies(*of, left=[{after}]):
    left[0] -= 1
    if left[0] < 0:
        raise RuntimeError("struck by lightning")
    return real(*of)
part.{owner}.{method} = dies
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"module": "scheduler.queue", "owner": "StepQueue", "method": "finish", "after": 3},
         "a model's scheduler died"),
        ({"module": "serving.registry", "owner": "Registry", "method": "expire", "after": 1},
         "struck by lightning"),
    ],
)  # fmt: skip
def test_a_loop_that_dies_takes_health_and_the_process_with_it(
    small: SmallModel, part: dict[str, object], says: str
) -> None:
    """Once health went on to say SERVING, and whoever called waited for ever."""
    process, log = start(
        small.repository, "--session-ttl", "1", "--drain-seconds", "2", code=DYING.format(**part)
    )
    running = await_ready(process, log)
    try:
        with connected(running) as stub, contextlib.suppress(grpc.RpcError):
            x = observations(1, 20)
            opens = [pb.LaneOpen(lane=0, session_id="one", create=True)]
            for step in range(10):
                message = batch(step, [0] * 20, x, opens=opens)
                assert list(stub.StepStream(iter([message]), timeout=30))
        assert process.wait(30) == 1
    finally:
        process.kill()
        process.wait()
    assert says in log.read_text()
    assert "struck by lightning" in log.read_text()


@over(NATIVE)
def test_a_transport_that_dies_is_not_waited_for_by_the_drain(small: SmallModel) -> None:
    """Calls that it had handed over then never begin, as far as anybody is told."""
    code = DYING.format(module="transport.native.bridge", owner="Bridge", method="_begun", after=0)
    code = code.replace("RuntimeError", "SystemExit")  # no failure of a call, but of the loop
    flags = ("--drain-seconds", "600")
    process, log = start(small.repository, *flags, code=code)
    try:
        with connected(await_ready(process, log)) as stub, contextlib.suppress(grpc.RpcError):
            stub.List(pb.ListRequest(model="small"), timeout=30)
        assert process.wait(60) == 1
    finally:
        process.kill()
        process.wait()
    assert "the transport's loop died" in log.read_text()


def test_health_names_the_service_and_reflection_lists_it(server: RunningServer) -> None:
    assert health(server.address, "tidegate.v1.Tidegate") == SERVING
    with grpc.insecure_channel(server.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = stub.ServerReflectionInfo(iter([ask]))
    names = {service.name for service in answer.list_services_response.service}
    assert {"tidegate.v1.Tidegate", "grpc.health.v1.Health"} <= names


def test_sigterm_answers_what_is_queued_then_refuses_and_exits_cleanly(small: SmallModel) -> None:
    x = observations(1, 64)
    with running_server(small.repository, max_batch=1) as server, connected(server) as stub:
        lanes = [pb.LaneOpen(lane=k, session_id=f"d-{k}", create=True) for k in range(64)]
        go_on = threading.Event()

        def requests() -> Iterator[pb.StepBatch]:
            yield batch(1, range(64), x, [0] * 64, opens=lanes)
            go_on.wait(20)

        replies = stub.StepStream(requests())
        first = next(replies)
        server.process.send_signal(signal.SIGTERM)
        with failing("DRAINING"):
            next(replies)
        go_on.set()
        assert list(first.status) == [0] * 64
        assert server.process.wait(10) == 0
        assert "everything queued was answered" in server.log()


def test_a_loaded_server_loses_no_answer_when_it_drains(small: SmallModel) -> None:
    """Every step is either applied and answered, or refused as draining or unreachable."""
    answered, refused = [0] * 8, [0] * 8

    def load(worker: int, server: RunningServer) -> None:
        with connected(server) as stub:
            name = f"load-{worker}"
            stub.Open(pb.OpenRequest(model="small", session_id=name))
            x = observations(worker, 1)
            for step in range(20_000):
                try:
                    stub.Step(step_request(name, step, x), timeout=10)
                    answered[worker] += 1
                except grpc.RpcError as error:
                    assert error.code() is grpc.StatusCode.UNAVAILABLE, error
                    refused[worker] += 1
                    return

    with running_server(small.repository) as server:
        threads = [threading.Thread(target=load, args=(k, server)) for k in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        assert server.terminate() == 0
        for thread in threads:
            thread.join(20)
    assert min(answered) > 0
    assert refused == [1] * 8


def test_after_kill_9_a_new_server_answers_unknown_session(small: SmallModel) -> None:
    x = observations(1, 1)
    with running_server(small.repository) as server, connected(server) as stub:
        stub.Open(pb.OpenRequest(model="small", session_id="gone"))
        stub.Step(step_request("gone", 0, x))
        server.process.kill()
        server.process.wait()
        with pytest.raises(grpc.RpcError) as caught:
            stub.Step(step_request("gone", 1, x), timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    with running_server(small.repository) as server, connected(server) as stub:
        with failing("UNKNOWN_SESSION"):
            stub.Step(step_request("gone", 1, x), wait_for_ready=True, timeout=10)
        assert stub.Open(pb.OpenRequest(model="small", session_id="gone")).created


def test_an_idle_session_expires_with_when_and_a_used_one_does_not(small: SmallModel) -> None:
    x = observations(2, 40)
    with running_server(small.repository, session_ttl=0.6) as server, connected(server) as stub:
        for name in ("idle", "busy"):
            stub.Open(pb.OpenRequest(model="small", session_id=name))
        opened = time.time()
        for step in range(12):
            stub.Step(step_request("busy", step, x[step]))
            time.sleep(0.1)
        with failing("EXPIRED") as seen:
            stub.Step(step_request("idle", 0, x[0]))
        ended = seen[0].detail.ended_at.ToMicroseconds() / 1e6
        assert opened + 0.5 < ended < time.time()
        assert stub.Get(pb.GetRequest(model="small", session_id="busy")).steps == 12
        assert server.metric("tidegate_sessions_expired_total", reason="idle") == 1
        assert server.metric("tidegate_sessions_live") == 1
        assert stub.Open(pb.OpenRequest(model="small", session_id="idle")).created


def test_a_session_over_the_cap_is_refused_with_when_to_retry(small: SmallModel) -> None:
    flags = {"max_sessions": 3, "session_ttl": 100}
    with running_server(small.repository, **flags) as server, connected(server) as stub:
        for k in range(3):
            stub.Open(pb.OpenRequest(model="small", session_id=f"s{k}"))
        with failing("SESSIONS_FULL") as seen:
            stub.Open(pb.OpenRequest(model="small", session_id="s3"))
        assert seen[0].detail.retry_after_ms == 1000
        assert seen[0].metadata["grpc-retry-pushback-ms"] == str(seen[0].detail.retry_after_ms)
        assert not stub.Open(pb.OpenRequest(model="small", session_id="s1")).created
        stub.Close(pb.CloseRequest(model="small", session_id="s1"))
        assert stub.Open(pb.OpenRequest(model="small", session_id="s3")).created
