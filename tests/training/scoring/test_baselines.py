"""Baselines predict what they say, learn from the training part alone, and are told apart."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from tests.training.tables import recipe, rows, write_table
from training.network import Floats
from training.recipe.recipe import Baselines
from training.scoring import nhits
from training.scoring.baselines import baselines, found_season
from training.scoring.comparison import Baseline, compared
from training.scoring.scorer import scorer_of, targets_of
from training.table.session import Dataset, Feature, Session, Target

FEW = Baselines(trees=20)


def session(name: str, x: Floats, y: Floats) -> Session:
    return Session(name, name, x.astype(np.float32), y.astype(np.float32), np.arange(float(len(x))))


def waves(horizon: int = 1, period: int = 12, noise: float = 0.1, count: int = 12) -> Dataset:
    """A daily course that drifts, as a feature that is to be forecast."""
    rng = np.random.default_rng(0)
    made = []
    for k in range(count):
        t = np.arange(150.0)
        drift = np.cumsum(rng.normal(scale=0.05, size=150))
        load = np.sin(2 * np.pi * (t + k) / period) + drift + rng.normal(scale=noise, size=150)
        later = np.full((150, 1), np.nan)
        later[: 150 - horizon, 0] = load[horizon:]
        made.append(session(f"s{k}", np.stack([load, t % 5], axis=1), later))
    features = (Feature("load", "V"), Feature("other"))
    target = Target(("load",), ("V",), (), horizon)
    return Dataset(features, target, tuple(made[:8]), (), tuple(made[8:]), {})


def named(
    dataset: Dataset, settings: Baselines = FEW, weights: Floats | None = None
) -> dict[str, Baseline]:
    given = None if weights is None else weights.astype(np.float64)
    found = baselines(dataset, settings, dataset.test, given, 1)
    return {each.name: each for each in found}


def score(dataset: Dataset, baseline: Baseline) -> float:
    scorer = scorer_of(dataset.target, targets_of(dataset.test))
    sums = scorer.sums(baseline.outputs, targets_of(dataset.test))
    return float(scorer.figures(sums.sum(axis=0))[scorer.main(weighted=False)])


@pytest.mark.parametrize("horizon", [1, 5, 12, 30])
def test_the_season_is_found_and_what_was_then_is_predicted(horizon: int) -> None:
    dataset = waves(horizon)
    assert found_season(dataset) == 12
    found = named(dataset, Baselines(trees=0))
    (naive,) = (each for name, each in found.items() if name.startswith("seasonal"))
    assert naive.name == "seasonal_naive_12"
    load, back = dataset.test[0].x[:, 0], 12 * -(-horizon // 12)
    t = 100
    assert naive.outputs[0][t, 0] == load[t + horizon - back]
    assert found["persistence"].outputs[0][t, 0] == load[t]
    assert naive.outputs[0][0, 0] == load[max(0, horizon - back)]
    if horizon == 5:  # half a course on, the present value is the worst guess there is
        assert score(dataset, naive) < 0.5 * score(dataset, found["persistence"])


def test_baselines_of_several_horizons_are_those_of_each() -> None:
    near, far = waves(2), waves(5)
    both = [session(a.name, a.x, np.concatenate([a.y, b.y], axis=1))
            for a, b in zip(near.train + near.test, far.train + far.test, strict=True)]  # fmt: skip
    target = replace(near.target, names=("load_in_2", "load_in_5"), units=("V", "V"),
                     several=(2, 5), columns=("load", "load"))  # fmt: skip
    dataset = replace(near, target=target, train=tuple(both[:8]), test=tuple(both[8:]))
    settings = Baselines(trees=0)
    found, *alone = (named(each, settings) for each in (dataset, near, far))
    assert set(found) == set(alone[0])
    for name, baseline in found.items():
        for k, each in enumerate(alone):
            for ours, theirs in zip(baseline.outputs, each[name].outputs, strict=True):
                np.testing.assert_allclose(ours[:, k], theirs[:, 0], rtol=1e-5, atol=1e-6)


def test_noise_has_no_season_and_a_season_that_is_told_is_taken() -> None:
    dataset = waves(period=100_000, noise=1.0)
    assert found_season(dataset) == 0
    assert not any("seasonal" in name for name in named(dataset, Baselines(trees=0)))
    assert "seasonal_naive_7" in named(dataset, Baselines(trees=0, season=7))


def test_what_is_learned_beats_what_is_not_and_does_not_look_at_the_test_part() -> None:
    dataset = waves(3)
    found = named(dataset)
    scores = {name: score(dataset, each) for name, each in found.items()}
    assert min(scores["ridge_6_lags"], scores["trees_6_lags"]) < 0.6 * scores["persistence"]
    spoiled = tuple(session(s.name, s.x, 1e6 + s.y) for s in dataset.test)
    other = Dataset(dataset.features, dataset.target, dataset.train, (), spoiled, {})
    for name, each in named(other).items():
        np.testing.assert_array_equal(each.outputs[0], found[name].outputs[0])


def gaps() -> Dataset:
    """A class that a category and a value with gaps decide, two steps later."""
    rng = np.random.default_rng(3)
    made = []
    for k in range(16):
        mode = rng.integers(0, 3, 60).astype(float)
        load = rng.normal(size=60)
        state = ((mode == 1) | (load > 0.5)).astype(float)
        load[rng.random(60) < 0.1] = np.nan
        later = np.full((60, 1), np.nan)
        later[2:, 0] = state[:-2]
        made.append(session(f"s{k}", np.stack([load, mode], axis=1), later))
    features = (Feature("load", missing=True), Feature("mode", labels=("a", "b", "c")))
    target = Target(("state",), ("",), ("off", "on"), 1)
    return Dataset(features, target, tuple(made[:10]), (), tuple(made[10:]), {})


def test_classes_have_the_last_label_logistic_regression_and_trees() -> None:
    dataset = gaps()
    found = named(dataset)
    assert set(found) == {"commonest", "last_label", "logistic_6_lags", "trees_6_lags"}
    assert found["last_label"].told and not found["trees_6_lags"].told
    y = dataset.test[0].y[:, 0]
    np.testing.assert_array_equal(found["last_label"].outputs[0][4:, 1], y[3:-1])
    assert score(dataset, found["trees_6_lags"]) > 0.85
    assert score(dataset, found["logistic_6_lags"]) > score(dataset, found["commonest"])
    for each in found.values():
        assert all(np.allclose(p.sum(axis=1), 1) for p in each.outputs)


def test_a_class_weight_moves_logistic_regression_and_trees_as_it_moves_the_network() -> None:
    dataset = gaps()
    even, heavy = named(dataset), named(dataset, weights=np.array([1.0, 50.0], np.float32))
    for name in ("logistic_6_lags", "trees_6_lags"):
        said = [np.concatenate(each[name].outputs)[:, 1].mean() for each in (even, heavy)]
        assert said[1] > said[0] + 0.03


def test_few_rows_that_hold_one_class_alone_are_no_failure() -> None:
    dataset = gaps()
    for rows_used in (1, 3):
        for each in named(dataset, Baselines(trees=2, rows=rows_used)).values():
            assert all(np.isfinite(p).all() for p in each.outputs)


def test_the_sentence_names_the_best_baseline_the_difference_and_what_weights_cost(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    dataset = gaps()
    file = write_table(tmp_path_factory.mktemp("table") / "t.csv", rows())
    simple = baselines(dataset, FEW, dataset.test, None, 1)
    perfect = [_perfect(each) for each in dataset.test]
    plain, weighed = recipe(file), recipe(file, "target.weights='balanced'")
    found = compared(plain, dataset.target, "test", dataset.test, perfect, simple)
    assert found.best is not None
    figures = found.baseline_figures
    assert figures[found.best] == max(figures.values()) < 1.0
    assert found.difference.value == pytest.approx(1 - figures[found.best])
    assert found.sentence.startswith("The network beats its best baseline, boosted trees on 6 lags"
                                     ": accuracy per step 1.000 against 0.")  # fmt: skip
    assert f"({6} sessions)" not in found.sentence and "6 sessions)" in found.sentence
    commonest = next(each for each in simple if each.name == "commonest").outputs
    bad = compared(weighed, dataset.target, "test", dataset.test, commonest, simple)
    assert bad.main == "macro_f1"
    assert bad.sentence.startswith("The network is worse than its best baseline")
    assert "of accuracy per step, which class weights do not aim at, 0." in bad.sentence
    best = next(each for each in simple if each.name == found.best).outputs
    same = compared(plain, dataset.target, "test", dataset.test, best, simple)
    assert "are not told apart" in same.sentence
    assert found.plain()["network"]["macro_f1"]["value"] == 1.0


def _perfect(each: Session) -> Floats:
    hot: Floats = (np.nan_to_num(each.y) == np.arange(2)).astype(np.float32)
    return hot


def test_a_baseline_that_cannot_learn_is_left_out_and_costs_nobody_the_network(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where scikit-learn cannot compute, as of values near float32's end."""
    dataset = waves()
    end = np.float32(3e38)
    huge = tuple(session(s.name, s.x, end * np.sign(s.y)) for s in dataset.train)
    features = (Feature("before", "V"), Feature("other"))  # the target is no feature
    broken = Dataset(features, dataset.target, huge, (), dataset.test, {})
    caplog.set_level("WARNING")
    with np.errstate(all="ignore"):
        found = named(broken, Baselines(trees=5, ridge=0.0))
    assert {"mean", "persistence"} <= set(found)
    for each in found.values():
        assert all(np.isfinite(p).all() for p in each.outputs), each.name


def test_a_published_network_is_left_out_with_a_word_where_its_library_is_missing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, nhits.LIBRARY, None)
    assert not any("nhits" in name for name in named(waves(), Baselines(trees=0, nhits=5)))
    assert "baseline nhits is left out: neuralforecast is not installed" in caplog.text
