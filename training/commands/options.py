"""Arguments that several commands share."""

from __future__ import annotations

import argparse

from training.errors import TrainingError
from training.recipe.recipe import Recipe, read_recipe
from training.recipes import find_recipe


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """CONFIG and --set."""
    parser.add_argument("config", help="a recipe's file, or the name of a ready one")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting in place of the file's, as loop.epochs=5 (repeatable)",
    )


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """The recipe asked for."""
    return read_recipe(find_recipe(arguments.config), arguments.set)


def axis_of(text: str, option: str) -> tuple[str, list[str]]:
    """A setting and the values to try, of KEY=A,B,...

    Raises:
        TrainingError: it is not of that form.
    """
    key, _, values = text.partition("=")
    if not key or not values:
        raise TrainingError(f"{option} must be KEY=A,B,..., not {text!r}")
    return key, values.split(",")
