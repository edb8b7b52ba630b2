"""The fan of a forecast is measured on the very outputs that the reference makes of fed medians."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tests.training.tables import recipe, rows, write_table
from training.loop.fit import new_network
from training.reference import NumpyNetwork
from training.scoring.fans import fans_of
from training.scoring.rolled import AHEAD, feeds_back, rolled
from training.table.dataset import load

FAN = "target={kind='next', difference=true, quantiles=[0.1, 0.5, 0.9]}"


def test_what_is_measured_ahead_is_what_fed_medians_make(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", rows(sessions=8, steps=70))
    whole = recipe(table, FAN, "features={load={}}", "split.test=0.7", "split.validation=0.1")
    dataset = load(whole)
    torch.manual_seed(0)
    network = new_network(dataset, whole).eval()
    reference = NumpyNetwork(network.network(), np.float64)
    found = rolled(network, dataset, dataset.test)
    assert tuple(found) == AHEAD
    places = np.unique(np.linspace(13, 53, 4).astype(int))
    outputs, truths = [], []
    for session in dataset.test:
        made = []
        for place in places:
            said, state = reference.run(session.x[: place + 1], reference.initial())
            last = said[-1:]
            for _ in range(3):
                last, state = reference.run(last[:, :1].astype(np.float32), state)
            made.append(last[0])
        outputs.append(np.array(made, np.float32))
        truths.append(session.x[places + 4])
    (expected,), (ours,) = fans_of(dataset.target, outputs, truths), found[4]
    np.testing.assert_allclose(ours.pinball.value, expected.pinball.value, rtol=1e-5)
    assert ours.coverage == expected.coverage


def test_where_features_come_from_elsewhere_nothing_is_rolled(tmp_path: Path) -> None:
    whole = recipe(write_table(tmp_path / "t.csv", rows()), FAN)
    dataset = load(whole)
    assert not feeds_back(dataset)
    assert rolled(new_network(dataset, whole), dataset, dataset.test) == {}
