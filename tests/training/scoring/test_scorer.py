"""Figures are those of scikit-learn, and intervals those of draws of whole sessions."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from training.network import Floats
from training.scoring.intervals import (
    FEWEST,
    Interval,
    class_intervals,
    differences,
    intervals,
    read_interval,
)
from training.scoring.scorer import Scorer, scorer_of
from training.scoring.words import verdict
from training.table.session import Target

CLASSES = Target(("state",), ("",), ("a", "b", "c"))
VALUES = Target(("load", "heat"), ("V", "K"))


def classes(sessions: int = 40, seed: int = 0) -> tuple[list[Floats], list[Floats]]:
    """Outputs and targets, some unknown; what is right hangs on the session."""
    rng = np.random.default_rng(seed)
    outputs, targets = [], []
    for _ in range(sessions):
        y = rng.integers(0, 3, 30).astype(np.float32)
        p = rng.dirichlet(np.ones(3), 30).astype(np.float32)
        hit = rng.random(30) < rng.uniform(0.2, 1.0)
        p[hit, y[hit].astype(int)] += 1
        y[rng.random(30) < 0.1] = np.nan
        outputs.append(p)
        targets.append(y[:, None])
    return outputs, targets


def test_class_figures_are_those_of_scikit_learn() -> None:
    outputs, targets = classes()
    scorer = scorer_of(CLASSES, targets)
    totals = scorer.sums(outputs, targets).sum(axis=0)
    y, guess = np.concatenate(targets)[:, 0], np.concatenate(outputs).argmax(axis=1)
    known = ~np.isnan(y)
    y, guess = y[known].astype(int), guess[known]
    found = scorer.figures(totals)
    assert found["accuracy_per_step"] == pytest.approx(accuracy_score(y, guess))
    assert found["macro_f1"] == pytest.approx(f1_score(y, guess, average="macro"))
    ends = [(each[~np.isnan(each[:, 0])][-1, 0], p[~np.isnan(each[:, 0])][-1].argmax())
            for each, p in zip(targets, outputs, strict=True)]  # fmt: skip
    assert found["accuracy_at_session_end"] == np.mean([a == b for a, b in ends])
    precision, recall, f1, steps = precision_recall_fscore_support(y, guess)
    ours = scorer.by_class(totals)
    for name, theirs in (("precision", precision), ("recall", recall), ("f1", f1)):
        np.testing.assert_allclose(ours[name], theirs)
    np.testing.assert_array_equal(totals[:3], steps)


def test_a_class_that_never_is_and_is_never_said_does_not_lower_the_macro_f1() -> None:
    y = np.array([[0], [0], [1], [1]], np.float32)
    p = np.eye(3, dtype=np.float32)[[0, 0, 1, 1]]
    scorer = scorer_of(CLASSES, [y])
    assert scorer.figures(scorer.sums([p], [y]).sum(axis=0))["macro_f1"] == 1.0


def test_value_figures_leave_out_what_is_not_known_and_are_scaled_where_there_are_several() -> None:
    rng = np.random.default_rng(1)
    y = rng.normal(size=(50, 2)).astype(np.float32) * np.array([1, 10], np.float32)
    y[::7, 0] = np.nan
    guess = y + rng.normal(size=(50, 2)).astype(np.float32)
    guess[::7, 0] = 1e9
    scorer = scorer_of(VALUES, [y[:20], y[20:]])
    sums = scorer.sums([guess[:20], guess[20:]], [y[:20], y[20:]])
    found = scorer.figures(sums.sum(axis=0))
    errors = np.sqrt(np.nanmean((np.where(np.isnan(y), np.nan, guess - y)) ** 2, axis=0))
    np.testing.assert_allclose([found["rmse_load"], found["rmse_heat"]], errors, rtol=1e-5)
    relative = (errors / np.nanstd(y, axis=0)).mean()
    assert found["rmse_relative"] == pytest.approx(relative, rel=1e-5)
    assert scorer.main(weighted=False) == "rmse_relative"


def test_an_interval_is_as_wide_as_sessions_differ_not_as_steps_are_many() -> None:
    outputs, targets = classes(sessions=60)
    full = [np.nan_to_num(each) for each in targets]
    scorer = scorer_of(CLASSES, full)
    sums = scorer.sums(outputs, full)
    rates = sums[:, 6:9].sum(axis=1) / 30
    found = intervals(scorer, sums)["accuracy_per_step"]
    error = rates.std(ddof=1) / np.sqrt(len(rates))
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(error, rel=0.1)
    assert found.low < rates.mean() < found.high
    longer = intervals(scorer, 10 * sums)["accuracy_per_step"]  # each step ten times
    assert longer == found


def test_the_difference_of_a_pair_is_surer_than_either() -> None:
    outputs, targets = classes()
    scorer = scorer_of(CLASSES, targets)
    better = [each.copy() for each in outputs]
    for p, y in zip(better, targets, strict=True):
        if not np.isnan(y[0, 0]):
            p[0, int(y[0, 0])] += 5  # one step more of each session is right
    ours, theirs = scorer.sums(better, targets), scorer.sums(outputs, targets)
    apart = differences(scorer, ours, theirs)["accuracy_per_step"]
    alone = intervals(scorer, ours)["accuracy_per_step"]
    assert apart.high - apart.low < 0.3 * (alone.high - alone.low)
    assert verdict("accuracy_per_step", apart) == "better"
    back = differences(scorer, theirs, ours)["accuracy_per_step"]
    assert verdict("accuracy_per_step", back) == "worse"
    same = differences(scorer, ours, ours)["accuracy_per_step"]
    assert verdict("accuracy_per_step", same) == "not told apart"


def test_lower_errors_are_better() -> None:
    assert verdict("rmse_load", Interval(-1.0, -2.0, -0.5)) == "better"
    assert verdict("rmse_load", Interval(1.0, 0.5, 2.0)) == "worse"
    assert verdict("macro_f1", Interval(1.0, -0.5, 2.0)) == "not told apart"
    assert verdict("macro_f1", Interval(1.0)) == "not told apart"


def test_few_sessions_and_classes_of_few_give_no_interval() -> None:
    outputs, targets = classes(sessions=FEWEST)
    scorer = scorer_of(CLASSES, targets)
    sums = scorer.sums(outputs, targets)
    assert intervals(scorer, sums)["accuracy_per_step"].has_ends
    few = intervals(scorer, sums[1:])["accuracy_per_step"]
    assert not few.has_ends
    assert few.plain() == {"value": few.value, "low": None, "high": None}
    assert not read_interval(few.plain()).has_ends
    for y in targets[1:]:
        y[y == 2] = 0
    found = class_intervals(scorer, scorer.sums(outputs, targets))
    assert [each["recall"].has_ends for each in found] == [True, True, False]


def test_steps_outside_a_segment_do_not_count() -> None:
    outputs, targets = classes()
    scorer: Scorer = scorer_of(CLASSES, targets)
    half = [np.arange(30) < 15 for _ in targets]
    inside = scorer.sums(outputs, targets, half)
    outside = scorer.sums(outputs, targets, [~each for each in half])
    whole = scorer.sums(outputs, targets)
    np.testing.assert_array_equal((inside + outside)[:, :9], whole[:, :9])
    cut = scorer.sums([p[:15] for p in outputs], [y[:15] for y in targets])
    np.testing.assert_array_equal(inside, cut)
