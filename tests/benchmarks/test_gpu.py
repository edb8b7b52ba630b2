"""`benchmarks.gpu` as users run it: on the CPU, and over a GPU's double, right and wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import machine
from benchmarks.gpu.proofs import ROWS
from benchmarks.gpu.served import serving
from benchmarks.gpu.tables import (
    ON_DEVICE,
    RUN,
    TO_DEVICE,
    TO_HOST,
    floor_of,
    least_bytes,
    pays,
)
from server.engine.device import DeviceError, choose
from tests.harness import ROOT

MOST = 9
DOUBLES = "tests.benchmarks.gpu_doubles"


def run(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], list[Any]]:
    """A run of little; and its records."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(folder), *arguments]
    command += ["--models", "h64", "--batches", "1", "9", "--most", str(MOST), "--slots", "10"]
    command += ["2000", "--sessions", "1500", "--table-slots", "100", "--seconds", "0.02"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    return finished, json.loads((folder / "results.json").read_text())


def of(records: list[Any], kind: str) -> list[Any]:
    return [each for each in records if each["kind"] == kind]


def test_without_cuda_it_says_why_and_exits_2(tmp_path: Path) -> None:
    try:
        choose("cuda")
    except DeviceError as error:
        finished, records = run(tmp_path)
        assert finished.returncode == 2
        assert finished.stderr.endswith(f"gpu-proof: {error}\n")
        assert not of(records, "proof")


def test_on_the_cpu_every_part_is_done_and_reported(tmp_path: Path) -> None:
    finished, records = run(tmp_path, "--device", "cpu")
    wrong = [each for each in of(records, "proof") if not each["good"]]
    # Whether a run costs the same in every arena is for the clock to say.
    assert not [each for each in wrong if each["proof"] != "in place"]
    assert finished.returncode == (1 if wrong else 0), finished.stderr
    assert {each["proof"] for each in of(records, "proof")} == {
        "outputs", "captured", *ROWS, "ahead", "together", "in place",
    }  # fmt: skip
    ways = {each["way"] for each in of(records, "steps")}
    assert {"CPU, 1 thread", "torch, eager"} <= ways
    for each in of(records, "steps"):
        assert 0 < each["p50"] <= each["p99"]
    assert [each["way"] for each in of(records, "served")] == [
        "unary Step", "unary Step", "columnar stream",
    ]  # fmt: skip
    assert all(each["checked"] > 0 for each in of(records, "served"))
    assert [each["sessions"] for each in of(records, "resident")] == [1500]
    assert [each["resident"] for each in of(records, "spill")] == [1024]
    text = (tmp_path / "RESULTS.md").read_text()
    for title in ("Proofs", "Runs of single steps", "A server", "Resident sessions"):
        assert f"\n## {title}\n" in text
    assert "onnxruntime-gpu " in text and "--device cpu" in text
    assert "floor: left out" in text


def test_on_a_double_that_is_right_every_proof_is_good_and_runs_are_measured(
    tmp_path: Path,
) -> None:
    _, records = run(tmp_path, "proofs", "steps", "--prepare", f"{DOUBLES}:double")
    found = of(records, "proof")
    assert not [each for each in found if not each["good"] and each["proof"] != "in place"]
    assert {each["proof"] for each in found} == {
        "outputs", "captured", *ROWS, "ahead", "thread", "together", "memory", "in place",
    }  # fmt: skip
    ways = {each["way"] for each in of(records, "steps")}
    for how in ("captured", "eager"):
        assert {f"{how}, ScatterElements", f"{how}, ScatterND"} <= ways
    assert "### From which batch" in (tmp_path / "RESULTS.md").read_text()


def test_a_wrong_engine_fails_the_run_and_the_report_names_what_is_wrong(tmp_path: Path) -> None:
    finished, records = run(tmp_path, "proofs", "--prepare", f"{DOUBLES}:wrong")
    assert finished.returncode == 1
    assert "WRONG  forecast | h64, ScatterElements, float32" in finished.stdout
    assert "**WRONG: " in (tmp_path / "RESULTS.md").read_text()
    assert of(records, "proven"), "the proofs after it are done all the same"


def test_parts_whose_packages_are_missing_say_so_and_the_others_go_on(tmp_path: Path) -> None:
    parts = ("torch", "served", "sessions", "steps")
    finished, records = run(tmp_path, *parts, "--device", "cpu", "--prepare", f"{DOUBLES}:bare")
    assert finished.returncode == 0, finished.stderr
    told = {each["part"]: each["why"] for each in of(records, "left out")}
    assert told["torch"] == "the package torch is not installed"
    assert set(told) == {"torch", "served", "sessions"}
    assert all("is not installed" in why for why in told.values())
    assert of(records, "steps")


def test_a_package_that_the_server_alone_needs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def started(*_: object) -> Iterator[None]:
        raise RuntimeError("did not start:\nModuleNotFoundError: No module named 'pydantic'\n")
        yield

    monkeypatch.setattr(machine, "started", started)
    with pytest.raises(ModuleNotFoundError) as error, serving(tmp_path, "cpu"):
        pass
    assert error.value.name == "pydantic"


def test_proofs_that_are_cut_off_are_no_proofs_and_what_was_found_is_kept(tmp_path: Path) -> None:
    cut = ("proofs", "--device", "cpu", "--minutes", "0.03", "--prepare", f"{DOUBLES}:hanging")
    finished, records = run(tmp_path, *cut)
    assert finished.returncode == 1
    assert of(records, "cut off") and not of(records, "proven")
    assert "the proofs were not finished" in (tmp_path / "RESULTS.md").read_text()


def test_the_engines_parts_need_neither_grpc_nor_prometheus_nor_torch_nor_pydantic() -> None:
    program = "import sys, benchmarks.gpu.proofs, benchmarks.gpu.steps; print(*sys.modules)"
    command = [sys.executable, "-c", program]
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    absent = {"grpc", "prometheus_client", "torch", "pydantic", "pydantic_settings"}
    assert not absent & set(loaded.stdout.split())


def test_a_gpu_pays_from_the_batch_on_from_which_it_is_faster_at_every_larger_one() -> None:
    def steps(way: str, *times: float) -> list[dict[str, Any]]:
        batches = zip((1, 16, 64, 256), times, strict=True)
        return [{"model": "h64", "way": way, "batch": b, "p50": p50} for b, p50 in batches]

    found = [
        *steps("captured, ScatterElements", 50, 50, 50, 60),
        *steps("CPU, 1 thread", 20, 60, 50, 500),
        *steps("torch, eager", 10, 10, 10, 10),
    ]
    assert pays({"steps": found}).splitlines()[-1] == "| h64 | 256 | none to 256 |"


def test_the_floor_is_the_launch_and_the_least_bytes_over_the_bandwidths() -> None:
    weights = 4 * 64 * (64 + 64 + 1) + 32 * 65
    assert least_bytes("h64", 10) == 4 * (weights + 10 * (2 * 2 * 64 + 64 + 32))
    speeds = {ON_DEVICE: 1e12, TO_DEVICE: 1e10, TO_HOST: 2e10}
    kinds = {
        "floor": [{"what": RUN, "seconds": 9e-6}],
        "bandwidth": [{"what": w, "bytes_per_second": s} for w, s in speeds.items()],
    }
    copies = 10 * (9 + 4 * 64) / 1e10 + 10 * 4 * 32 / 2e10
    least = 9e-6 + least_bytes("h64", 10) / 1e12 + copies
    assert floor_of(kinds, "h64", 10) == pytest.approx(least)
    assert floor_of({**kinds, "floor": []}, "h64", 10) is None
