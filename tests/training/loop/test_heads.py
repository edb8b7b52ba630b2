"""Quantiles never cross, and losses are those of their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import mean_pinball_loss

from training.loop.heads import begin_as_normal, cross_entropy, open_fan, pinball
from training.network import ascending

LEVELS = (0.05, 0.3, 0.5, 0.9)


@pytest.mark.parametrize("size", [1.0, 100.0, 1e6])
def test_quantiles_never_cross_whatever_the_scores(size: float) -> None:
    torch.manual_seed(0)
    fans = open_fan(size * torch.randn(500, 3 * len(LEVELS)), LEVELS).numpy()
    assert (np.diff(ascending(fans, LEVELS), axis=-1) >= 0).all()


def test_before_training_quantiles_are_those_of_a_normal_distribution() -> None:
    head = torch.nn.Linear(2, 2 * len(LEVELS))
    head.bias.data.zero_()
    begin_as_normal(head, LEVELS)
    fans = open_fan(head.bias.data, LEVELS).numpy()
    np.testing.assert_allclose(ascending(fans, LEVELS), [norm.ppf(LEVELS)] * 2, atol=1e-5)


def test_the_loss_of_quantiles_is_twice_scikit_learn_s() -> None:
    rng = np.random.default_rng(0)
    y, outputs = rng.normal(size=(200, 2)), rng.normal(size=(200, 2 * len(LEVELS)))
    found, fans = (
        pinball(torch.tensor(outputs), torch.tensor(y), LEVELS).mean(),
        ascending(outputs, LEVELS),
    )
    each = [mean_pinball_loss(y, fans[..., k], alpha=level) for k, level in enumerate(LEVELS)]
    assert float(found) == pytest.approx(2 * np.mean(each))


def test_the_focal_loss_counts_a_step_by_how_unsure_it_is() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 3) * 3, torch.randint(3, (50,))
    weights = torch.tensor([1.0, 2.0, 3.0])
    plain = cross_entropy(logits, labels, weights, 0.0, 0.0)
    found = cross_entropy(logits, labels, weights, 0.0, 2.0)
    sure = logits.softmax(-1)[torch.arange(50), labels]
    torch.testing.assert_close(found, plain * (1 - sure) ** 2, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        plain, torch.nn.functional.cross_entropy(logits, labels, weights, reduction="none")
    )


def test_the_focal_loss_of_what_is_surely_right_has_a_finite_gradient() -> None:
    logits = torch.tensor([[80.0, -80.0]], requires_grad=True)
    loss = cross_entropy(logits, torch.tensor([0]), None, 0.0, 0.5).sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    assert bool(gradient.isfinite().all())
