"""The clients' comparison: its sums, and both drivers for a moment, against our own server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks import machine
from benchmarks.clients import OURS, TRITON, Side, Window, measure, summary, table
from benchmarks.load import WrongAnswer, check_outputs
from benchmarks.machine import ServerProcess, serving
from benchmarks.models import H64
from tidegate import SyncClient

SERVER_CORE, LOAD_CORE = machine.choose_cores()
# Our server speaks Triton's protocol too.
BOTH = [
    OURS,
    *(
        Side(way, "onnxruntime", (sys.executable, "-m", "benchmarks.triton.driver"), (way,), 1e-5)
        for way in ("unary", "stream")
    ),
]


@pytest.fixture(scope="module")
def h64(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    repository: Path = tmp_path_factory.mktemp("models")
    H64.write(repository)
    with serving(repository, SERVER_CORE) as server:
        yield server


def window(rate: float, p50: float) -> Window:
    return Window(rate, p50, 2 * p50, 1.0, 2.0, 10)


def test_the_table_holds_medians_and_the_ratio_of_rates() -> None:
    ours = summary(OURS, 64, [window(rate, 5) for rate in (1000, 4000, 2000)])
    theirs = summary(TRITON[0], 64, [window(500, p50) for p50 in (9, 7, 8)])
    assert (ours.rate, ours.slowest, ours.fastest, ours.checked) == (2000, 1000, 4000, 30)
    assert (theirs.p50, theirs.p99) == (8, 16)
    lines = table([ours, theirs]).splitlines()
    assert lines[2].startswith(
        "| 64 | tidegate.Client | onnxruntime | 2,000 (1,000 to 4,000) | 5 |"
    )
    assert lines[3].endswith("| 4.0 x |")


@pytest.mark.parametrize("side", BOTH, ids=lambda side: side.name)
def test_a_window_is_measured_and_checked_and_leaves_no_session(
    h64: ServerProcess, side: Side
) -> None:
    seen = measure(side, h64, 8, 0.3, 1, LOAD_CORE)
    assert seen.rate > 0 and seen.checked > 0
    assert 0 < seen.p50 <= seen.p99
    assert seen.client_cpu > 0 and seen.server_cpu > 0
    with SyncClient(h64.address) as client:
        assert list(client.sessions(H64.name)) == []


def test_a_load_that_fails_is_no_result(h64: ServerProcess) -> None:
    broken = Side("broken", "none", (sys.executable, "-c", "print('begin')"), (), 1e-5)
    with pytest.raises(RuntimeError, match="ended before its window's end"):
        measure(broken, h64, 1, 0.1, 1, LOAD_CORE)


def test_a_wrong_answer_is_no_result() -> None:
    observations = np.zeros((4, 16), np.float32)
    with pytest.raises(WrongAnswer, match="step 0 is off"):
        check_outputs(observations, np.ones((1, 32), np.float32))
    with pytest.raises(WrongAnswer, match="no step was answered"):
        check_outputs(observations, np.empty((0, 32), np.float32))
