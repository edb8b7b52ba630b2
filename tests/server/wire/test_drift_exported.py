"""Drift as an operator sees it: on the metrics page of a server under way."""

from __future__ import annotations

import json
import math
import subprocess
import time
from pathlib import Path

import numpy as np

from tests.harness import running_server, small_model
from tests.server.transports import NATIVE, over
from tests.server.wire.wire import batch, connected
from tidegate.v1 import tidegate_pb2 as pb
from training.distribution import distribution

pytestmark = over(NATIVE)

ROWS = 64


def test_a_feature_that_drifts_shows_and_one_that_does_not_does_not(tmp_path: Path) -> None:
    small_model(tmp_path)
    path = tmp_path / "small" / "1" / "model.json"
    raw = json.loads(path.read_text())
    rng = np.random.default_rng(6)
    for k in (1, 3):
        raw["features"][k]["distribution"] = distribution(rng.normal(size=5_000))
    path.write_text(json.dumps(raw))
    lanes = [pb.LaneOpen(lane=k, session_id=f"s{k}", create=True) for k in range(ROWS)]
    with running_server(tmp_path, drift_window=10.0) as server, connected(server) as stub:
        assert math.isnan(server.metric("tidegate_feature_psi", feature="x1"))
        until = time.monotonic() + 20
        while server.metric("tidegate_feature_samples") < 1_000:
            assert time.monotonic() < until
            x = rng.normal(size=(200, ROWS, 5))
            x[..., 3] += 1.0
            messages = (batch(k, range(ROWS), x[k], opens=lanes) for k in range(200))
            assert all(set(reply.status) == {0} for reply in stub.StepStream(messages))
        assert server.metric("tidegate_feature_psi", feature="x1") < 0.1
        assert server.metric("tidegate_feature_psi", feature="x3") > 0.25
        page = server.metrics()
    assert 'feature="x0"' not in page
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=page, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
