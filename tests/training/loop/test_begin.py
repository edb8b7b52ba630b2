"""Training begins with the linear model that is its baseline, and never ends below it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training import tables
from tests.training.commands.tasks import config_of, fit
from tests.training.tables import rows, write_table
from training.figures import predict
from training.loop import begin
from training.loop.fit import fit as run_loop
from training.loop.fit import linear_start, new_network
from training.loop.windows import Windows, lay
from training.recipe.recipe import Recipe
from training.reference import NumpyNetwork
from training.scoring.baselines import baselines
from training.table.dataset import load
from training.table.session import Dataset, Session

NEXT = "target={kind='next',columns=['load']}"
CHANGE = "target={kind='next',columns=['load'],difference=true}"
CLASS = "target.missing=false"
GAPS = ("features.load.missing=true", "features.mode.missing=true")


def recipe(file: Path, *overrides: str) -> Recipe:
    """As of other tests, with the path."""
    return tables.recipe(file, "network.linear=true", *overrides)


def table_of(tmp_path: Path, *overrides: str) -> tuple[Dataset, Recipe]:
    """Twelve sessions with gaps and a label never seen; the one held out is shorter than the lags,
    the next one begins with a gap."""
    table = rows(sessions=12, steps=20)
    for k in range(40, len(table), 7):
        table[k][2 + k % 2] = ""
    table[20][2], table[3][3] = "", "z"
    short = [row for row in table if not (row[0] == "d0" and row[1] > 3)]
    whole = recipe(write_table(tmp_path / "t.csv", short), *GAPS, *overrides)
    return load(whole), whole


def every(dataset: Dataset) -> tuple[Session, ...]:
    return (*dataset.test, *dataset.validation, *dataset.train)


@pytest.mark.parametrize("target", [NEXT, CHANGE, CLASS])
def test_epoch_zero_is_the_baseline(tmp_path: Path, target: str) -> None:
    dataset, whole = table_of(tmp_path, target, "split.validation=[]")
    network = new_network(dataset, whole, linear_start(dataset, whole))
    found = {each.name: each.outputs for each in
             baselines(dataset, whole.baselines, every(dataset), None, 1)}  # fmt: skip
    wanted = found["logistic_6_lags" if dataset.target.classes else "ridge_6_lags"]
    reference = NumpyNetwork(network.network(), np.float64)
    assert min(map(len, every(dataset))) < whole.baselines.lags
    for session, outputs in zip(every(dataset), wanted, strict=True):
        np.testing.assert_allclose(predict(network, session.x), outputs, atol=3e-6)
        said = reference.run(session.x, reference.initial())[0]
        np.testing.assert_allclose(said, outputs, atol=3e-6)


def test_sessions_in_lanes_do_not_see_each_other_s_lags(tmp_path: Path) -> None:
    dataset, whole = table_of(tmp_path, NEXT)
    network = new_network(dataset, whole, linear_start(dataset, whole))
    windows, state = Windows(lay(dataset.train, batch=2, window=5)), None
    alone = {s.x.tobytes(): predict(network, s.x) for s in dataset.train}
    lanes: list[list[np.ndarray]] = [[], []]
    for k in range(len(windows)):
        window = windows[k]
        if state is not None:
            state = tuple(each * ~window["fresh"][None, :, None] for each in state)
        raw, state = network(window["x"], state)
        said = network.base(window["x"]) + network.scale * raw
        for lane in range(2):
            lanes[lane].append(said[lane].detach().numpy())
    first, second = (np.concatenate(each) for each in lanes)
    order = [dataset.train[k].x.tobytes() for k in range(4)]
    np.testing.assert_allclose(first[:20], alone[order[0]], atol=1e-5)
    np.testing.assert_allclose(second[:20], alone[order[1]], atol=1e-5)
    np.testing.assert_allclose(first[20:40], alone[order[2]], atol=1e-5)
    np.testing.assert_allclose(second[20:40], alone[order[3]], atol=1e-5)


@pytest.mark.parametrize("validation", [["d1", "d2"], [f"d{k}" for k in range(1, 13)]])
def test_the_strength_is_what_is_best_on_the_validation_part(
    tmp_path: Path, validation: list[str]
) -> None:
    """Of walks that nothing tells the next step of, ten columns say less the more they may."""
    rng = np.random.default_rng(0)
    table = [[f"d{s}", t, each, "abc"[t % 3], "up"] for s in range(4 + len(validation))
             for t, each in enumerate(rng.normal(size=15).cumsum().round(4).tolist())]  # fmt: skip
    whole = recipe(write_table(tmp_path / "t.csv", table), NEXT, f"split.validation={validation}")
    dataset = load(whole)

    def loss(start: begin.Start | None) -> float:
        network = new_network(dataset, whole, start)
        errors = [predict(network, s.x)[:-1] - s.y[:-1] for s in dataset.validation]
        return float(np.mean(np.concatenate(errors) ** 2))

    chosen = linear_start(dataset, whole)
    alone = dataset.__class__(**{**vars(dataset), "validation": ()})
    assert chosen is not None and chosen.strength > 1
    assert loss(chosen) < loss(linear_start(alone, whole))


def test_a_strength_that_may_be_the_better_one_by_chance_is_not_taken(tmp_path: Path) -> None:
    """Each load is half of the one before, and noise: the baselines' own strength is as good as
    any, and one that seems better on 8 sessions will be so on others half of the time."""
    strengths = []
    for seed in range(8):
        rng, table = np.random.default_rng(seed), list[list[Any]]()
        for s in range(24):
            load_now = rng.normal()
            for t in range(12):
                table.append([f"d{s}", t, round(load_now, 4), "abc"[t % 3], "up"])
                load_now = 0.5 * load_now + rng.normal()
        held_back = f"split.validation={[f'd{k}' for k in range(1, 9)]}"
        file = write_table(tmp_path / "t.csv", table)
        whole = recipe(file, NEXT, held_back, "baselines.lags=1")
        chosen = linear_start(load(whole), whole)
        assert chosen is not None
        strengths.append(chosen.strength)
    assert strengths.count(1.0) >= 6, strengths


def test_what_training_spoils_is_left_as_it_began(tmp_path: Path) -> None:
    """Each load is nine tenths of the one before: linear, so that there is nothing to add."""
    table = [[f"d{s}", t, (s - 5.5) * 0.9**t, "abc"[t % 3], "up"]
             for s in range(12) for t in range(9)]  # fmt: skip
    whole = recipe(write_table(tmp_path / "t.csv", table), NEXT, "baselines.ridge=1e-9",
                   "loop.rate=1", "loop.epochs=2")  # fmt: skip
    dataset = load(whole)
    found = run_loop(dataset, whole, tmp_path / "runs", quiet=True)
    best = min(line["validation_loss"] for line in found.curve)
    assert found.beginning is not None and found.beginning.kept
    assert found.beginning.figures["validation_loss"] <= best
    network = new_network(dataset, whole, linear_start(dataset, whole))
    for session in every(dataset):
        np.testing.assert_array_equal(
            predict(found.network, session.x), predict(network, session.x)
        )


def test_what_it_began_with_is_in_the_manifest(tmp_path: Path) -> None:
    manifest = json.loads(
        (fit(config_of(tmp_path), tmp_path, "network.linear=true") / "model.json").read_text()
    )
    told = manifest["training"]["linear"]
    assert set(told) == {"lags", "strength", "kept", "validation_loss", "validation_accuracy"}
    state = {"name": "lags", "shape": [24], "dtype": "float32", "initial": 0.0}
    assert manifest["states"][-1] == state


def test_what_training_adds_is_kept(tmp_path: Path) -> None:
    """The state is the product of two signs, which nothing linear says anything of."""
    table, rng = [], np.random.default_rng(0)
    for session in range(8):
        loads = rng.normal(size=40).round(3).tolist()
        for t, each in enumerate(loads):
            state = "up" if t and each * loads[t - 1] > 0 else "down"
            table.append([f"d{session}", t, each, "a", state])
    whole = recipe(write_table(tmp_path / "t.csv", table), "features={load={}}", "loop.epochs=25",
                   "loop.rate=3e-2", "network.hidden=16", "loop.window=20")  # fmt: skip
    dataset = load(whole)
    found = run_loop(dataset, whole, tmp_path / "runs", quiet=True)
    assert found.beginning is not None and not found.beginning.kept
    best = min(line["validation_loss"] for line in found.curve)
    assert best < 0.7 * found.beginning.figures["validation_loss"]


def test_the_path_is_not_trained(tmp_path: Path) -> None:
    dataset, whole = table_of(tmp_path, CLASS)
    start = linear_start(dataset, whole)
    assert start is not None
    found = run_loop(dataset, whole, tmp_path / "runs", quiet=True).network.network()
    assert found.linear is not None
    np.testing.assert_array_equal(found.linear.w, start.w)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("network.linear=false",), ""),
        (("baselines.lags=400",), "would see 1604 columns"),
        (("loop.precision='bf16-true'",), "too few bits"),
    ],
)
def test_it_is_left_out_where_it_cannot_be(
    tmp_path: Path, overrides: tuple[str, ...], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    dataset, whole = table_of(tmp_path, *overrides)
    assert linear_start(dataset, whole) is None
    assert said in caplog.text
    assert bool(said) == bool(caplog.records)


def test_chance_in_what_is_trained_does_not_depend_on_it(tmp_path: Path) -> None:
    dataset, whole = table_of(tmp_path, CLASS)
    drawn = []
    for start in (None, linear_start(dataset, whole)):
        torch.manual_seed(3)
        drawn.append(new_network(dataset, whole, start).layers[0].get_parameter("weight_ih_l0"))
    assert torch.equal(*drawn)
