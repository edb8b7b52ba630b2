"""Try every combination of a small grid of settings, by the validation part."""

from __future__ import annotations

import argparse
import csv
import logging
import math
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import GridSampler
from optuna.trial import Trial, TrialState

from training.commands.options import add_recipe
from training.errors import TrainingError
from training.loop.fit import fit
from training.recipe.recipe import read_recipe
from training.recipes import find_recipe
from training.table.dataset import load

log = logging.getLogger(__name__)
Grid = dict[str, list[str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """CONFIG, the grid, where to write."""
    add_recipe(parser)
    parser.add_argument(
        "--grid",
        action="append",
        required=True,
        metavar="KEY=A,B,...",
        help="a setting and the values to try, as network.hidden=32,64 (repeatable)",
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="trials and their logs")


def run(arguments: argparse.Namespace) -> None:
    """Run what the grid still lacks: a sweep that was stopped goes on where it was.

    Raises:
        TrainingError: a setting is none, or there is no validation part to measure by.
    """
    grid = dict(_axis(text) for text in arguments.grid)
    recipe = read_recipe(find_recipe(arguments.config), arguments.set)
    if not load(recipe).validation:
        raise TrainingError("a sweep needs a validation part (split.validation)")
    folder = arguments.runs / f"{recipe.name}-sweep"
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=_name(arguments, grid),
        storage=f"sqlite:///{folder / 'trials.db'}",
        sampler=GridSampler(grid, seed=0),
        load_if_exists=True,
    )
    if not _is_full(study, grid):
        study.optimize(partial(_trial, arguments, grid, folder))
    _report(study, grid, folder)


def _axis(text: str) -> tuple[str, list[str]]:
    key, _, values = text.partition("=")
    if not key or not values:
        raise TrainingError(f"--grid must be KEY=A,B,..., not {text!r}")
    return key, values.split(",")


def _name(arguments: argparse.Namespace, grid: Grid) -> str:
    """The same sweep by the same name, so that it can go on."""
    return repr((sorted(arguments.set), sorted(grid.items())))


def _is_full(study: optuna.Study, grid: Grid) -> bool:
    done = sum(trial.state == TrialState.COMPLETE for trial in study.trials)
    return done >= math.prod(map(len, grid.values()))


def _trial(arguments: argparse.Namespace, grid: Grid, folder: Path, trial: Trial) -> float:
    """The best validation loss of one combination."""
    chosen = [f"{key}={trial.suggest_categorical(key, values)}" for key, values in grid.items()]
    recipe = read_recipe(find_recipe(arguments.config), [*arguments.set, *chosen])
    fitted = fit(load(recipe), recipe, folder / str(trial.number), quiet=True)
    best = min(fitted.curve, key=lambda line: line["validation_loss"])
    for name, value in best.items():
        trial.set_user_attr(name, value)
    log.info("%s: validation loss %.4g", " ".join(chosen), best["validation_loss"])
    return best["validation_loss"]


def _report(study: optuna.Study, grid: Grid, folder: Path) -> None:
    done = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    lines: list[dict[str, Any]] = [trial.params | trial.user_attrs for trial in done]
    lines.sort(key=lambda line: line["validation_loss"])
    with (folder / "trials.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    log.info("best: %s", " ".join(f"--set {key}={lines[0][key]}" for key in grid))
    log.info("wrote %s", folder / "trials.csv")
