"""Claims about NHITS, whose library is no part of what the tests install: with it,
`python -m pytest tests/training/scoring/with_neuralforecast.py`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.training.scoring.test_baselines import named, score, waves
from training.recipe.recipe import Baselines


def test_a_published_network_sees_nothing_later_in_sessions_of_any_length() -> None:
    dataset = waves(count=14)
    cut = [replace(each, x=each.x[:n], y=each.y[:n], order=each.order[:n])
           for n, each in zip((2, 150, 31, 7, 90, 60), dataset.test, strict=True)]  # fmt: skip
    other = [replace(each, x=each.x.copy()) for each in cut]
    for each in other:
        each.x[len(each) // 2 :] += 5
    settings = Baselines(trees=0, nhits=2)
    found, changed = (
        named(replace(dataset, test=tuple(part)), settings)["nhits_6_lags"] for part in (cut, other)
    )
    for each, before, after in zip(cut, found.outputs, changed.outputs, strict=True):
        half = len(each) // 2
        assert before.shape == (len(each), 1)
        np.testing.assert_array_equal(before[:half], after[:half])
        assert (before[half:] != after[half:]).all()
    learned = named(dataset, Baselines(trees=0, nhits=30))
    assert score(dataset, learned["nhits_6_lags"]) < score(dataset, learned["persistence"])
