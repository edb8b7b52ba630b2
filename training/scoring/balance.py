"""What class weights cost: the network's figures beside those of the same network with its weights
undone, which needs no second training.

A network that gave class k a weight w learns probabilities in proportion to w · p; divided by w
they are those of classes as frequent as they are (Elkan 2001).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.network import Floats
from training.scoring.calibration import logits_of
from training.scoring.intervals import Interval, differences
from training.scoring.scorer import ACCURACY, MACRO, Doubles, Scorer
from training.scoring.words import told_difference, verdict


@dataclass(frozen=True)
class Balance:
    """Accuracy per step and macro F1 as served, and with the weights `undone`; the differences are
    of the former less the latter."""

    served: tuple[float, float]
    undone: tuple[float, float]
    accuracy: Interval
    macro: Interval
    sessions: int

    def plain(self) -> dict[str, Any]:
        """For the manifest."""
        figures = (ACCURACY, MACRO)
        return {
            "served": dict(zip(figures, self.served, strict=True)),
            "undone": dict(zip(figures, self.undone, strict=True)),
            "difference": {ACCURACY: self.accuracy.plain(), MACRO: self.macro.plain()},
            "sentence": self.sentence(),
        }

    def sentence(self) -> str:
        """In words."""
        starts = {
            "worse": "Class weights trade accuracy for balance",
            "better": "Class weights cost no accuracy here",
            "not told apart": "Whether class weights cost accuracy is not told apart",
        }
        (accuracy, macro), (other, other_macro) = self.served, self.undone
        apart = told_difference(ACCURACY, "", self.accuracy, self.sessions)
        return (
            f"{starts[verdict(ACCURACY, self.accuracy)]}: accuracy per step {accuracy:.3f} and "
            f"macro F1 {macro:.3f}; of the same network with the weights undone {other:.3f} and "
            f"{other_macro:.3f}: in accuracy {apart}."
        )


def balance_of(
    scorer: Scorer,
    outputs: Sequence[Floats],
    targets: Sequence[Floats],
    weights: Doubles,
    temperature: float,
) -> Balance:
    """Of probabilities [T, C], learned with `weights` [C] and made with a `temperature`."""
    undone = [_undone(each, weights, temperature) for each in outputs]
    ours, theirs = (scorer.sums(each, targets) for each in (outputs, undone))
    (served, other) = (scorer.figures(each.sum(axis=0)) for each in (ours, theirs))
    apart = differences(scorer, ours, theirs)
    return Balance(
        (float(served[ACCURACY]), float(served[MACRO])),
        (float(other[ACCURACY]), float(other[MACRO])),
        apart[ACCURACY],
        apart[MACRO],
        len(ours),
    )


def _undone(p: Floats, weights: Doubles, temperature: float) -> Floats:
    """Scores in the order of probabilities without the weights; a class of weight 0 was never
    learned, and stays where it is."""
    safe = np.where(weights > 0, weights, 1.0)
    return (logits_of(p, temperature) - np.log(safe)).astype(np.float32)
