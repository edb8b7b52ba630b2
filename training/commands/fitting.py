"""Train by a recipe, compare with simple baselines, prove the export, write the bundle."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from training.api import fit_dataset, write
from training.loop.budget import within
from training.loop.fit import Fitted
from training.loop.windows import lanes_of, updates_of
from training.recipe.recipe import Recipe
from training.scoring.comparison import Comparison
from training.scoring.words import figure_lines
from training.table.session import Dataset

log = logging.getLogger(__name__)


def fit_and_write(
    arguments: argparse.Namespace, recipe: Recipe, dataset: Dataset, out: Path
) -> None:
    """From a table to a bundle in `out`, told on the way.

    Raises:
        TrainingError: a network that learned nothing, or the export; no bundle is written then.
    """
    if arguments.minutes is not None:
        recipe = within(arguments.minutes, dataset, recipe)
    _tell(dataset, recipe)
    folder = arguments.runs / recipe.name
    resume, quiet, tracker = arguments.resume, arguments.quiet, arguments.tracker
    trained = fit_dataset(recipe, dataset, folder, resume=resume, quiet=quiet, tracker=tracker)
    if trained.comparison is not None:  # of several processes one writes
        _tell_start(trained.fitted)
        _tell_figures(trained.comparison)
        if (more := trained.advice) is not None:
            log.info("%s", more)
        log.info("wrote %s; largest differences from the reference: %s", out, write(trained, out))


def _tell(dataset: Dataset, recipe: Recipe) -> None:
    parts = {"training": dataset.train, "validation": dataset.validation, "test": dataset.test}
    for name, part in parts.items():
        log.info("%s: %d sessions, %d steps", name, len(part), sum(map(len, part)))
    loop = recipe.loop
    lanes = lanes_of(loop.batch, dataset.train, loop.window)
    log.info("loop.batch = %s: %d sessions side by side, about %d updates an epoch",
             loop.batch, lanes, updates_of(dataset.train, lanes, loop.window))  # fmt: skip


def _tell_start(fitted: Fitted) -> None:
    """What the linear model was, that training began with, and whether anything was added to it."""
    if (began := fitted.beginning) is None:
        return
    found = ", ".join(f"{name} {value:.4g}" for name, value in began.figures.items())
    log.info("epoch 0 is linear in %d lags, held back %g times as strongly as the baseline: %s",
             began.lags, began.strength, found or "there is no validation part")  # fmt: skip
    if began.kept:
        log.info("no epoch was better on the validation part: the linear model is kept as it is")


def _tell_figures(comparison: Comparison) -> None:
    scores = comparison.scores
    for line in figure_lines(scores.figures):
        log.info("%s part, %s", scores.part, line)
    for each in scores.classes:
        log.info("  class %s, %d steps: %s", each.label, each.steps,
                 ", ".join(figure_lines(each.figures)))  # fmt: skip
    for name, figures in comparison.baselines.items():
        log.info("  for comparison, %s: %s", name, ", ".join(figure_lines(figures)))
    for line in (comparison.sentence, *comparison.sure):
        log.info("%s", line)
