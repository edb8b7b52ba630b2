"""What the head's scores mean to training: quantiles that never cross, and the losses of targets.

Losses are of each step. Values are standardised, so that all weigh alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import torch
from torch import Tensor, nn

from training.network import outputs_order
from training.recipe.recipe import MEDIAN


def open_fan(scores: Tensor, levels: Sequence[float]) -> Tensor:
    """Scores [..., Q·V] to quantiles [..., Q·V]: out from the median, each further one by the
    softplus of its score, which is above 0."""
    middle, apart = levels.index(MEDIAN), by_level(scores, levels)
    median, gaps = apart[..., :1, :], nn.functional.softplus(apart[..., 1:, :])
    below = median - gaps[..., :middle, :].flip(-2).cumsum(-2).flip(-2)
    above = median + gaps[..., middle:, :].cumsum(-2)
    return torch.cat([median, below, above], dim=-2).flatten(-2)


def by_level(outputs: Tensor, levels: Sequence[float]) -> Tensor:
    """Outputs [..., Q·V] as [..., Q, V], the median first."""
    return outputs.view(*outputs.shape[:-1], len(levels), -1)


def begin_as_normal(head: nn.Linear, levels: Sequence[float]) -> None:
    """Set the biases of gaps so that, before training, they are about those of a normal
    distribution: what is standardised has nearly that, and outer quantiles have not far to go."""
    places = [NormalDist().inv_cdf(level) for level in levels]
    middle, bias = levels.index(MEDIAN), by_level(head.bias.data, levels)
    _, *others = outputs_order(levels)
    for row, k in enumerate(others, start=1):
        gap = abs(places[k] - places[k + (1 if k < middle else -1)])
        bias[row] += math.log(math.expm1(gap))


def pinball(quantiles: Tensor, wanted: Tensor, levels: Sequence[float]) -> Tensor:
    """Twice the mean pinball loss (Koenker & Bassett 1978) of quantiles [..., Q·V] against values
    [..., V]: of the median alone it is the absolute error."""
    over = wanted.unsqueeze(-2) - by_level(quantiles, levels)
    ordered = [levels[k] for k in outputs_order(levels)]
    level = torch.tensor(ordered, dtype=over.dtype, device=over.device)[:, None]
    return 2 * torch.maximum(level * over, (level - 1) * over).mean((-2, -1))


def cross_entropy(
    logits: Tensor, labels: Tensor, weights: Tensor | None, smoothing: float, focal: float
) -> Tensor:
    """Of logits [N, C] and labels [N]; with `focal` each step counts by (1 - p)^focal, where p is
    the probability of its class (Lin et al. 2017): what is right for sure hardly counts."""
    loss = nn.functional.cross_entropy(
        logits, labels, weight=weights, reduction="none", label_smoothing=smoothing
    )
    if not focal:
        return loss
    sure = logits.log_softmax(-1).gather(-1, labels[:, None])[:, 0]
    return loss * (-torch.expm1(sure)).clamp(min=1e-6) ** focal
