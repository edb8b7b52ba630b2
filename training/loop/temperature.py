"""How sure the network may be: the temperature by which logits are divided, fitted to the
validation part (Guo et al. 2017). One number for all classes keeps their order, and so the class
that is named.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from training.loop.module import StreamingNetwork
from training.recipe.recipe import Recipe
from training.table.session import Dataset, Session

log = logging.getLogger(__name__)
LOWEST, HIGHEST = 0.25, 10.0
"""A few sessions that are all named right would have it go to 0, and be surer than anybody is."""


def calibrate(network: StreamingNetwork, dataset: Dataset, recipe: Recipe) -> None:
    """Set the network's temperature, unless the recipe wants none or there is nothing to fit it to.
    Steps weigh alike, whatever classes weighed in training."""
    if not dataset.target.classes or recipe.target.temperature is False:
        return
    if not dataset.validation:
        log.info("there is no validation part to fit a temperature to: probabilities stay as "
                 "the network says them")  # fmt: skip
        return
    network.temperature = fitted(network, dataset.validation)
    if not LOWEST * 1.01 < network.temperature < HIGHEST * 0.99:
        log.warning("the temperature that suits the validation part lies beyond %.3g: that part "
                    "is too small, or unlike any other", network.temperature)  # fmt: skip


def fitted(network: StreamingNetwork, sessions: Sequence[Session]) -> float:
    """The temperature with the lowest mean negative log likelihood, a convex function of 1/T."""
    logits, labels = _steps(network, sessions)

    def loss(logarithm: float) -> float:
        scaled = logits * math.exp(-logarithm)
        return float(torch.nn.functional.cross_entropy(scaled, labels))

    ends = math.log(LOWEST), math.log(HIGHEST)
    found = minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-4})
    return float(np.float32(math.exp(found.x)))


def _steps(
    network: StreamingNetwork, sessions: Sequence[Session]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [N, C] and classes [N] of all steps whose class is known."""
    logits, labels = [], []
    with torch.no_grad():
        for session in sessions:
            known = ~np.isnan(session.y[:, 0])
            raw, _ = network.eval()(torch.from_numpy(session.x)[None])
            logits.append(raw[0, torch.from_numpy(known)].double())
            labels.append(torch.from_numpy(session.y[known, 0]).long())
    return torch.cat(logits), torch.cat(labels)
