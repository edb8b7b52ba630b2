"""`benchmarks.steps` runs as users run it, briefly, and refuses wrong answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import machine
from benchmarks.load import FollowedSession, WrongAnswer
from benchmarks.models import H64
from benchmarks.plain import PlainLstm
from benchmarks.steps import WAYS
from tests.harness import ROOT
from training.reference import NumpyNetwork


def test_every_way_in_is_measured_and_its_answers_checked(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.steps", "--seconds", "0.5", "--repeats", "1"]
    finished = subprocess.run(
        [*command, "--json", str(figures)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert finished.returncode == 0, finished.stderr
    results = json.loads(figures.read_text())["results"]
    assert [(r["way"], r["rows"], r["in_flight"]) for r in results] == [
        (way.name, way.rows, way.in_flight) for way in WAYS
    ]
    for result in results:
        assert result["checked_steps"] > 0
        assert result["steps_per_second"] > 0 and result["server_microseconds"] >= 0
        assert result["engine_steps_per_second"] > 0 and result["engine_microseconds"] > 0
        assert result["plain_steps_per_second"] > 0
    assert finished.stdout.count("\n| ") == len(WAYS) + 1


def test_what_the_server_is_measured_beside_says_what_the_reference_says() -> None:
    observations = np.random.default_rng(5).normal(size=(20, 3, H64.inputs)).astype(np.float32)
    plain, model = PlainLstm(H64, 3), NumpyNetwork(H64.weights())
    said = np.stack([plain.step(rows) for rows in observations])
    for row in range(3):
        outputs, _ = model.run(observations[:, row], model.initial())
        np.testing.assert_allclose(said[:, row], outputs, atol=1e-5)


def test_a_followed_session_accepts_the_reference_and_refuses_one_wrong_step() -> None:
    observations = np.random.default_rng(3).normal(size=(4, 16)).astype(np.float32)
    model = NumpyNetwork(H64.weights())
    outputs, _ = model.run(np.resize(observations, (10, 16)), model.initial())
    good, bad = FollowedSession(observations), FollowedSession(observations)
    for step, row in enumerate(outputs):
        good.answered(row.astype(np.float32))
        bad.answered((row + (1e-3 if step == 6 else 0)).astype(np.float32))
    assert good.check() == 10
    with pytest.raises(WrongAnswer, match="step 6"):
        bad.check()
    with pytest.raises(WrongAnswer, match="no step"):
        FollowedSession(observations).check()


def test_the_affinity_of_this_process_is_put_back() -> None:
    before = os.sched_getaffinity(0)
    server, load = machine.choose_cores()
    with machine.pinned(server):
        assert os.sched_getaffinity(0) == {server}
    assert os.sched_getaffinity(0) == before
    assert {server, load} <= before


def test_cpu_time_of_a_process_is_read_in_seconds() -> None:
    tick = 1 / os.sysconf("SC_CLK_TCK")
    before = sum(os.times()[:2])
    used = machine.cpu_seconds(os.getpid())
    assert before - 2 * tick <= used <= sum(os.times()[:2]) + 2 * tick
    assert used > 0
