"""`fit`: what it takes, and what is wrong with the recipe or the table before torch is there."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path

from training.bundle import bundle_folder
from training.commands.options import add_recipe, recipe_of
from training.loop.trackers import TRACKERS
from training.table.dataset import load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """CONFIG, where to write, whether to go on."""
    add_recipe(parser)
    parser.add_argument(
        "--out", type=Path, help="the bundle, .../NAME/VERSION (models/NAME/ and the next version)"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="checkpoints and logs")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    how.add_argument(
        "--minutes", type=_minutes, help="for which to train, in place of epochs and patience"
    )
    parser.add_argument("--tracker", choices=list(TRACKERS), help="tell it of the run, too")
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
    from training.commands.fitting import fit_and_write  # with torch, which takes seconds

    fit_and_write(arguments, recipe, dataset, out)


def _minutes(text: str) -> float:
    with suppress(ValueError):
        if 0 < (minutes := float(text)) < float("inf"):
            return minutes
    raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
