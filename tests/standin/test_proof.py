"""`benchmarks.gpu` over the stand-ins: where kernels do nothing, proofs of what is computed fail,
and no others; what is measured there means nothing, but it is measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.floor import CHAIN
from tests.harness import ROOT
from tests.standin.libraries import environment
from tests.standin.trace import Replay, Trace

LITTLE = (
    *("--models", "h64", "--batches", "1", "4", "--most", "5", "--slots", "10", "2000"),
    *("--table-slots", "100", "--seconds", "0.01"),
)


@pytest.fixture(scope="module")
def finished(
    libraries: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, list[dict[str, Any]], Path]:
    """Status, records, and the folder, with the trace."""
    folder = tmp_path_factory.mktemp("proof")
    command = [sys.executable, "-m", "benchmarks.gpu", "proofs", "floor", "steps"]
    done = subprocess.run(
        [*command, "--out", str(folder), *LITTLE], cwd=ROOT, capture_output=True, timeout=200,
        env=os.environ | environment(libraries, folder / "trace", memory=2**28),
    )  # fmt: skip
    return done.returncode, json.loads((folder / "results.json").read_text()), folder


def of(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [each for each in records if each["kind"] == kind]


def test_where_kernels_do_nothing_every_proof_of_what_is_computed_fails(
    finished: tuple[int, list[dict[str, Any]], Path],
) -> None:
    status, records, _ = finished
    assert status == 1
    good: dict[str, list[bool]] = {}
    for each in of(records, "proof"):
        good.setdefault(each["proof"], []).append(each["good"])
    for name in ("outputs", "captured", "begun", "rows", "others", "forecast", "ahead", "together"):
        assert not any(good[name]), name
    assert not all(good["in place"])
    assert all(good["thread"]) and all(good["memory"])
    assert of(records, "proven")


def test_every_way_of_a_run_is_measured_there(
    finished: tuple[int, list[dict[str, Any]], Path],
) -> None:
    _, records, folder = finished
    ways = {each["way"] for each in of(records, "steps")}
    for how in ("captured", "eager"):
        assert {f"{how}, ScatterElements", f"{how}, ScatterND"} <= ways
    assert "| batch | floor | captured, ScatterElements |" in (folder / "RESULTS.md").read_text()


def test_the_driver_s_floor_is_measured_by_graphs_of_one_and_of_many_empty_kernels(
    finished: tuple[int, list[dict[str, Any]], Path],
) -> None:
    _, records, folder = finished
    assert len(of(records, "floor")) == 6 and len(of(records, "bandwidth")) == 3
    assert not [each for each in of(records, "left out") if each["part"] == "floor"]
    replays = {each.launches for each in Trace.read(folder / "trace").of(Replay)}
    assert {1, CHAIN} <= replays
