"""The torch network is the network that its plain arrays describe, whatever it is made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.tables import recipe, rows, write_table
from training.figures import predict
from training.loop.fit import class_weights, linear_start, new_network
from training.loop.module import StreamingNetwork
from training.recipe.recipe import NetworkShape, Recipe
from training.reference import NumpyNetwork
from training.table.dataset import load
from training.table.session import Dataset

SHAPES = [
    NetworkShape(hidden=7, linear=False),
    NetworkShape(hidden=7, layers=2, dropout=0.5),
    NetworkShape(hidden=7, layers=3, residual=True),
    NetworkShape(hidden=9, layers=2, projection=4, residual=True),
    NetworkShape(cell="gru", hidden=6, layers=2),
    NetworkShape(hidden=7, layers=2, norm=True, linear=False),
    NetworkShape(hidden=9, layers=2, projection=4, residual=True, norm=True),
    NetworkShape(cell="rnn", hidden=6, layers=2, residual=True, linear=False),
]
GAPS = ("features.load.missing=true", "features.mode.missing=true")
CHANGE = "target={kind='next', columns=['load'], difference=true}"
FANS = CHANGE.replace("}", ", horizon=[1, 3], quantiles=[0.2, 0.5, 0.9]}")


def gappy(tmp_path: Path, *overrides: str) -> tuple[Dataset, Recipe]:
    """A small table with gaps and unknown categories."""
    table = rows()
    for k in range(0, len(table), 7):
        table[k][2 + k % 2] = ""
    table[3][3] = "z"
    whole = recipe(write_table(tmp_path / "t.csv", table), *GAPS, *overrides)
    return load(whole), whole


def started(dataset: Dataset, whole: Recipe, shape: NetworkShape) -> StreamingNetwork:
    """On its linear model, if the shape has one, with a head that says something."""
    torch.manual_seed(0)
    given = whole.model_copy(update={"network": shape})
    network = new_network(dataset, given, linear_start(dataset, given))
    torch.nn.init.normal_(network.head.weight, std=0.3)
    return network


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("target", ["target.missing=false", CHANGE, FANS])
def test_its_arrays_in_numpy_give_the_same_outputs(
    tmp_path: Path, shape: NetworkShape, target: str
) -> None:
    dataset, whole = gappy(tmp_path, target)
    network = started(dataset, whole, shape)
    reference = NumpyNetwork(network.network(), np.float64)
    for session in (*dataset.test, *dataset.train):
        expected, _ = reference.run(session.x, reference.initial())
        np.testing.assert_allclose(predict(network, session.x), expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_session_in_windows_is_the_session_in_one_piece(
    tmp_path: Path, shape: NetworkShape
) -> None:
    dataset, whole = gappy(tmp_path)
    network = started(dataset, whole, shape).eval()
    x = torch.from_numpy(dataset.test[0].x)[None]
    state, parts = None, []
    for start in range(0, x.shape[1], 5):
        raw, state = network(x[:, start : start + 5], state)
        parts.append(raw)
    torch.testing.assert_close(torch.cat(parts, dim=1), network(x)[0])


def weighing(whole: Recipe, weights: str | dict[str, float]) -> Recipe:
    target = whole.target.model_copy(update={"weights": weights})
    return whole.model_copy(update={"target": target})


def test_classes_weigh_as_the_recipe_says(tmp_path: Path) -> None:
    dataset, whole = gappy(tmp_path)
    y = np.concatenate([session.y[:, 0] for session in dataset.train])
    balanced = weighing(whole, "balanced")
    weights = class_weights(dataset, balanced)
    assert weights is not None
    totals = [float(weights[k]) * (y == k).sum() for k in range(2)]
    assert totals == pytest.approx([len(y) / 2] * 2)
    given = weighing(whole, {"up": 3.0})
    assert class_weights(dataset, given).tolist() == [1.0, 3.0]  # type: ignore[union-attr]
    assert class_weights(dataset, whole) is None
