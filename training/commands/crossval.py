"""Cross-validate by groups: several times, train without some of them and look at those."""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.commands.options import add_recipe, recipe_of
from training.errors import TrainingError
from training.figures import ends, predict
from training.loop.fit import fit
from training.loop.processes import side_by_side
from training.recipe.recipe import Recipe, to_mapping
from training.scoring.intervals import intervals
from training.scoring.scorer import known_figures, scorer_of, targets_of
from training.table.dataset import load
from training.table.segments import folds
from training.table.session import Dataset, Session

log = logging.getLogger(__name__)
NAMED = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """CONFIG, how many folds, where to write."""
    add_recipe(parser)
    parser.add_argument("--folds", type=int, default=5, help="parts of the groups (default 5)")
    parser.add_argument("--seeds", type=int, default=1, help="how often each fold is trained, from "
                        "loop.seed on (default 1)")  # fmt: skip
    parser.add_argument("--processes", type=int, default=2, help="folds at a time (default 2)")
    parser.add_argument("--in-order", action="store_true", help="folds of neighbours by name, "
                        "not drawn by split.seed")  # fmt: skip
    parser.add_argument("--out", type=Path, help="a JSON file of the figures")


def run(arguments: argparse.Namespace) -> None:
    """Print and write the figures on groups never seen.

    Raises:
        TrainingError: there are fewer groups than folds, or no seeds.
    """
    recipe = recipe_of(arguments)
    if arguments.seeds < 1:
        raise TrainingError(f"--seeds {arguments.seeds}: each fold is trained at least once")
    dataset = load(recipe)
    seed = None if arguments.in_order else recipe.split.seed
    held_out = folds(_groups(dataset), arguments.folds, seed)
    recipes = [_without(recipe, k, fold) for k in range(arguments.seeds) for fold in held_out]
    with ProcessPoolExecutor(arguments.processes, mp_context=side_by_side()) as pool:
        done = [_told(fold, arguments.seeds > 1) for fold in pool.map(_fold, recipes)]
    result = _summary(done, dataset) | {"recipe": to_mapping(recipe)}
    _tell(result)
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


def _told(fold: dict[str, Any], by_seed: bool) -> dict[str, Any]:
    """The fold, of which a line is told as soon as it is through."""
    names, seed = fold["held_out"], f"seed {fold['seed']}, " if by_seed else ""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    log.info("%sheld out %s%s: %s", seed, ", ".join(names[:NAMED]), more, _said(fold))
    return fold


def _tell(result: dict[str, Any]) -> None:
    """How far apart the folds are, and how far to be trusted."""
    for seed in result["seeds"] if len(result["seeds"]) > 1 else ():
        log.info("seed %d, mean of the folds: %s", seed["seed"], _said(seed))
    for name, mean in result["mean"].items():
        spread = result["spread"][name]
        log.info("%s: mean of the folds %.4g, standard deviation %.2g, from %.4g to %.4g",
                 name, mean, spread["deviation"], spread["lowest"], spread["highest"])  # fmt: skip
        if (known := result["intervals"].get(name)) and known["low"] is not None:
            between, groups = (known["low"], known["high"]), len(result["by_group"])
            log.info("  of all sessions %.4g, 95 %% interval %.4g to %.4g (%d groups drawn again)",
                     known["value"], *between, groups)  # fmt: skip


def _said(told: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in told["figures"].items())


def _groups(dataset: Dataset) -> list[str]:
    groups = {session.group for session in _every(dataset)}
    numbers = all(group.isdecimal() for group in groups)
    return sorted(groups, key=int) if numbers else sorted(groups)


def _every(dataset: Dataset) -> Sequence[Session]:
    return dataset.train + dataset.validation + dataset.test


def _without(recipe: Recipe, again: int, groups: tuple[str, ...]) -> Recipe:
    split = recipe.split.model_copy(update={"test": groups, "validation": ()})
    loop = recipe.loop.model_copy(update={"seed": recipe.loop.seed + again})
    return recipe.model_copy(update={"split": split, "loop": loop})


def _fold(recipe: Recipe) -> dict[str, Any]:
    started = time.monotonic()
    dataset = load(recipe)
    with tempfile.TemporaryDirectory() as folder:
        fitted = fit(dataset, recipe, Path(folder), quiet=True)
    outputs = [predict(fitted.network, session.x) for session in dataset.test]
    targets = targets_of(dataset.test)
    scorer = scorer_of(dataset.target, targets)
    sums = scorer.sums(outputs, targets)
    assert isinstance(recipe.split.test, tuple)
    return {
        "held_out": list(recipe.split.test),
        "seed": recipe.loop.seed,
        "figures": known_figures(scorer.figures(sums.sum(axis=0))),
        "sums": [(each.group, row) for each, row in zip(dataset.test, sums, strict=True)],
        "ends": ends(outputs, targets) if dataset.target.classes else [],
        "seconds": round(time.monotonic() - started),
    }


def _summary(done: list[dict[str, Any]], dataset: Dataset) -> dict[str, Any]:
    target = dataset.target
    scorer = scorer_of(target, targets_of(_every(dataset)))
    by_group = _by_group(done)
    figures = {group: known_figures(scorer.figures(sums)) for group, sums in by_group.items()}
    found = intervals(scorer, np.stack(list(by_group.values())))
    confusion = np.zeros((len(target.labels), len(target.labels)), int)
    for fold in done:
        del fold["sums"]
        for label, guess in fold.pop("ends"):
            confusion[label, guess] += 1
    told = {
        "mean": _mean(done),
        "intervals": {name: each.plain() for name, each in found.items()},
        "spread": {name: _spread(name, done) for name in done[0]["figures"]},
        "seeds": [{"seed": seed, "figures": _mean(of)} for seed, of in _by_seed(done).items()],
        "by_group": figures,
        "folds": done,
    }
    if target.classes:
        told |= {"labels": list(target.labels), "confusion_at_session_end": confusion.tolist()}
    return told


def _by_group(done: list[dict[str, Any]]) -> dict[str, NDArray[np.float64]]:
    """The sums of each group's sessions, by all seeds."""
    added: dict[str, NDArray[np.float64]] = {}
    for fold in done:
        for group, sums in fold["sums"]:
            added[group] = added.get(group, 0.0) + sums
    return added


def _by_seed(done: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    return {seed: [fold for fold in done if fold["seed"] == seed]
            for seed in dict.fromkeys(fold["seed"] for fold in done)}  # fmt: skip


def _mean(done: list[dict[str, Any]]) -> dict[str, float]:
    """Of each figure over folds."""
    return {name: float(np.mean([fold["figures"][name] for fold in done]))
            for name in done[0]["figures"]}  # fmt: skip


def _spread(name: str, done: list[dict[str, Any]]) -> dict[str, float]:
    """Of a figure over the folds; the deviation is that of a sample (n - 1)."""
    values = np.array([fold["figures"][name] for fold in done])
    deviation = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return {"deviation": deviation, "lowest": float(values.min()), "highest": float(values.max())}
