"""What one network, or one way to run it, comes to on some sessions: figures, for classes a line of
each and how well they are calibrated, for quantiles what lies between them, all with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from training.network import Floats
from training.scoring.calibration import Calibration, calibration_of
from training.scoring.fans import FanScores, fans_of
from training.scoring.intervals import RESAMPLES, Interval, class_intervals, intervals
from training.scoring.scorer import Doubles, Scorer
from training.table.session import Target


@dataclass(frozen=True)
class ClassLine:
    """How one class fares over `steps` steps of it: recall, precision and F1."""

    label: str
    steps: int
    figures: Mapping[str, Interval]


@dataclass(frozen=True)
class Scores:
    """Figures by name on so many sessions of a part, and the classes in order."""

    part: str
    sessions: int
    figures: Mapping[str, Interval]
    classes: Sequence[ClassLine]
    fans: Sequence[FanScores] = ()
    calibration: Calibration | None = None

    @property
    def values(self) -> dict[str, float]:
        """The figures without their intervals."""
        return {name: each.value for name, each in self.figures.items()}

    def plain(self) -> dict[str, Any]:
        """For the manifest."""
        classes = [
            {"label": each.label, "steps": each.steps} | plain(each.figures)
            for each in self.classes
        ]
        return {
            "part": self.part,
            "sessions": self.sessions,
            "resamples": RESAMPLES,
            "network": plain(self.figures),
            "classes": classes,
            "fans": [each.plain() for each in self.fans],
            "calibration": None if self.calibration is None else self.calibration.plain(),
        }


def scores_of(scorer: Scorer, sums: Doubles, part: str) -> Scores:
    """Of the sums [S, M] of sessions of `part`."""
    return Scores(part, len(sums), known_intervals(scorer, sums), _class_lines(scorer, sums))


def sure_scores(
    scores: Scores,
    target: Target,
    outputs: Sequence[Floats],
    targets: Sequence[Floats],
    temperature: float,
) -> Scores:
    """The same, with what outputs [T, O] of a network of that temperature say of how sure it is."""
    fans = fans_of(target, outputs, targets)
    calibration = calibration_of(outputs, targets, temperature) if target.classes else None
    return replace(scores, fans=fans, calibration=calibration)


def known_intervals(scorer: Scorer, sums: Doubles) -> dict[str, Interval]:
    """The figures that there is a step to tell by."""
    found = intervals(scorer, sums)
    return {name: each for name, each in found.items() if each.value == each.value}


def plain(figures: Mapping[str, Interval]) -> dict[str, Any]:
    """For the manifest."""
    return {name: each.plain() for name, each in figures.items()}


def _class_lines(scorer: Scorer, sums: Doubles) -> list[ClassLine]:
    if not scorer.target.classes:
        return []
    labels, steps = scorer.target.labels, sums.sum(axis=0)
    found = class_intervals(scorer, sums)
    return [
        ClassLine(label, int(steps[k]), each)
        for k, (label, each) in enumerate(zip(labels, found, strict=True))
    ]
