"""One fit of a fold: trained without some groups, and measured on them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.figures import ends, predict
from training.loop.fit import fit
from training.recipe.recipe import Recipe
from training.scoring.scorer import known_figures, scorer_of, targets_of
from training.table.dataset import load

Doubles = NDArray[np.float64]
Groups = tuple[str, ...]


@dataclass(frozen=True)
class Fold:
    """What a network did on groups that it was not trained on.

    `by_group` has the sums of each held-out group's sessions, added up; `ends` the last label of
    each session and what was named then; `chosen` the settings that were chosen for it, if any.
    """

    held_out: Groups
    seed: int
    figures: Mapping[str, float]
    by_group: Mapping[str, Doubles]
    ends: tuple[tuple[int, int], ...]
    seconds: int
    chosen: Mapping[str, str]

    def plain(self) -> dict[str, Any]:
        """For the JSON file."""
        told: dict[str, Any] = {"held_out": list(self.held_out), "seed": self.seed}
        told |= {"figures": dict(self.figures), "seconds": self.seconds}
        return told | ({"chosen": dict(self.chosen)} if self.chosen else {})


@dataclass(frozen=True)
class Fit:
    """A recipe whose test part is the groups that it is trained without."""

    recipe: Recipe
    held_out: Groups
    chosen: Mapping[str, str]


def without(
    recipe: Recipe, groups: Groups, again: int = 0, chosen: Mapping[str, str] | None = None
) -> Fit:
    """The fit that holds `groups` out, for the `again`th time: each has a seed of its own."""
    split = recipe.split.model_copy(update={"test": groups, "validation": ()})
    loop = recipe.loop.model_copy(update={"seed": recipe.loop.seed + again})
    return Fit(recipe.model_copy(update={"split": split, "loop": loop}), groups, chosen or {})


def fitted(wanted: Fit) -> Fold:
    """Train and measure; nothing is left on disk."""
    started, recipe = time.monotonic(), wanted.recipe
    dataset = load(recipe)
    with tempfile.TemporaryDirectory() as folder:
        network = fit(dataset, recipe, Path(folder), quiet=True).network
    outputs = [predict(network, session.x) for session in dataset.test]
    targets = targets_of(dataset.test)
    scorer = scorer_of(dataset.target, targets)
    sums = scorer.sums(outputs, targets)
    return Fold(
        held_out=wanted.held_out,
        seed=recipe.loop.seed,
        figures=known_figures(scorer.figures(sums.sum(axis=0))),
        by_group=added((each.group, row) for each, row in zip(dataset.test, sums, strict=True)),
        ends=tuple(ends(outputs, targets)) if dataset.target.classes else (),
        seconds=round(time.monotonic() - started),
        chosen=wanted.chosen,
    )


def added(sums: Iterable[tuple[str, Doubles]]) -> dict[str, Doubles]:
    """Sums by group."""
    total: dict[str, Doubles] = {}
    for group, row in sums:
        total[group] = total[group] + row if group in total else row
    return total
