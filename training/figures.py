"""Figures of a network on sessions never seen, stepped whole and fresh."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from training.loop.module import StreamingNetwork
from training.network import Floats
from training.scoring.scorer import END, known_figures, scorer_of
from training.table.session import Target


def predict(network: StreamingNetwork, x: Floats) -> Floats:
    """The outputs [T, O] of a whole session x [T, F]."""
    with torch.no_grad():
        outputs: Floats = network.eval().predict(torch.from_numpy(x)[None])[0].numpy()
    return outputs


def step_figures(
    outputs: Sequence[Floats], targets: Sequence[Floats], target: Target
) -> dict[str, float]:
    """Accuracy per step and macro F1, or RMSE of each value in its unit: of sessions' outputs
    [T, O] against their targets [T, 1 or O]; what is known at no step is left out."""
    scorer = scorer_of(target, targets)
    found = known_figures(scorer.figures(scorer.sums(outputs, targets).sum(axis=0)))
    return {name: value for name, value in found.items() if name != END}


def ends(outputs: Sequence[Floats], targets: Sequence[Floats]) -> list[tuple[int, int]]:
    """For each session of outputs [T, O] and targets [T, 1] its last label and the class then
    predicted."""
    pairs = []
    for guess, y in zip(outputs, targets, strict=True):
        known = np.flatnonzero(~np.isnan(y[:, 0]))
        if len(known):
            pairs.append((int(y[known[-1], 0]), int(guess[known[-1]].argmax())))
    return pairs


def rmse(guess: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    """Root mean square error."""
    return float(np.sqrt(np.mean((guess.astype(np.float64) - truth) ** 2)))
