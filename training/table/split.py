"""Splits rows into training, validation and test part: by session, by group or by time.

Nobody's rows are in two parts when split by session or group; nothing of the training part lies
after anything of the other parts when split by time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError
from training.recipe.recipe import Split
from training.table.columns import Doubles

PARTS = ("training", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)
Parts = NDArray[np.int8]
Held = float | tuple[str | int, ...]


def by_unit(units: NDArray[np.str_], split: Split) -> Parts:
    """The part of each row, all rows of a unit (a session's or group's name) in the same.

    Raises:
        TrainingError: a unit named does not exist, is named twice, or no unit is left to train on.
    """
    names = np.unique(units)
    order = np.random.default_rng(split.seed).permutation(names)
    test = _chosen(split.test, names, order, "test")
    rest = order[~np.isin(order, test)]
    validation = _chosen(split.validation, names, rest, "validation")
    if twice := sorted(set(test) & set(validation)):
        raise TrainingError(f"split: {twice[0]} is both in test and in validation")
    if len(test) + len(validation) >= len(names):
        raise TrainingError(f"split: of {len(names)} {split.by}s none is left to train on")
    parts = np.zeros(len(units), np.int8)
    parts[np.isin(units, validation)] = VALIDATION
    parts[np.isin(units, test)] = TEST
    return parts


def by_time(order: Doubles, split: Split) -> Parts:
    """The part of each row: the last rows in time are the test part, those before validation.

    Raises:
        TrainingError: the shares are not numbers, or leave no rows to train on.
    """
    test, validation = split.test, split.validation
    if isinstance(test, tuple) or isinstance(validation, tuple):
        raise TrainingError("split by time takes shares, not names")
    if test + validation >= 1:
        raise TrainingError(f"split: {test} and {validation} leave nothing to train on")
    cuts = np.quantile(order, [1 - test - validation, 1 - test])
    return np.searchsorted(cuts, order, side="left").astype(np.int8)


def folds(names: list[str], count: int) -> list[tuple[str, ...]]:
    """Groups in `count` parts of neighbours, each to be held out once.

    Raises:
        TrainingError: there are fewer groups than folds.
    """
    if count > len(names):
        raise TrainingError(f"{len(names)} groups cannot make {count} folds")
    return [tuple(map(str, part)) for part in np.array_split(np.array(names), count)]


def _chosen(held: Held, names: NDArray[np.str_], order: NDArray[np.str_], part: str) -> list[str]:
    if isinstance(held, tuple):
        chosen = [str(name) for name in held]
        for name in chosen:
            if name not in names:
                raise TrainingError(f"split.{part}: there is no {name!r} in the table")
        return chosen
    count = max(1, round(held * len(names))) if held else 0
    return [str(name) for name in order[:count]]
