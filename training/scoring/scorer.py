"""Figures of predictions, made of sums over each session: any choice of sessions has figures.

A row of sums a session is all that is kept of its steps. Figures of all sessions, of a resample
(`intervals`) and of a segment of steps come from such rows added up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.network import Floats
from training.table.session import Session, Target

Doubles = NDArray[np.float64]
Known = Sequence[NDArray[np.bool_]]
ACCURACY, MACRO, END = "accuracy_per_step", "macro_f1", "accuracy_at_session_end"
RELATIVE = "rmse_relative"


@dataclass(frozen=True)
class Scorer:
    """Measures outputs [T, O] against a target; `scale` [O] is what errors of values are told in
    where there are several: their deviation on the steps measured by."""

    target: Target
    scale: Doubles

    def sums(
        self, outputs: Sequence[Floats], targets: Sequence[Floats], among: Known | None = None
    ) -> Doubles:
        """A row of sums [M] for each session of outputs [T, O] and targets [T, 1 or O]; only of
        the steps `among` [T], if it is given."""
        rows = self._of_classes if self.target.classes else self._of_values
        every = [np.ones(len(y), np.bool_) for y in targets] if among is None else among
        triples = zip(outputs, targets, every, strict=True)
        return np.stack([rows(guess, y, steps) for guess, y, steps in triples])

    def _of_classes(self, guess: Floats, y: Floats, among: NDArray[np.bool_]) -> Doubles:
        """Steps of each class, predictions of it, those that are right; the same of the last."""
        count = self.target.outputs
        known = ~np.isnan(y[:, 0]) & among
        true, said = y[known, 0].astype(int), guess[known].argmax(-1)
        hit = true == said
        each = [np.bincount(of, minlength=count) for of in (true, said, true[hit])]
        return np.concatenate([*each, [hit[-1:].sum(), min(len(hit), 1)]]).astype(np.float64)

    def _of_values(self, guess: Floats, y: Floats, among: NDArray[np.bool_]) -> Doubles:
        """Squared errors of each value, and the steps at which it is known; absolute errors between
        them where there are quantiles, whose median errs least by those."""
        known = ~np.isnan(y) & among[:, None]
        error = np.where(known, self.target.single(guess).astype(np.float64) - y, 0.0)
        absolute = [np.abs(error).sum(axis=0)] if self.target.quantiles else []
        return np.concatenate([(error**2).sum(axis=0), *absolute, known.sum(axis=0)])

    def figures(self, totals: Doubles) -> dict[str, Doubles]:
        """Each figure [...] of sums [..., M]; NaN where there is no step to tell it by."""
        with np.errstate(invalid="ignore", divide="ignore"):
            if self.target.classes:
                return self._class_figures(totals)
            squared, *absolute, steps = np.split(totals, 3 if self.target.quantiles else 2, axis=-1)
            errors = np.sqrt(squared / steps)
            distances = [each / steps for each in absolute]
        found = {f"rmse_{name}": errors[..., k] for k, name in enumerate(self.target.names)}
        if len(found) > 1:
            found[RELATIVE] = _mean(errors / self.scale)
        for each in distances:
            found |= {f"mae_{name}": each[..., k] for k, name in enumerate(self.target.names)}
        return found

    def _class_figures(self, totals: Doubles) -> dict[str, Doubles]:
        true, _, right = self._by_class(totals)
        return {
            ACCURACY: right.sum(axis=-1) / true.sum(axis=-1),
            MACRO: _mean(self.by_class(totals)["f1"]),
            END: totals[..., -2] / totals[..., -1],
        }

    def by_class(self, totals: Doubles) -> dict[str, Doubles]:
        """Recall, precision and F1 [..., C]; NaN where a class neither is nor is predicted."""
        true, said, right = self._by_class(totals)
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                "recall": right / true,
                "precision": right / said,
                "f1": 2 * right / (true + said),
            }

    def _by_class(self, totals: Doubles) -> list[Doubles]:
        return np.split(totals[..., :-2], 3, axis=-1)

    def sessions_of(self, sums: Doubles) -> NDArray[np.int64]:
        """How many of sums [S, M] have a step of each class, [C]."""
        counts: NDArray[np.int64] = (self._by_class(sums)[0] > 0).sum(axis=0)
        return counts

    def main(self, weighted: bool) -> str:
        """The figure to judge by; `weighted`: whether training gave classes unlike weights."""
        if self.target.classes:
            return MACRO if weighted else ACCURACY
        names = self.target.names
        return f"rmse_{names[0]}" if len(names) == 1 else RELATIVE

    def unit(self, figure: str) -> str:
        """What a figure is in; nothing for a share."""
        for name, unit in zip(self.target.names, self.target.units, strict=True):
            if figure in (f"rmse_{name}", f"mae_{name}"):
                return unit
        return ""


def scorer_of(target: Target, targets: Sequence[Floats]) -> Scorer:
    """The scorer of sessions whose targets are [T, 1 or O]."""
    if target.classes:
        return Scorer(target, np.ones(1))
    y = np.concatenate(targets).astype(np.float64)
    columns = [column[~np.isnan(column)] for column in y.T]
    scale = np.array([column.std() if len(column) else 1.0 for column in columns])
    return Scorer(target, np.where(scale > 0, scale, 1.0))


def targets_of(sessions: Sequence[Session]) -> list[Floats]:
    """Each session's targets."""
    return [session.y for session in sessions]


def is_better_high(figure: str) -> bool:
    """Shares of what is right; errors are better low."""
    return not figure.startswith(("rmse", "mae", "ece", "nll"))


def known_figures(figures: Mapping[str, Doubles]) -> dict[str, float]:
    """Those that there is a step to tell by."""
    return {name: float(value) for name, value in figures.items() if not np.isnan(value)}


def _mean(values: Doubles) -> Doubles:
    """Over the last axis, of what is known; NaN where nothing is."""
    known = ~np.isnan(values)
    counts = known.sum(axis=-1)
    means: Doubles = np.where(known, values, 0.0).sum(axis=-1) / np.where(counts, counts, np.nan)
    return means
