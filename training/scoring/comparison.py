"""The network beside its baselines on the same steps: what `fit` tells, and the manifest keeps.

The figure to judge by is the accuracy per step, where classes were weighed unlike the macro F1, or
the root mean square error. Ends in one sentence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from training.network import Floats
from training.recipe.recipe import Recipe
from training.scoring.balance import Balance, balance_of
from training.scoring.fans import Rolled
from training.scoring.intervals import Interval, differences
from training.scoring.scorer import (
    ACCURACY,
    Doubles,
    Scorer,
    is_better_high,
    scorer_of,
    targets_of,
)
from training.scoring.scores import Scores, known_intervals, plain, scores_of, sure_scores
from training.scoring.words import name_of, told, told_difference, verdict
from training.table.session import Session, Target


@dataclass(frozen=True)
class Baseline:
    """`outputs` [T, O] of each session; `told`: whether it is given what was to be predicted of
    the steps before, which the network is not."""

    name: str
    words: str
    outputs: list[Floats]
    told: bool = False


@dataclass(frozen=True)
class Comparison:
    """The network's scores and each baseline's figures; `difference` is the network's main figure
    less that of the best baseline. `best` is None where there is no baseline."""

    scores: Scores
    main: str
    unit: str
    baselines: Mapping[str, Mapping[str, Interval]]
    best: str | None
    difference: Interval
    sentence: str
    balance: Balance | None = None
    """What class weights cost, where there are any."""
    rolled: Rolled = field(default_factory=dict)
    """How the quantiles of forecasts hold, where forecasts feed themselves."""

    @property
    def baseline_figures(self) -> dict[str, float]:
        """Each baseline's main figure."""
        return {name: each[self.main].value for name, each in self.baselines.items()}

    def plain(self) -> dict[str, Any]:
        """For the manifest."""
        return self.scores.plain() | {
            "main": self.main,
            "unit": self.unit,
            "baselines": {name: plain(each) for name, each in self.baselines.items()},
            "best": self.best,
            "difference": self.difference.plain(),
            "sentence": self.sentence,
            "sure": self.sure,
            "rolled": [
                {"ahead": ahead, "fans": [each.plain() for each in fans]}
                for ahead, fans in self.rolled.items()
            ],
            "balance": None if self.balance is None else self.balance.plain(),
        }

    @property
    def sure(self) -> list[str]:
        """What is to be said of probabilities, quantiles and weights, a sentence or line each."""
        lines = [line for each in self.scores.fans for line in each.lines()]
        for ahead, fans in self.rolled.items():
            start = f"a forecast {ahead} steps ahead, medians fed back: "
            lines += [start + line for each in fans for line in each.coverage_lines()[:1]]
        if self.scores.calibration is not None:
            lines.append(self.scores.calibration.sentence())
        return [*lines, self.balance.sentence()] if self.balance else lines


def compared(
    recipe: Recipe,
    target: Target,
    part: str,
    sessions: Sequence[Session],
    outputs: Sequence[Floats],
    simple: Sequence[Baseline],
    temperature: float = 1.0,
    weights: Doubles | None = None,
) -> Comparison:
    """The network's outputs [T, O] on `sessions`, beside those of the `simple` baselines;
    `weights` [C] is what training gave each class, if anything."""
    targets = targets_of(sessions)
    scorer = scorer_of(target, targets)
    ours = scorer.sums(outputs, targets)
    plain_scores = scores_of(scorer, ours, part)
    scores = sure_scores(plain_scores, target, outputs, targets, temperature)
    weighted = recipe.target.weights != "equal"
    main = scorer.main(weighted)
    theirs = {each.name: scorer.sums(each.outputs, targets) for each in simple}
    judged = judge(scorer, weighted, ours, theirs, simple)
    return Comparison(
        scores=scores,
        main=main,
        unit=scorer.unit(main),
        baselines={name: known_intervals(scorer, each) for name, each in theirs.items()},
        best=judged.best,
        difference=judged.difference,
        sentence=judged.sentence,
        balance=None
        if weights is None
        else balance_of(scorer, outputs, targets, weights, temperature),
    )


@dataclass(frozen=True)
class Judged:
    """A network beside its best baseline; None where there is none, or nothing to judge by."""

    best: str | None
    difference: Interval
    sentence: str


def judge(
    scorer: Scorer,
    weighted: bool,
    ours: Doubles,
    theirs: Mapping[str, Doubles],
    simple: Sequence[Baseline],
    what: str = "session",
) -> Judged:
    """The network's sums [S, M] beside those of the `simple` baselines, of the same sessions or
    whatever else is drawn again; `weighted`: whether training gave classes unlike weights."""
    main = scorer.main(weighted)
    known = not np.isnan(scorer.figures(ours.sum(axis=0))[main])
    best = _best(scorer, main, theirs) if known else None
    if best is None:
        nothing = Interval(float("nan"))
        return Judged(None, nothing, "There is no baseline to compare with.")
    apart = differences(scorer, ours, theirs[best])
    (baseline,) = [each for each in simple if each.name == best]
    sentence = _sentence(scorer, main, baseline, ours, theirs[best], apart[main], what)
    if baseline.told:
        sentence += (
            "; it is told what was to be predicted of the steps before, as the network is not"
        )
    if weighted and scorer.target.classes:
        mine, other = (
            float(scorer.figures(each.sum(axis=0))[ACCURACY]) for each in (ours, theirs[best])
        )
        sentence += (
            "; of accuracy per step, which class weights do not aim at, "
            f"{mine:.3f} against {other:.3f}"
        )
    return Judged(best, apart[main], sentence + ".")


def _best(scorer: Scorer, main: str, sums: Mapping[str, Doubles]) -> str | None:
    figures = {name: float(scorer.figures(each.sum(axis=0))[main]) for name, each in sums.items()}
    if not figures:
        return None
    pick = max if is_better_high(main) else min
    return pick(figures, key=lambda name: figures[name])


def _sentence(
    scorer: Scorer,
    main: str,
    baseline: Baseline,
    ours: Doubles,
    theirs: Doubles,
    apart: Interval,
    what: str,
) -> str:
    starts = {
        "better": "The network beats its best baseline, {}",
        "worse": "The network is worse than its best baseline, {}",
        "not told apart": "The network and its best baseline, {}, are not told apart",
    }
    unit = scorer.unit(main)
    pair = (float(scorer.figures(each.sum(axis=0))[main]) for each in (ours, theirs))
    mine, other = (told(main, unit, value) for value in pair)
    return (
        f"{starts[verdict(main, apart)].format(baseline.words)}: {name_of(main)} {mine} "
        f"against {other}, {told_difference(main, unit, apart, len(ours), what)}"
    )
