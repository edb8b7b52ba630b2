"""Arguments that several commands share."""

from __future__ import annotations

import argparse

from training.recipe.grid import Setting, words
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
    return with_set(arguments, ())


def with_set(arguments: argparse.Namespace, more: Setting) -> Recipe:
    """The recipe asked for, with more that is set."""
    return read_recipe(find_recipe(arguments.config), [*arguments.set, *words(more)])
