"""Whether a network of classes is as sure as it is right: its expected calibration error and its
negative log likelihood, as it is served and as it was before its temperature.

The error (ECE, Guo et al. 2017) is the mean distance of the share right and the mean confidence
over 15 bins of equal width of the named class's probability, (k/15, (k+1)/15], weighted by their
steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.network import Floats
from training.scoring.intervals import Interval, differences, intervals
from training.scoring.words import told_interval, verdict

Doubles = NDArray[np.float64]
BINS = 15
BINNING = f"{BINS} bins of equal width of the named class's probability"
ECE, NLL = "ece", "nll"


@dataclass(frozen=True)
class Calibration:
    """`temperature` is None where none was fitted, and `before` then says what `after` does;
    `change` is `after` less `before`, on the same draws."""

    temperature: float | None
    before: Mapping[str, Interval]
    after: Mapping[str, Interval]
    change: Mapping[str, Interval]

    def plain(self) -> dict[str, Any]:
        """For the manifest."""
        told = {"before": self.before, "after": self.after, "change": self.change}
        figures = {
            name: {figure: each.plain() for figure, each in found.items()}
            for name, found in told.items()
        }
        return {
            "temperature": self.temperature,
            "binning": BINNING,
            **figures,
            "sentence": self.sentence(),
        }

    def sentence(self) -> str:
        """In words."""
        ece, nll = (told_interval(self.after[name]) for name in (ECE, NLL))
        if self.temperature is None:
            return (
                "Probabilities are as the network says them, without a temperature: expected "
                f"calibration error {ece} ({BINNING}), negative log likelihood {nll}."
            )
        before = (told_interval(self.before[name]) for name in (ECE, NLL))
        text = (
            f"Probabilities are calibrated by a temperature of {self.temperature:.3g}, fitted to "
            "the validation part: expected calibration error {} before, {} after ({}); negative "
            "log likelihood {} before, {} after."
        ).format(next(before), ece, BINNING, next(before), nll)
        return text + self._doubt()

    def _doubt(self) -> str:
        said = verdict(NLL, self.change[NLL])
        if said == "not told apart":
            return " Of the two likelihoods neither is told to be better."
        if said == "worse":
            return " It does not help here: the validation part is unlike these, or too small."
        return ""


class CalibrationScorer:
    """Sums of probabilities [T, C] against classes [T, 1]."""

    def sums(self, outputs: Sequence[Floats], targets: Sequence[Floats]) -> Doubles:
        """A row for each session: the bins' steps, confidence and steps right; losses, steps."""
        return np.stack([self._row(p, y) for p, y in zip(outputs, targets, strict=True)])

    def _row(self, p: Floats, y: Floats) -> Doubles:
        known = ~np.isnan(y[:, 0])
        true, likely = y[known, 0].astype(int), p[known].astype(np.float64)
        sure, right = likely.max(axis=-1), likely.argmax(axis=-1) == true
        place = bins_of(sure)
        rows = [np.bincount(place, weights, BINS) for weights in (None, sure, right)]
        losses = -np.log(np.maximum(likely[np.arange(len(true)), true], np.finfo(np.float32).tiny))
        return np.concatenate([*rows, [losses.sum(), len(true)]]).astype(np.float64)

    def figures(self, totals: Doubles) -> dict[str, Doubles]:
        """Both figures [...] of sums [..., M]."""
        _, sure, right = np.split(totals[..., :-2], 3, axis=-1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                ECE: np.abs(sure - right).sum(axis=-1) / totals[..., -1],
                NLL: totals[..., -2] / totals[..., -1],
            }


def bins_of(confidence: Doubles) -> NDArray[np.int64]:
    """The bin of each: k where it is above k/15 and at most (k+1)/15."""
    return np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)


def calibration_of(
    outputs: Sequence[Floats], targets: Sequence[Floats], temperature: float
) -> Calibration:
    """Of probabilities that were made with a `temperature`, 1 if none was fitted; those before it
    follow from them."""
    scorer, fitted = CalibrationScorer(), temperature != 1.0
    before = after = scorer.sums(outputs, targets)
    if fitted:
        before = scorer.sums([without(p, temperature) for p in outputs], targets)
    return Calibration(
        temperature if fitted else None,
        intervals(scorer, before),
        intervals(scorer, after),
        differences(scorer, after, before),
    )


def logits_of(p: Floats, temperature: float = 1.0) -> Doubles:
    """Probabilities [..., C] as logits before their temperature, but for what all share."""
    logits: Doubles = np.log(np.maximum(p.astype(np.float64), np.finfo(np.float32).tiny))
    return temperature * logits


def without(p: Floats, temperature: float) -> Floats:
    """Probabilities [..., C] as they would be without it."""
    logits = logits_of(p, temperature)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    made: Floats = (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)
    return made
