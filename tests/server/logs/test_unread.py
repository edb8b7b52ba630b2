"""A server whose log nobody reads, and one whose log somebody does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import grpc
import pytest

from tests.conftest import SmallModel
from tests.harness import DATA, READY, ROOT, RunningServer, running_server
from tests.server.wire.wire import connected, observations, step_request
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.v1 import tidegate_pb2_grpc

TRANSPORTS = ("native", "aio")
RECORD = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z [A-Z]+ [\w.]+ ")


@contextmanager
def unread_server(small: SmallModel, *flags: str) -> Iterator[tuple[RunningServer, IO[bytes]]]:
    """A server whose stderr is a pipe, which is read until the server serves and not beyond."""
    command = [
        sys.executable, "-m", "server", "--model-repository", str(small.repository), "--port", "0",
        "--metrics-port", "0", "--data-folder", tempfile.mkdtemp(dir=DATA), *flags,
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stderr is not None
        try:
            text = ""
            while not (ready := READY.search(text)):
                come = os.read(process.stderr.fileno(), 4_096)
                assert come, text
                text += come.decode()
            address, metrics = ready.groups()
            yield RunningServer(process, Path(), address, f"http://{metrics}/"), process.stderr
        finally:
            process.kill()


def flood(stub: tidegate_pb2_grpc.TidegateStub, calls: int) -> None:
    """Calls that leave a record each, of a thousand characters."""
    request = pb.CloseRequest(model="m" * 500, session_id="s" * 256)
    also = (("x-request-id", "r" * 128),)
    for _ in range(calls // 100):
        for call in [stub.Close.future(request, metadata=also) for _ in range(100)]:
            assert call.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_log_that_nobody_reads_holds_up_neither_steps_nor_the_end(
    small: SmallModel, transport: str
) -> None:
    with (
        unread_server(small, "--transport", transport) as (server, unread),
        connected(server) as stub,
    ):
        stub.Open(pb.OpenRequest(model="small", session_id="on"))
        flood(stub, 1_500)
        for step in range(20):
            stub.Step(step_request("on", step, observations(step, 1)), timeout=30)
        assert server.terminate(60) == 0
        whole, _ = unread.read().rsplit(b"\n", 1)
        assert len(whole) > 60_000
        assert all(RECORD.match(line) for line in whole.decode().splitlines())


def test_what_was_dropped_meanwhile_is_counted_once_somebody_reads_on(small: SmallModel) -> None:
    with unread_server(small) as (server, unread), connected(server) as stub:
        flood(stub, 1_500)
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(unread.read().decode().splitlines()))
        reader.start()
        assert server.terminate(60) == 0
        reader.join()
    told = sum(" server.audit Close " in line for line in lines)
    dropped = [int(n) for n in re.findall(r"(\d+) records were dropped", "\n".join(lines))]
    assert dropped
    last = "stopped; everything queued was answered"
    assert lines[-1].endswith(last)
    others = sum(bool(RECORD.match(line)) for line in lines) - told - len(dropped)
    assert 1_500 <= told + sum(dropped) <= 1_500 + others


def test_what_is_read_holds_every_record_to_the_last_and_no_header_that_lets_callers_in(
    small: SmallModel,
) -> None:
    with running_server(small.repository, log_level="debug") as server, connected(server) as stub:
        stub.ListModels(pb.ListModelsRequest(), metadata=(("authorization", "Bearer hunter2"),))
        flood(stub, 300)
        assert server.terminate() == 0
        assert server.log().count(" server.audit Close ") == 300
        assert server.log().endswith("stopped; everything queued was answered\n")
        assert " DEBUG " in server.log()
        assert "hunter2" not in server.log()
