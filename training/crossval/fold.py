"""One fit of a fold: trained without some groups, and measured on them.

Whoever but orders fits, which others do, need not wait for torch: it is imported where one is done.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.recipe.grid import Setting
from training.recipe.recipe import Recipe
from training.scoring.comparison import Baseline
from training.scoring.scorer import known_figures, scorer_of, targets_of
from training.table.dataset import load
from training.table.session import Dataset

Doubles = NDArray[np.float64]
Groups = tuple[str, ...]


@dataclass(frozen=True)
class Fold:
    """What a network did on groups that it was not trained on.

    `by_group` has the sums of each held-out group's sessions, added up; `ends` the last label of
    each session and what was named then; `chosen` the settings that were chosen for it, if any;
    `baselines` what simple predictions, learned from the same sessions as the network, did there.
    """

    held_out: Groups
    seed: int
    figures: Mapping[str, float]
    by_group: Mapping[str, Doubles]
    ends: tuple[tuple[int, int], ...]
    seconds: int
    chosen: Setting
    baselines: tuple[tuple[Baseline, Mapping[str, Doubles]], ...] = ()

    def plain(self) -> dict[str, Any]:
        """For the JSON file."""
        told: dict[str, Any] = {"held_out": list(self.held_out), "seed": self.seed}
        told |= {"figures": dict(self.figures), "seconds": self.seconds}
        return told | ({"chosen": dict(self.chosen)} if self.chosen else {})


@dataclass(frozen=True)
class Fit:
    """A recipe whose test part is the groups that it is trained without; `beside`: whether
    baselines are learned too."""

    recipe: Recipe
    chosen: Setting
    beside: bool = False

    @property
    def held_out(self) -> Groups:
        """Those groups."""
        groups = self.recipe.split.test
        assert isinstance(groups, tuple)
        return tuple(map(str, groups))


def without(
    recipe: Recipe,
    groups: Groups,
    again: int = 0,
    chosen: Setting = (),
    beside: bool = False,
) -> Fit:
    """The fit that holds `groups` out, for the `again`th time: each has a seed of its own. A share
    for validation is drawn from the others, as `fit` draws it; groups that are named are not held
    back, for they are others' in some fold."""
    kept = recipe.split.validation
    validation = () if isinstance(kept, tuple) else kept
    split = recipe.split.model_copy(update={"test": groups, "validation": validation})
    loop = recipe.loop.model_copy(update={"seed": recipe.loop.seed + again})
    return Fit(recipe.model_copy(update={"split": split, "loop": loop}), chosen, beside)


def fitted(wanted: Fit) -> Fold:
    """Train and measure; nothing is left on disk."""
    from training.figures import ends, predict
    from training.loop.fit import fit

    started, recipe = time.monotonic(), wanted.recipe
    dataset = load(recipe)
    with tempfile.TemporaryDirectory() as folder:
        network = fit(dataset, recipe, Path(folder), quiet=True).network
    outputs = [predict(network, session.x) for session in dataset.test]
    targets, groups = targets_of(dataset.test), [session.group for session in dataset.test]
    scorer = scorer_of(dataset.target, targets)
    sums = scorer.sums(outputs, targets)
    beside = _beside(dataset, recipe) if wanted.beside else []
    return Fold(
        held_out=wanted.held_out,
        seed=recipe.loop.seed,
        figures=known_figures(scorer.figures(sums.sum(axis=0))),
        by_group=added(zip(groups, sums, strict=True)),
        ends=tuple(ends(outputs, targets)) if dataset.target.classes else (),
        seconds=round(time.monotonic() - started),
        chosen=wanted.chosen,
        baselines=tuple(
            (
                replace(each, outputs=[]),
                added(zip(groups, scorer.sums(each.outputs, targets), strict=True)),
            )
            for each in beside
        ),
    )


def _beside(dataset: Dataset, recipe: Recipe) -> list[Baseline]:
    from training.loop.fit import plain_weights
    from training.scoring.baselines import baselines

    weights = plain_weights(dataset, recipe)
    return baselines(dataset, recipe.baselines, dataset.test, weights, recipe.loop.threads)


def added(sums: Iterable[tuple[str, Doubles]]) -> dict[str, Doubles]:
    """Sums by group."""
    total: dict[str, Doubles] = {}
    for group, row in sums:
        total[group] = total[group] + row if group in total else row
    return total
