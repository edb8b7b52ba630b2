"""What training says of a column is what the server compares with: one definition on both sides."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from server.bundle import feature
from server.bundle.feature import Distribution
from server.serving.drift import stability_index
from training.distribution import distribution

RNG = np.random.default_rng(2)
N = 20_000
NORMAL = RNG.normal(20.0, 3.0, N)
GAPPY = np.where(RNG.random(N) < 0.15, np.nan, RNG.gamma(1.5, 2.0, N))
STEPS = RNG.choice([0.0, 0.1, 0.2, 0.3, 0.4], N)
RARE = np.where(RNG.random(N) < 0.03, 1.0, 0.0)
KINDS = RNG.choice(4, N, p=[0.6, 0.3, 0.08, 0.02]).astype(np.float64)
COLUMNS: dict[str, tuple[NDArray[np.float64], int]] = {
    "numbers": (NORMAL, 0),
    "numbers with gaps": (GAPPY, 0),
    "a few values": (STEPS, 0),
    "nearly constant": (RARE, 0),
    "constant": (np.full(N, 3.3), 0),
    "categories": (KINDS, 4),
    "categories with gaps": (np.where(KINDS == 3, np.nan, KINDS), 4),
    "nothing known": (np.full(N, np.nan), 0),
}


def through_json(raw: dict[str, Any]) -> Distribution:
    """What the server reads of it."""
    read = feature.read({"name": "x", "distribution": json.loads(json.dumps(raw))})
    assert read.distribution is not None
    return read.distribution


def textbook(training: NDArray[np.float64], live: NDArray[np.float64]) -> float:
    """Deciles of training, open at both ends, and a bin of the missing: sum (p - q) ln(p / q)."""
    deciles = np.nanpercentile(training, range(10, 100, 10))
    bounds = np.concatenate([[-np.inf], deciles, [np.inf]])

    def shares(of: NDArray[np.float64]) -> NDArray[np.float64]:
        counts, _ = np.histogram(of[~np.isnan(of)], bounds)
        return np.append(counts, np.isnan(of).sum()) / len(of)

    p, q = np.maximum(shares(live), 1e-4), np.maximum(shares(training), 1e-4)
    return float(np.sum((p - q) * np.log(p / q)))


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_has_not_drifted_from_itself(name: str) -> None:
    values, labels = COLUMNS[name]
    trained = through_json(distribution(values, labels))
    assert stability_index(trained, values.astype(np.float32)) == pytest.approx(0.0, abs=1e-9)
    assert sum(trained.shares) + trained.missing == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["numbers", "numbers with gaps"])
@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0, 30.0])
def test_the_index_of_shifted_data_is_the_textbook_s(name: str, shift: float) -> None:
    values = COLUMNS[name][0]
    live = RNG.permutation(values)[:5_000] * 1.05 + shift
    found = stability_index(through_json(distribution(values)), live.astype(np.float32))
    assert found == pytest.approx(textbook(values, live), rel=0.02, abs=2e-4)
    assert found < 0.1 if shift == 0.0 else found > 0.05 * shift


@pytest.mark.parametrize("change", [0.1, -0.1, np.nan, 1e9, -1e9])
@pytest.mark.parametrize("name", ["constant", "a few values", "nearly constant"])
def test_frequent_values_that_change_are_seen(name: str, change: float) -> None:
    values = COLUMNS[name][0]
    live = np.where(RNG.random(N) < 0.5, values + change, values)
    assert stability_index(through_json(distribution(values)), live.astype(np.float32)) > 0.25


@pytest.mark.parametrize("unknown", [-1.0, 4.0, 9.0, np.nan])
def test_categories_have_a_bin_each_and_what_is_none_of_them_has_its_own(unknown: float) -> None:
    raw = distribution(KINDS, labels=4)
    assert raw["edges"] == [-0.5, 0.5, 1.5, 2.5, 3.5]
    counts = np.bincount(KINDS.astype(np.int64))
    assert raw["shares"] == pytest.approx([0.0, *(counts / N), 0.0])
    live = np.where(RNG.random(N) < 0.2, unknown, KINDS).astype(np.float32)
    assert stability_index(through_json(raw), live) > 0.25


def test_bins_hold_equal_shares_where_values_allow_it() -> None:
    raw = distribution(NORMAL, bins=20)
    assert len(raw["edges"]) == 19
    assert raw["shares"] == pytest.approx([0.05] * 20, abs=1e-3)
    assert raw["missing"] == 0.0
