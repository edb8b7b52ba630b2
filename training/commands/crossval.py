"""Cross-validate by groups: several times, train without some of them and look at those."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from training.commands.options import add_recipe, recipe_of, with_set
from training.crossval.choosing import Choice, Run, chosen
from training.crossval.fold import Fit, Fold, Groups, without
from training.crossval.kept import Kept
from training.crossval.summary import beside, summary
from training.errors import TrainingError
from training.loop.processes import side_by_side
from training.recipe.grid import Setting, axis_of, settings, words
from training.recipe.recipe import Recipe, to_mapping
from training.scoring.scorer import Scorer, scorer_of, targets_of
from training.table.dataset import load
from training.table.segments import folds
from training.table.session import Dataset, Session, groups_of

log = logging.getLogger(__name__)
NAMED = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """CONFIG, how many folds, what to choose within them, where to write."""
    add_recipe(parser)
    parser.add_argument("--folds", type=int, default=5, help="parts of the groups (default 5)")
    parser.add_argument("--seeds", type=int, default=1, help="how often each fold is trained, from "
                        "loop.seed on (default 1)")  # fmt: skip
    parser.add_argument("--choose", action="append", default=[], metavar="KEY=A,B,...",
                        help="a setting of which each fold takes the value that is best in the "
                        "others, as network.hidden=32,64 (repeatable)")  # fmt: skip
    parser.add_argument("--by", metavar="FIGURE", help="the figure to choose by (default: the one "
                        "that `fit` judges by)")  # fmt: skip
    parser.add_argument("--baselines", action="store_true", help="beside the network, what `fit` "
                        "compares it with, learned in each fold")  # fmt: skip
    parser.add_argument("--processes", type=int, default=2, help="fits at a time (default 2)")
    parser.add_argument("--in-order", action="store_true", help="folds of neighbours by name, "
                        "not drawn by split.seed")  # fmt: skip
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where fits that are "
                        "through are kept: the same command goes on after them")  # fmt: skip
    parser.add_argument("--out", type=Path, help="a JSON file of the figures")


def run(arguments: argparse.Namespace) -> None:
    """Print and write the figures on groups never seen.

    Raises:
        TrainingError: there are fewer groups than folds, no seeds, too few folds to choose within,
            or there is no such figure or setting.
    """
    recipe = recipe_of(arguments)
    if arguments.seeds < 1:
        raise TrainingError(f"--seeds {arguments.seeds}: each fold is trained at least once")
    if arguments.by and not arguments.choose:
        raise TrainingError("--by says what to --choose by, and there is nothing to choose")
    if arguments.out and not arguments.out.parent.is_dir():
        raise TrainingError(f"--out {arguments.out}: there is no folder {arguments.out.parent}")
    recipes = _recipes(arguments)
    dataset = load(recipe)
    scorer = scorer_of(dataset.target, targets_of(_every(dataset)))
    figure = _figure(arguments.by, scorer, dataset, recipe)
    seed = None if arguments.in_order else recipe.split.seed
    held_out = folds(groups_of(_every(dataset)), arguments.folds, seed)
    kept = Kept(arguments.runs / f"{recipe.name}-crossval", dataset.source)
    kept.folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(arguments.processes, mp_context=side_by_side()) as pool:
        measure = partial(_measured, pool, kept)
        choices = _choices(recipes, held_out, figure, scorer, measure)
        fits = _fits(recipes, held_out, choices, arguments.seeds, arguments.baselines)
        done = measure(fits)
    result = summary(done, scorer, dataset.target) | {"recipe": to_mapping(recipe)}
    result |= beside(done, scorer, recipe.target.weights != "equal")
    if choices:
        result |= {"choices": [choice.plain() for choice in choices]}
    _tell(result)
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


def _recipes(arguments: argparse.Namespace) -> dict[Setting, Recipe]:
    """The recipe in each setting to choose from; as it is where there is nothing to choose."""
    grid = dict(axis_of(text, "--choose") for text in arguments.choose)
    return {setting: with_set(arguments, setting) for setting in settings(grid)}


def _figure(by: str | None, scorer: Scorer, dataset: Dataset, recipe: Recipe) -> str:
    """The figure to choose by."""
    if by is None:
        return scorer.main(recipe.target.weights != "equal")
    session = dataset.train[0]
    blank = np.zeros((len(session), dataset.target.outputs), np.float32)
    known = scorer.figures(scorer.sums([blank], [session.y])[0])
    if by not in known:
        raise TrainingError(f"--by {by}: there is no such figure; there are {', '.join(known)}")
    return by


def _measured(pool: ProcessPoolExecutor, kept: Kept, fits: Sequence[Fit]) -> list[Fold]:
    """Each fit, of which a line is told as soon as it is through."""
    several = len({each.recipe.loop.seed for each in fits}) > 1
    if before := sum(map(kept.has, fits)):
        log.info("%d of %d fits are in %s already", before, len(fits), kept.folder)
    done = []
    for fold in _each(pool, kept, fits):
        names = fold.held_out
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        parts = [f"seed {fold.seed}"] if several else []
        parts += [" ".join(words(fold.chosen))] if fold.chosen else []
        parts += [f"held out {', '.join(names[:NAMED])}{more}"]
        log.info("%s: %s", ", ".join(parts), _said(fold.figures))
        done.append(fold)
    return done


def _each(pool: ProcessPoolExecutor, kept: Kept, fits: Sequence[Fit]) -> Iterator[Fold]:
    try:
        yield from pool.map(kept.fold, fits)
    except BrokenProcessPool:
        raise TrainingError(
            "a process that trained was killed (--processes 1 needs less memory); what is through "
            f"is kept in {kept.folder}, and the same command goes on after it"
        ) from None


def _choices(
    recipes: Mapping[Setting, Recipe],
    held_out: Sequence[Groups],
    figure: str,
    scorer: Scorer,
    measure: Run,
) -> list[Choice]:
    """What each fold is to be trained with; nothing where there is nothing to choose."""
    if len(recipes) < 2:
        return []
    choices = chosen(recipes, held_out, figure, scorer, measure)
    for choice in choices:
        each = (f"{' '.join(words(one))} {value:.4g}" for one, value in choice.measured.items())
        log.info("chosen for %s by the others' %s: %s (of %s)", ", ".join(choice.held_out[:NAMED]),
                 figure, " ".join(words(choice.setting)), "; ".join(each))  # fmt: skip
    return choices


def _fits(
    recipes: Mapping[Setting, Recipe],
    held_out: Sequence[Groups],
    choices: Sequence[Choice],
    seeds: int,
    beside: bool,
) -> list[Fit]:
    """All folds by the first seed, then by the next, each in the setting chosen for it; the
    baselines, which no seed moves, by the first alone."""
    only = next(iter(recipes))
    taken = [choice.setting for choice in choices] or [only] * len(held_out)
    return [
        without(recipes[setting], groups, again, setting, beside=beside and not again)
        for again in range(seeds)
        for groups, setting in zip(held_out, taken, strict=True)
    ]


def _tell(result: Mapping[str, Any]) -> None:
    """How far apart the folds are, and how far to be trusted."""
    for seed in result["seeds"] if len(result["seeds"]) > 1 else ():
        log.info("seed %d, mean of the folds: %s", seed["seed"], _said(seed["figures"]))
    for name, mean in result["mean"].items():
        spread = result["spread"][name]
        log.info("%s: mean of the folds %.4g, standard deviation %.2g, from %.4g to %.4g",
                 name, mean, spread["deviation"], spread["lowest"], spread["highest"])  # fmt: skip
        if (known := result["intervals"].get(name)) and known["low"] is not None:
            between, groups = (known["low"], known["high"]), len(result["by_group"])
            log.info("  of all sessions %.4g, 95 %% interval %.4g to %.4g (%d groups drawn again)",
                     known["value"], *between, groups)  # fmt: skip
    if "sentence" in result:
        log.info("%s", result["sentence"])


def _said(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


def _every(dataset: Dataset) -> Sequence[Session]:
    return dataset.train + dataset.validation + dataset.test
