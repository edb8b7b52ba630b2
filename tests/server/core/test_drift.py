"""Drift: what the stability index rests on, what it forgets, and what it costs."""

from __future__ import annotations

import json
import math
import statistics
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from server.bundle.feature import Distribution, Feature
from server.bundle.manifest import Manifest
from server.bundle.repository import find, load
from server.config import Config
from server.engine.engine import Engine, EngineRows
from server.metrics import Metrics
from server.serving.drift import ENOUGH, SAMPLES, Drift
from server.serving.model import ServedModel
from tests.server.core.parts import CPU, Caller, make_bundle
from training.bundle import random_bundle
from training.distribution import distribution
from training.network import random_network

Floats = NDArray[np.float32]
WINDOW = 100.0
PERIOD = WINDOW / SAMPLES
RNG = np.random.default_rng(5)
TRAINED = RNG.gamma(2.0, 1.0, 20_000).astype(np.float32)


class Watched:
    """The drift of one feature, and the clock by which it goes."""

    def __init__(self, trained: Distribution) -> None:
        self.now = 1000.0
        feature = Feature("x0", "", distribution=trained)
        manifest = Manifest("m", 1, "", (feature,), (), (), 8, 1024, {})
        self.drift = Drift(manifest, WINDOW, lambda: self.now)

    @property
    def index(self) -> float:
        return self.drift.index(0)

    def note(self, values: Floats, lengths: list[int] | None = None) -> None:
        """A run of rows of one value each, or of `values` [B, T] of which `lengths` count."""
        steps = values.reshape(len(values), -1, 1).astype(np.float32)
        rows = len(values)
        counts = np.array(lengths or [1] * rows, np.int32)
        self.drift.note(EngineRows(np.arange(rows), np.zeros(rows, np.bool_), counts, steps))

    def live(self, values: Floats, runs: int = SAMPLES, rows: int = 7) -> None:
        """Runs of rows drawn from `values`, one a period."""
        for drawn in RNG.choice(values, (runs, rows)):
            self.note(drawn)
            self.now += PERIOD


def shares(*of: float) -> Distribution:
    """Bins around 0.5, 1.5, ..., nothing missing."""
    return Distribution(tuple(k + 0.5 for k in range(len(of) - 1)), of, 0.0)


def known() -> Distribution:
    raw = distribution(TRAINED)
    return Distribution(tuple(raw["edges"]), tuple(raw["shares"]), raw["missing"])


def test_the_training_data_itself_has_not_drifted_and_shifted_data_has() -> None:
    same, shifted = Watched(known()), Watched(known())
    same.live(TRAINED)
    shifted.live(TRAINED + 1.0)
    assert same.drift.samples == shifted.drift.samples == SAMPLES
    assert 0 <= same.index < 0.01
    assert shifted.index > 0.5


def test_there_is_no_index_of_too_few_steps() -> None:
    few = Watched(known())
    few.live(TRAINED, ENOUGH - 1)
    assert math.isnan(few.index)
    few.live(TRAINED, 1)
    assert few.index < 0.1
    many_bins = Watched(shares(*[0.005] * 200))
    many_bins.live(np.arange(200, dtype=np.float32), 3_999)
    assert math.isnan(many_bins.index)
    many_bins.live(np.arange(200, dtype=np.float32), 1)
    assert many_bins.index < 0.1


def test_what_is_older_than_the_window_is_forgotten() -> None:
    watched = Watched(known())
    watched.live(TRAINED + 1.0)
    watched.live(TRAINED, SAMPLES // 2)
    assert watched.index > 0.05
    watched.live(TRAINED, SAMPLES // 2)
    assert watched.index < 0.01
    watched.now += WINDOW
    assert watched.drift.samples == 0
    assert math.isnan(watched.index)


def test_every_step_counts_alike_whatever_the_size_of_its_run() -> None:
    """Runs of 99 rows of 0 alternate with single rows of 1, 20 runs a period."""
    watched = Watched(shares(0.99, 0.01))
    for _ in range(SAMPLES // 5):
        for _ in range(10):
            watched.note(np.zeros(99, np.float32))
            watched.note(np.ones(1, np.float32))
        watched.now += PERIOD
    assert watched.index < 0.01


def test_each_step_of_a_chunk_counts_and_its_padding_does_not() -> None:
    watched = Watched(shares(0.0, 0.5, 0.25, 0.25))
    chunks = np.array([[1, 2, 3, 0], [1, 0, 0, 0]], np.float32)
    for _ in range(4_000):
        watched.note(chunks, [3, 1])
        watched.now += PERIOD
    assert watched.index < 0.01


def test_missing_values_have_a_bin() -> None:
    trained = Distribution((0.5,), (0.6, 0.2), 0.2)
    same, gone = Watched(trained), Watched(trained)
    same.live(np.array([0, 0, 0, 1, np.nan], np.float32))
    gone.live(np.array([0, np.nan], np.float32))
    assert same.index < 0.01
    assert gone.index > 0.25


def watched_bundle(repository: Path) -> Path:
    """The model `small/1`, whose feature x2 has a distribution."""
    make_bundle(repository)
    path = repository / "small" / "1" / "model.json"
    raw = json.loads(path.read_text())
    raw["features"][2]["distribution"] = distribution(RNG.normal(size=1000))
    path.write_text(json.dumps(raw))
    return repository


def series(repository: Path, window: float) -> dict[str, float]:
    """What is exported of features' drift after 40 steps, 30 retries, and 10 steps refused."""
    (entry,) = find(repository)
    config, metrics = Config(model_repository=repository, drift_window=window), Metrics()
    model = ServedModel(Engine(load(entry, repository), CPU, 4), config, metrics)
    model.start()
    model.open("one")
    caller, x = Caller(model), RNG.normal(size=(80, 1, 5)).astype(np.float32)
    for step in [*range(40), *range(10, 40), *range(50, 60)]:
        caller.step([("one", step, x[step])])
        time.sleep(2 * window / SAMPLES)
    model.stop()
    found = (sample for metric in metrics.registry.collect() for sample in metric.samples)
    return {s.name + s.labels.get("feature", ""): s.value for s in found if "feature" in s.name}


def test_applied_steps_are_counted_and_no_others(tmp_path: Path) -> None:
    found = series(watched_bundle(tmp_path), 20.0)
    assert found.pop("tidegate_feature_samples") == 40
    assert list(found) == ["tidegate_feature_psix2"]
    assert math.isnan(found["tidegate_feature_psix2"])


def test_without_a_window_or_a_distribution_nothing_is_watched(tmp_path: Path) -> None:
    assert series(watched_bundle(tmp_path), 0.0) == {}
    make_bundle(tmp_path)
    assert series(tmp_path, 5.0) == {}


@pytest.mark.parametrize("rows", [1, 1024])
def test_it_costs_next_to_nothing_beside_the_run(tmp_path: Path, rows: int) -> None:
    random_bundle(tmp_path / "wide" / "1", random_network(16, 64, 1, 32, seed=1))
    (entry,) = find(tmp_path)
    engine = Engine(load(entry, tmp_path), CPU, rows)
    drift = Drift(engine.manifest, 3600.0)
    x = RNG.normal(size=(rows, 1, 16)).astype(np.float32)
    slots, ones = np.arange(1, rows + 1), np.ones(rows, np.int32)
    ran = EngineRows(slots, np.zeros(rows, np.bool_), ones, x)
    ratios = []
    for _ in range(21):  # interleaved, so that a slow moment slows both
        started = time.process_time_ns()
        for _ in range(20):
            engine.run(ran)
        between = time.process_time_ns()
        for _ in range(20):
            drift.note(ran)
        ratios.append((time.process_time_ns() - between) / (between - started))
    assert statistics.median(ratios) < (0.1 if rows == 1 else 0.01)
