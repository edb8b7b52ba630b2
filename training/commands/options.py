"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping, Sequence

from training.errors import TrainingError
from training.recipe.recipe import Recipe, read_recipe
from training.recipes import find_recipe

Setting = tuple[tuple[str, str], ...]
"""Keys and values, as `--set` takes them."""


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
    return with_set(arguments, ())


def with_set(arguments: argparse.Namespace, more: Setting) -> Recipe:
    """The recipe asked for, with more that is set."""
    sets = [*arguments.set, *(f"{key}={value}" for key, value in more)]
    return read_recipe(find_recipe(arguments.config), sets)


def axis_of(text: str, option: str) -> tuple[str, list[str]]:
    """A setting and the values to try, of KEY=A,B,...

    Raises:
        TrainingError: it is not of that form.
    """
    key, _, values = text.partition("=")
    if not key or not values:
        raise TrainingError(f"{option} must be KEY=A,B,..., not {text!r}")
    return key, values.split(",")


def settings(grid: Mapping[str, Sequence[str]]) -> list[Setting]:
    """Every combination of a grid."""
    pairs = [[(key, value) for value in values] for key, values in grid.items()]
    return list(itertools.product(*pairs))
