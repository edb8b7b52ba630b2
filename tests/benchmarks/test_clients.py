"""The clients' comparison: its sums, and our side of it for a moment."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from benchmarks import cores
from benchmarks.clients import summary, table
from benchmarks.models import H64
from benchmarks.server_process import serving
from benchmarks.sides import OURS, TRITON, Window, _check, measure
from benchmarks.witness import WrongAnswer


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


def test_a_window_of_our_side_is_measured_and_checked() -> None:
    server_core, load_core = cores.choose()
    with tempfile.TemporaryDirectory() as folder:
        H64.write(Path(folder))
        with serving(Path(folder), server_core) as server:
            seen = measure(OURS, server, 8, 0.3, 1, load_core)
    assert seen.rate > 100 and seen.checked > 10
    assert 0 < seen.p50 <= seen.p99
    assert seen.client_cpu > 0 and seen.server_cpu > 0


def test_a_wrong_answer_is_no_result() -> None:
    with pytest.raises(WrongAnswer, match="step 0 is off"):
        _check([[0.0] * 16] * 4, [[1.0] * 32], 1e-5)
    with pytest.raises(WrongAnswer, match="no step was answered"):
        _check([[0.0] * 16] * 4, [], 1e-5)
