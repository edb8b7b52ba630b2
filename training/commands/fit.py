"""Train by a recipe, compare with simple means, prove the export, write the bundle."""

from __future__ import annotations

import argparse
import logging
import time
from functools import partial
from pathlib import Path

from training.commands.options import add_recipe, bundle_folder, recipe_of
from training.export import export
from training.figures import compare, figures_on, predict
from training.loop.fit import Fitted, fit
from training.loop.learned import check_learned
from training.loop.windows import lanes_of, updates_of
from training.provenance import feature_entries, output_entries, provenance
from training.recipe.recipe import Recipe
from training.table.dataset import load
from training.table.session import Dataset

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """CONFIG, where to write, whether to go on."""
    add_recipe(parser)
    parser.add_argument(
        "--out", type=Path, help="the bundle, .../NAME/VERSION (models/NAME/ and the next version)"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="checkpoints and logs")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(arguments: argparse.Namespace) -> None:
    """The whole way from table to bundle.

    Raises:
        TrainingError: the recipe, the table, a network that learned nothing, or the export; no
            bundle is written then.
    """
    recipe = recipe_of(arguments)
    out = bundle_folder(arguments.out, recipe.name)
    dataset = load(recipe)
    _tell(dataset, recipe)
    started = time.monotonic()
    folder = arguments.runs / recipe.name
    fitted = fit(dataset, recipe, folder, resume=arguments.resume, quiet=arguments.quiet)
    check_learned(dataset, recipe, fitted)
    if fitted.first:  # of several processes one writes
        _write(out, dataset, recipe, fitted, time.monotonic() - started)


def _tell(dataset: Dataset, recipe: Recipe) -> None:
    parts = {"training": dataset.train, "validation": dataset.validation, "test": dataset.test}
    for name, part in parts.items():
        log.info("%s: %d sessions, %d steps", name, len(part), sum(map(len, part)))
    loop = recipe.loop
    lanes = lanes_of(loop.batch, dataset.train, loop.window)
    log.info("loop.batch = %s: %d sessions side by side, about %d updates an epoch",
             loop.batch, lanes, updates_of(dataset.train, lanes, loop.window))  # fmt: skip


def _write(out: Path, dataset: Dataset, recipe: Recipe, fitted: Fitted, seconds: float) -> None:
    part, sessions = dataset.held_out
    figures = figures_on(fitted.network, dataset.target, sessions)
    baselines = compare(dataset, recipe.baselines) if dataset.test else {}
    for name, value in figures.items():
        log.info("%s part, %s: %.4g", part, name, value)
    for name, value in baselines.items():
        log.info("  for comparison, %s: %.4g", name, value)
    errors = export(
        out,
        fitted.network.network(),
        features=feature_entries(dataset),
        outputs=output_entries(dataset.target),
        sessions=sessions,
        target=dataset.target,
        torch_outputs=partial(predict, fitted.network),
        precision=recipe.export.precision,
        description=recipe.description,
        provenance=provenance(dataset, recipe, figures, baselines, fitted.curve, seconds),
    )
    log.info("wrote %s; largest differences from the reference: %s", out, errors)
