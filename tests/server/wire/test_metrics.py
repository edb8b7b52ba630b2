"""The metrics port: what it tells after known traffic, and that Prometheus's tool accepts it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from tests.conftest import SmallModel
from tests.harness import RunningServer, running_server
from tests.server.wire.wire import batch, connected, observations, step_request
from tidegate.v1 import tidegate_pb2 as pb


@pytest.fixture(scope="module")
def busy(transport: str, small: SmallModel) -> Iterator[RunningServer]:
    """A server after 10 unary steps, 3 x 20 columnar ones, a retry, and three kinds of errors."""
    x = observations(1, 20)
    with running_server(small.repository) as server, connected(server) as stub:
        stub.Open(pb.OpenRequest(model="small", session_id="one"))
        for step in range(10):
            stub.Step(step_request("one", step, x[step]))
        stub.Step(step_request("one", 9, x[9]))
        lanes = [pb.LaneOpen(lane=k, session_id=f"m-{k}", create=True) for k in range(20)]
        messages = [batch(t, range(20), x, [t] * 20, opens=[] if t else lanes) for t in range(3)]
        messages.append(batch(3, [0, 1], np.full((2, 5), np.nan)))
        list(stub.StepStream(iter(messages)))
        for request in (
            step_request("one", 99, x[0]),
            step_request("nobody", 0, x[0]),
            step_request("one", 0, x[0], model="none"),
        ):
            with pytest.raises(grpc.RpcError):
                stub.Step(request)
        stub.Close(pb.CloseRequest(model="small", session_id="m-3"))
        yield server


def test_metrics_tell_what_happened(busy: RunningServer) -> None:
    assert busy.metric("tidegate_steps_total", model="small", version="1") == 70
    assert busy.metric("tidegate_sessions_live") == 20
    assert busy.metric("tidegate_sessions_opened_total") == 21
    assert busy.metric("tidegate_sessions_closed_total") == 1
    assert busy.metric("tidegate_replies_remembered_total") == 1
    assert busy.metric("tidegate_queue_steps") == 0
    assert busy.metric("tidegate_device_info", device="cpu") == 1
    # Two layers of 12 units, h and c, float32, for 10,000 sessions and the scratch row.
    assert busy.metric("tidegate_state_bytes") == 4 * 12 * 4 * 10_001


def test_errors_are_counted_by_code_and_reason(busy: RunningServer) -> None:
    count = busy.metric
    assert count("tidegate_errors_total", code="INVALID_ARGUMENT", reason="bad_input") == 2
    assert count("tidegate_errors_total", code="FAILED_PRECONDITION", reason="step_gap") == 1
    assert count("tidegate_errors_total", code="NOT_FOUND", reason="unknown_session") == 1
    assert count("tidegate_errors_total", code="NOT_FOUND", reason="unknown_model") == 1


def test_every_step_is_in_every_histogram(busy: RunningServer) -> None:
    for name in ("queue", "engine"):
        assert busy.metric(f"tidegate_step_{name}_seconds_count") >= 70
    assert busy.metric("tidegate_step_seconds_count") >= 70
    assert busy.metric("tidegate_batch_rows_sum") == 70
    assert 0 < busy.metric("tidegate_step_seconds_sum") < 70


def test_promtool_finds_nothing_wrong(busy: RunningServer) -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=busy.metrics(), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
