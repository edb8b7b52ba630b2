"""Draw what a bundle's network does on its held-out sessions."""

from __future__ import annotations

import argparse
from pathlib import Path

from training.insight.diagnose import diagnose
from training.insight.evaluation import evaluate, open_subject


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """BUNDLE, where to."""
    parser.add_argument("bundle", type=Path, help="its folder, .../NAME/VERSION")
    parser.add_argument("--out", type=Path, help="a folder for the pictures (runs/NAME/diagnosis)")


def run(arguments: argparse.Namespace) -> None:
    """Print what was found, write the pictures, and end with what to try next.

    Raises:
        TrainingError: it is no bundle that `fit` wrote, or its data cannot be read.
    """
    subject = open_subject(arguments.bundle)
    folder = arguments.out or Path("runs", subject.recipe.name, "diagnosis")
    found = diagnose(subject, evaluate(subject))
    folder.mkdir(parents=True, exist_ok=True)
    for each in found.pictures:
        (folder / f"{each.name}.svg").write_text(each.svg)
        print(f"{each.title}: {each.caption}\n  {folder / each.name}.svg")
    print("What to try:")
    for line in found.advice:
        print(f"- {line}")
