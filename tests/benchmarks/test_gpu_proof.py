"""`benchmarks.gpu_proof` runs as users run it, on the CPU where there is no CUDA."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.device_checks import InPlace, compare_with_cpu, is_flat
from benchmarks.gpu_proof import measure_latency
from benchmarks.models import DEVICE_SHAPES
from server.engine.device import Device, DeviceError, choose
from server.engine.engine import Engine, EngineRows
from tests.harness import ROOT

H64 = DEVICE_SHAPES[0]


def gpu_proof(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu_proof", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def quick(*arguments: str) -> subprocess.CompletedProcess[str]:
    return gpu_proof(
        *("--models", "h64", "--batches", "1", "3", "--seconds", "0.02"),
        *("--capacities", "10", "5000", *arguments),
    )


def test_without_cuda_it_says_why_and_exits_2_and_with_cuda_it_passes() -> None:
    finished = quick()
    try:
        choose("cuda")
    except DeviceError as error:
        assert (finished.returncode, finished.stdout) == (2, "")
        assert finished.stderr == f"gpu-proof: {error}\n"
        assert "device cuda cannot be used" in finished.stderr
    else:
        assert finished.returncode == 0, finished.stdout


def test_on_the_cpu_every_check_passes_and_every_table_is_printed(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    finished = quick("--device", "cpu", "--json", str(figures))
    document = json.loads(figures.read_text())
    assert all(row["outputs"] == row["states"] == 0 for row in document["parity"])
    rows = [InPlace(**row) for row in document["in_place"]]
    assert not any(row.problem for row in rows)
    # Whether the cost is flat is for the clock to say.
    status, verdict = (0, "all checks passed\n") if is_flat(rows) else (1, "see above\n")
    assert (finished.returncode, finished.stdout[-len(verdict) :]) == (status, verdict)
    assert "TF32 off" in finished.stdout
    assert [row["graph"] for row in document["parity"]] == ["single", "ragged", "mixed"]
    assert [row["capacity"] for row in document["in_place"]] == [10, 10, 5000, 5000]
    assert [(row["width"], row["batch"]) for row in document["latency"]] == [
        (1, 1), (1, 3), (16, 1), (16, 3),
    ]  # fmt: skip
    for row in document["latency"]:
        assert 0 < row["p50"] <= row["p99"]
        assert f"| {row['model']} | {row['width']} | {row['batch']} |" in finished.stdout


def test_the_proof_needs_neither_grpc_nor_prometheus_nor_torch_nor_pydantic() -> None:
    program = "import sys, benchmarks.gpu_proof; print(*sys.modules)"
    command = [sys.executable, "-c", program]
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    absent = {"grpc", "prometheus_client", "torch", "pydantic", "pydantic_settings"}
    assert not absent & set(loaded.stdout.split())


def test_a_device_that_answers_otherwise_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    run, calls = Engine.run, []

    def off_at_times(engine: Engine, rows: EngineRows) -> np.ndarray:
        calls.append(rows)
        return run(engine, rows) * np.float32(1.01 if len(calls) % 2 else 1)

    monkeypatch.setattr(Engine, "run", off_at_times)
    results = compare_with_cpu(H64, Device("cpu"))
    assert not any(result.good for result in results)
    assert all(result.outputs == pytest.approx(0.01, rel=0.01) for result in results)


@pytest.mark.parametrize(("cost", "flat"), [(110e-6, True), (5e-3, False)])
def test_a_cost_that_grows_with_the_arena_is_reported(cost: float, flat: bool) -> None:
    small = InPlace("h64", "single", 1_000, 0, 100e-6, "")
    large = InPlace("h64", "single", 1_000_000, 0, cost, "")
    assert is_flat([small, large]) is flat


def test_latency_is_measured_for_every_width_and_batch() -> None:
    rows = list(measure_latency(H64, Device("cpu"), [2, 8], [1, 4], 0.01))
    assert [(row.width, row.batch) for row in rows] == [(1, 2), (1, 8), (4, 2), (4, 8)]
    assert all(row.steps_per_second > 0 and row.runs >= 5 for row in rows)
