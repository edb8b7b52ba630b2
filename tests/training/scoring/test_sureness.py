"""Coverage, pinball losses, calibration and balance are what their definitions say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import log_loss, mean_pinball_loss

from training.network import Floats, ascending, outputs_order
from training.scoring.balance import balance_of
from training.scoring.calibration import calibration_of, without
from training.scoring.fans import fans_of
from training.scoring.scorer import scorer_of
from training.table.session import Target

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
FAN = Target(("load", "heat"), ("V", "K"), quantiles=LEVELS)
CLASSES = Target(("state",), ("",), ("a", "b", "c"))


def drawn(sessions: int = 40, wide: float = 1.0) -> tuple[list[Floats], list[Floats]]:
    """Normal truths about a mean that is known, and their quantiles, `wide` times as far apart."""
    rng, outputs, targets = np.random.default_rng(0), [], []
    for _ in range(sessions):
        mean = rng.normal(size=(50, 2, 1)) * 5
        y = mean[..., 0] + rng.normal(size=(50, 2))
        y[rng.random((50, 2)) < 0.1] = np.nan
        targets.append(y.astype(np.float32))
        ordered = norm.ppf([LEVELS[k] for k in outputs_order(LEVELS)])
        fans = np.swapaxes(mean + wide * ordered, 1, 2).reshape(50, -1)
        outputs.append(fans.astype(np.float32))
    return outputs, targets


def test_the_true_quantiles_cover_what_they_say_and_narrow_ones_less() -> None:
    for each in fans_of(FAN, *drawn(200)):
        assert [interval.nominal for interval in each.coverage] == [0.9, 0.5]
        for interval in each.coverage:
            assert interval.seen.value == pytest.approx(interval.nominal, abs=0.015)
            assert 0.005 < interval.seen.high - interval.seen.low < 0.03
        assert all(abs(share.value - level) < 0.015 for level, share in each.below.items())
    (narrow, _), (right, _) = fans_of(FAN, *drawn(wide=0.4)), fans_of(FAN, *drawn())
    assert narrow.coverage[0].seen.high < 0.6
    assert right.pinball.value < narrow.pinball.value


def test_figures_of_quantiles_are_those_counted_by_hand() -> None:
    outputs, targets = drawn(6)
    whole = np.concatenate(targets)[:, 1]
    fans = ascending(np.concatenate(outputs), LEVELS)[~np.isnan(whole), 1]
    y = whole[~np.isnan(whole)]
    heat = fans_of(FAN, outputs, targets)[1]
    losses = [mean_pinball_loss(y, fans[:, k], alpha=level) for k, level in enumerate(LEVELS)]
    assert (heat.name, heat.unit) == ("heat", "K")
    assert heat.pinball.value == pytest.approx(np.mean(losses))
    inner = (y >= fans[:, 1]) & (y <= fans[:, 3])
    assert heat.coverage[1].seen.value == pytest.approx(inner.mean())
    median = scorer_of(FAN, targets)
    figures = median.figures(median.sums(outputs, targets).sum(axis=0))
    assert figures["mae_heat"] == pytest.approx(np.abs(y - fans[:, 2]).mean(), rel=1e-6)
    assert figures["rmse_heat"] == pytest.approx(np.sqrt(((y - fans[:, 2]) ** 2).mean()), rel=1e-6)


def test_a_value_known_nowhere_has_no_fan() -> None:
    outputs, targets = drawn(6)
    for y in targets:
        y[:, 0] = np.nan
    assert [each.name for each in fans_of(FAN, outputs, targets)] == ["heat"]


def sure(
    sessions: int, temperature: float, weights: tuple[float, float, float] = (1, 1, 1)
) -> tuple[list[Floats], list[Floats]]:
    """Classes drawn by probabilities, of which the first is common; what is put out says them at
    another temperature, in proportion to the weights."""
    rng, outputs, targets = np.random.default_rng(1), [], []
    for _ in range(sessions):
        logits = rng.normal(size=(200, 3)) * 1.5 + [1.5, 0, 0]
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        y = (rng.random((200, 1)) > p.cumsum(axis=1)).sum(axis=1)
        said = np.exp((logits + np.log(weights)) / temperature)
        outputs.append((said / said.sum(axis=1, keepdims=True)).astype(np.float32))
        targets.append(y[:, None].astype(np.float32))
    return outputs, targets


def test_calibration_tells_before_and_after() -> None:
    outputs, targets = sure(30, 1.0)
    found = calibration_of(outputs, targets, 0.5)  # as if it had been half as hot before
    y, p = np.concatenate(targets)[:, 0], np.concatenate(outputs).astype(np.float64)
    assert found.after["nll"].value == pytest.approx(log_loss(y, p / p.sum(1, keepdims=True)))
    assert found.after["ece"].value < 0.03 < 0.05 < found.before["ece"].value
    assert found.change["nll"].high < 0
    assert "a temperature of 0.5" in found.sentence() and "does not help" not in found.sentence()
    worse = calibration_of(sure(30, 2.0)[0], targets, 2.0)
    assert worse.change["nll"].low > 0 and "It does not help here" in worse.sentence()
    few = calibration_of(outputs[:5], targets[:5], 0.98)
    assert "neither is told to be better" in few.sentence()
    none = calibration_of(outputs, targets, 1.0)
    assert none.temperature is None and none.before == none.after
    assert "without a temperature" in none.sentence()


def test_probabilities_without_their_temperature_are_those_before() -> None:
    (hot,), _ = sure(1, 3.0)
    (plain,), _ = sure(1, 1.0)
    np.testing.assert_allclose(without(hot, 3.0), plain, rtol=1e-4, atol=1e-6)


def test_weights_undone_show_what_they_cost() -> None:
    weights, temperature = (1.0, 6.0, 6.0), 1.4
    outputs, targets = sure(30, temperature, weights)
    (plain, _), scorer = sure(30, 1.0), scorer_of(CLASSES, targets)
    found = balance_of(scorer, outputs, targets, np.array(weights), temperature)
    best = scorer.figures(scorer.sums(plain, targets).sum(axis=0))
    assert found.undone == pytest.approx((best["accuracy_per_step"], best["macro_f1"]))
    assert found.accuracy.high < 0
    words = found.sentence()
    assert words.startswith("Class weights trade accuracy for balance: accuracy per step 0.")
    assert f"{found.served[0]:.3f} and macro F1 {found.served[1]:.3f}" in words
    none = balance_of(scorer, plain, targets, np.ones(3), 1.0)
    assert none.accuracy.value == 0 and "not told apart" in none.sentence()
