"""Settings chosen for each fold by the groups of the others alone: nested cross-validation
(Varma & Simon 2006).

Figures of a fold whose groups had a say in the settings flatter the settings. So each two folds are
left out together, once a setting: a network that knows neither is measured on both, which for
either fold says something of the other. What does best on all others is taken for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.crossval.fold import Fit, Fold, Groups, without
from training.errors import TrainingError
from training.recipe.grid import Setting
from training.recipe.recipe import Recipe
from training.scoring.scorer import Scorer, is_better_high

FEWEST = 3
Run = Callable[[Sequence[Fit]], Iterable[Fold]]
"""Whoever does fits, and tells of each in order."""


@dataclass(frozen=True)
class Choice:
    """The setting that is best for a fold, and what each came to on all other folds' groups."""

    held_out: Groups
    figure: str
    measured: Mapping[Setting, float]

    @property
    def setting(self) -> Setting:
        """The best; of equals the one that was named first."""
        pick = max if is_better_high(self.figure) else min
        return pick(self.measured, key=self.measured.__getitem__)

    def plain(self) -> dict[str, Any]:
        """For the JSON file."""
        measured = [
            {"setting": dict(one), self.figure: value} for one, value in self.measured.items()
        ]
        return {
            "held_out": list(self.held_out),
            "setting": dict(self.setting),
            "measured": measured,
        }


def chosen(
    recipes: Mapping[Setting, Recipe],
    folds: Sequence[Groups],
    figure: str,
    scorer: Scorer,
    run: Run,
) -> list[Choice]:
    """A choice for each fold, by `figure`.

    Raises:
        TrainingError: there are too few folds: without two of them nothing would be left.
    """
    if len(folds) < FEWEST:
        raise TrainingError(f"settings are chosen within at least {FEWEST} folds, not {len(folds)}")
    fits = [
        without(recipe, one + other, chosen=setting)
        for setting, recipe in recipes.items()
        for one, other in itertools.combinations(folds, 2)
    ]
    done = list(run(fits))
    return [_for(fold, list(recipes), done, figure, scorer) for fold in folds]


def _for(
    fold: Groups, names: Sequence[Setting], done: Sequence[Fold], figure: str, scorer: Scorer
) -> Choice:
    """Of the fits that knew nothing of `fold`, by what they did on the groups of others."""
    measured = {}
    for setting in names:
        blind = [each for each in done if each.chosen == setting and {*fold} <= {*each.held_out}]
        rows = [row for each in blind for group, row in each.by_group.items() if group not in fold]
        measured[setting] = float(scorer.figures(sum(rows[1:], rows[0]))[figure])
    return Choice(fold, figure, measured)
