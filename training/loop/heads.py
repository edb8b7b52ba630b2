"""What the head's scores mean to training: quantiles that never cross, and the losses of targets.

Losses are of each step. Values are standardised, so that all weigh alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import torch
from torch import Tensor, nn

from training.recipe.recipe import MEDIAN


def open_fan(scores: Tensor, levels: Sequence[float]) -> Tensor:
    """Scores [..., V·Q] to quantiles [..., V·Q]: out from the median, each further one by the
    softplus of its score, which is above 0."""
    count, middle = len(levels), levels.index(MEDIAN)
    apart = by_value(scores, count)
    median, gaps = apart[..., middle : middle + 1], nn.functional.softplus(apart)
    below = median - gaps[..., :middle].flip(-1).cumsum(-1).flip(-1)
    above = median + gaps[..., middle + 1 :].cumsum(-1)
    return torch.cat([below, median, above], dim=-1).flatten(-2)


def by_value(outputs: Tensor, count: int) -> Tensor:
    """Outputs [..., V·Q] as [..., V, Q]."""
    return outputs.view(*outputs.shape[:-1], -1, count)


def begin_as_normal(head: nn.Linear, levels: Sequence[float]) -> None:
    """Set the biases of gaps so that, before training, they are about those of a normal
    distribution: what is standardised has nearly that, and outer quantiles have not far to go."""
    places = [NormalDist().inv_cdf(level) for level in levels]
    middle, bias = levels.index(MEDIAN), by_value(head.bias.data, len(levels))
    for k in range(len(levels)):
        if k != middle:
            gap = abs(places[k] - places[k + (1 if k < middle else -1)])
            bias[:, k] += math.log(math.expm1(gap))


def pinball(quantiles: Tensor, wanted: Tensor, levels: Sequence[float]) -> Tensor:
    """Twice the mean pinball loss (Koenker & Bassett 1978) of quantiles [..., V·Q] against values
    [..., V]: of the median alone it is the absolute error."""
    over = wanted.unsqueeze(-1) - by_value(quantiles, len(levels))
    level = torch.tensor(levels, dtype=over.dtype, device=over.device)
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
