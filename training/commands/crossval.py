"""Cross-validate by groups: several times, train without some of them and look at those."""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from training.commands.options import add_recipe, recipe_of
from training.figures import ends, figures_on
from training.loop.fit import fit
from training.recipe.recipe import Recipe, to_mapping
from training.table.dataset import load
from training.table.segments import folds

log = logging.getLogger(__name__)
NAMED = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """CONFIG, how many folds, where to write."""
    add_recipe(parser)
    parser.add_argument("--folds", type=int, default=5, help="parts of the groups (default 5)")
    parser.add_argument("--processes", type=int, default=2, help="folds at a time (default 2)")
    parser.add_argument("--in-order", action="store_true", help="folds of neighbours by name, "
                        "not drawn by split.seed")  # fmt: skip
    parser.add_argument("--out", type=Path, help="a JSON file of the figures")


def run(arguments: argparse.Namespace) -> None:
    """Print and write the figures on groups never seen.

    Raises:
        TrainingError: there are fewer groups than folds.
    """
    recipe = recipe_of(arguments)
    groups = _groups(recipe)
    seed = None if arguments.in_order else recipe.split.seed
    recipes = [_without(recipe, fold) for fold in folds(groups, arguments.folds, seed)]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.processes, mp_context=spawn) as pool:
        done = list(pool.map(_fold, recipes))
    result = _summary(done) | {"recipe": to_mapping(recipe)}
    _tell(result)
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


def _tell(result: dict[str, Any]) -> None:
    """A line a fold, and how far apart they are."""
    for k, fold in enumerate(result["folds"], start=1):
        names = fold["held_out"]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        figures = ", ".join(f"{name} {value:.4g}" for name, value in fold["figures"].items())
        log.info("fold %d, held out %s%s: %s", k, ", ".join(names[:NAMED]), more, figures)
    for name, mean in result["mean"].items():
        spread = result["spread"][name]
        log.info("%s: mean of the folds %.4g, standard deviation %.2g, from %.4g to %.4g",
                 name, mean, spread["deviation"], spread["lowest"], spread["highest"])  # fmt: skip


def _groups(recipe: Recipe) -> list[str]:
    dataset = load(recipe)
    every = dataset.train + dataset.validation + dataset.test
    groups = {session.group for session in every}
    numbers = all(group.isdecimal() for group in groups)
    return sorted(groups, key=int) if numbers else sorted(groups)


def _without(recipe: Recipe, groups: tuple[str, ...]) -> Recipe:
    split = recipe.split.model_copy(update={"test": groups, "validation": ()})
    return recipe.model_copy(update={"split": split})


def _fold(recipe: Recipe) -> dict[str, Any]:
    started = time.monotonic()
    dataset = load(recipe)
    with tempfile.TemporaryDirectory() as folder:
        fitted = fit(dataset, recipe, Path(folder), quiet=True)
    classes = dataset.target.classes
    assert isinstance(recipe.split.test, tuple)
    return {
        "held_out": list(recipe.split.test),
        "figures": figures_on(fitted.network, dataset.target, dataset.test),
        "ends": ends(fitted.network, dataset.test) if classes else [],
        "labels": dataset.target.labels,
        "seconds": round(time.monotonic() - started),
    }


def _spread(name: str, done: list[dict[str, Any]]) -> dict[str, float]:
    """Of a figure over the folds; the deviation is that of a sample (n - 1)."""
    values = np.array([fold["figures"][name] for fold in done])
    deviation = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return {"deviation": deviation, "lowest": float(values.min()), "highest": float(values.max())}


def _summary(done: list[dict[str, Any]]) -> dict[str, Any]:
    labels = done[0]["labels"]
    confusion = np.zeros((len(labels), len(labels)), int)
    for fold in done:
        del fold["labels"]
        for label, guess in fold.pop("ends"):
            confusion[label, guess] += 1
    names = done[0]["figures"]
    mean = {name: float(np.mean([fold["figures"][name] for fold in done])) for name in names}
    told = {"mean": mean, "spread": {name: _spread(name, done) for name in names}, "folds": done}
    if labels:
        told |= {"labels": list(labels), "confusion_at_session_end": confusion.tolist()}
    return told
