"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

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


def bundle_folder(out: Path | None, name: str) -> Path:
    """`out`, or the next free version under models/NAME.

    Raises:
        TrainingError: `out` does not end in a version number.
    """
    if out is None:
        taken = [int(p.name) for p in Path("models", name).glob("*") if p.name.isdecimal()]
        return Path("models", name, str(max(taken, default=0) + 1))
    if not out.name.isdecimal() or int(out.name) < 1:
        raise TrainingError(f"--out must end in NAME/VERSION, VERSION a whole number, not {out}")
    return out
