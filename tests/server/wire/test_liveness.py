"""`tidegate.live` tells a server that hangs from one that is merely not to be called."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.metrics import Metrics
from server.serving.registry import Registry
from server.transport.rpcs.liveness import HealthServicer
from tests.conftest import SmallModel
from tests.harness import RunningServer, await_ready, small_model, start
from tests.server.transports import NATIVE, over

LIVE = "tidegate.live"
SERVING = health_pb2.HealthCheckResponse.SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

HANGS = """
import signal, threading
from server.transport.http2.loop import Loop
loops, begin = [], Loop.start
Loop.start = lambda loop: (loops.append(loop), begin(loop))
signal.signal(signal.SIGUSR1, lambda *_: loops[0].post(threading.Event().wait))
from server.__main__ import main
raise SystemExit(main())
"""
"""A server whose transport's loop hangs from SIGUSR1 on."""


@contextmanager
def probed(
    repository: Path, *flags: str, code: str = ""
) -> Iterator[tuple[RunningServer, health_pb2_grpc.HealthStub]]:
    """A server, and its health service in clear."""
    process, log = start(repository, "--health-port=0", "--store=none", *flags, code=code)
    try:
        running = await_ready(process, log)
        found = re.search(r"health checks in clear on (\S+)", running.log())
        assert found
        with grpc.insecure_channel(found[1]) as channel:
            yield running, health_pb2_grpc.HealthStub(channel)
    finally:
        process.kill()
        process.wait()
        log.unlink()


def check(stub: health_pb2_grpc.HealthStub, service: str, seconds: float = 20) -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    return int(stub.Check(request, timeout=seconds).status)


@over(NATIVE)
def test_a_transport_that_hangs_is_not_live_though_its_models_are_ready(small: SmallModel) -> None:
    with probed(small.repository, code=HANGS) as (running, stub):
        assert check(stub, LIVE) == SERVING
        running.process.send_signal(signal.SIGUSR1)
        with pytest.raises(grpc.RpcError) as caught:
            for _ in range(100):  # the first may come before the signal
                check(stub, LIVE, seconds=1)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert check(stub, "") == SERVING


MODEL = "tidegate.model/small"


def test_each_model_has_a_name_that_says_whether_it_takes_steps(tmp_path: Path) -> None:
    small_model(tmp_path)
    broken = tmp_path / "small" / "2"
    shutil.copytree(tmp_path / "small" / "1", broken)
    (broken / "step.onnx").write_bytes(b"none")
    with probed(tmp_path) as (running, stub):
        assert check(stub, MODEL) == check(stub, f"{MODEL}/1") == SERVING
        assert check(stub, f"{MODEL}/2") == NOT_SERVING
        for unknown in ("other", "small/3", "small/0", "small/-1", "small/1/1", "small/٣", ""):
            with pytest.raises(grpc.RpcError) as caught:
                check(stub, f"tidegate.model/{unknown}")
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        request = health_pb2.HealthCheckRequest(service=MODEL)
        watched = stub.Watch(request, timeout=60)
        assert next(watched).status == SERVING
        nobody = health_pb2.HealthCheckRequest(service="tidegate.model/other")
        assert next(stub.Watch(nobody, timeout=60)).status == UNKNOWN
        running.process.send_signal(signal.SIGTERM)
        assert next(watched).status == NOT_SERVING
        assert running.process.wait(20) == 0


def test_a_server_that_drains_is_live_and_not_ready(small: SmallModel) -> None:
    """And says so on the port of the calls as well."""
    with (
        probed(small.repository) as (running, stub),
        grpc.insecure_channel(running.address) as channel,
    ):
        calls = health_pb2_grpc.HealthStub(channel)
        assert check(calls, LIVE) == SERVING
        watched = calls.Watch(health_pb2.HealthCheckRequest(service=LIVE), timeout=60)
        assert next(watched).status == SERVING
        ready = stub.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        live = stub.Watch(health_pb2.HealthCheckRequest(service=LIVE), timeout=60)
        assert next(ready).status == next(live).status == SERVING
        running.process.send_signal(signal.SIGTERM)
        assert next(ready).status == NOT_SERVING
        assert check(stub, LIVE) == SERVING
        with pytest.raises(grpc.RpcError) as ended:  # with the process, and nothing before that
            next(live)
        assert ended.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert running.process.wait(20) == 0


@over(NATIVE)
def test_who_watches_a_model_hears_of_a_drain_that_begins_as_it_is_told_the_state() -> None:
    told: list[int] = []

    async def main() -> None:
        registry = Registry(Metrics())
        registry.add(cast("Any", SimpleNamespace(name="small", version=1, leaving=False)))
        registry.ready = True
        servicer = HealthServicer(registry)

        class Context:
            async def write(self, state: health_pb2.HealthCheckResponse) -> None:
                told.append(state.status)
                if len(told) == 1:
                    await servicer.enter_graceful_shutdown()

        request = health_pb2.HealthCheckRequest(service=MODEL)
        watch = asyncio.create_task(servicer.Watch(request, Context()))
        while len(told) < 2:
            await asyncio.sleep(0.01)
        watch.cancel()
        assert told == [SERVING, NOT_SERVING]

    asyncio.run(asyncio.wait_for(main(), 30))


@over(NATIVE)
def test_a_server_whose_only_model_is_broken_is_live_and_not_ready(tmp_path: Path) -> None:
    small_model(tmp_path)
    (tmp_path / "small" / "1" / "step.onnx").write_bytes(b"none")
    with probed(tmp_path) as (_, stub):
        assert check(stub, "") == NOT_SERVING
        assert check(stub, LIVE) == SERVING
