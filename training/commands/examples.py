"""Write held-out sessions as CSV, as a caller's own data might look, and as `tidegate stream` plays
them: categories by their labels, what is to be predicted beside each row.
"""

from __future__ import annotations

import argparse
import csv
import logging
import shlex
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

import numpy as np

from training.commands.options import add_recipe, recipe_of
from training.errors import TrainingError
from training.table.dataset import load
from training.table.session import Dataset, Feature, Session, groups_of

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """CONFIG, where to, how many."""
    add_recipe(parser)
    parser.add_argument("--out", type=Path, required=True, help="the CSV file")
    parser.add_argument("--sessions", type=int, default=8, help="how many (default 8)")


def run(arguments: argparse.Namespace) -> None:
    """Write them.

    Raises:
        TrainingError: the recipe or the table, or the file cannot be written.
    """
    dataset = load(recipe_of(arguments))
    chosen = choose(dataset, arguments.sessions)
    first, *truths = _first_columns(dataset)
    try:
        with arguments.out.open("w", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow([first, *truths, *(feature.name for feature in dataset.features)])
            for session in chosen:
                writer.writerows(_lines(session, dataset))
    except OSError as error:
        raise TrainingError(f"{arguments.out} cannot be written: {error.strerror}") from None
    columns = " ".join(f"--label-column {shlex.quote(name)}" for name in truths)
    log.info("wrote %s: %d sessions; tidegate stream %s --session-column %s %s --model NAME",
             arguments.out, len(chosen), arguments.out, first, columns)  # fmt: skip


def _first_columns(dataset: Dataset) -> list[str]:
    """What stands before the features: the session, and the label or each value to predict."""
    target = dataset.target
    wanted = ["label"] if target.classes else [f"true_{name}" for name in target.names]
    taken = {feature.name for feature in dataset.features}
    return [_free(name, taken) for name in ("session", *wanted)]


def _free(name: str, taken: Container[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _lines(session: Session, dataset: Dataset) -> Iterator[list[str]]:
    target = dataset.target
    for row, y in zip(session.x, session.y, strict=True):
        values = y[:1] if target.classes else y
        truths = [_cell(value, target.labels) for value in values]
        cells = [_feature(value, each) for value, each in zip(row, dataset.features, strict=True)]
        yield [session.name, *truths, *cells]


def choose(dataset: Dataset, count: int) -> list[Session]:
    """Different held-out sessions: the k-th is of class k modulo classes, and of another group
    than the one before, as far as there are such."""
    _, sessions = dataset.held_out
    groups = groups_of(sessions)
    chosen: list[Session] = []
    for k in range(min(count, len(sessions))):
        left = [session for session in sessions if session not in chosen]
        left = [s for s in left if s.group == groups[k % len(groups)]] or left
        if dataset.target.classes:
            left = [s for s in left if s.y[0, 0] == k % dataset.target.outputs] or left
        left = sorted(left, key=lambda s: s.name, reverse=True)
        chosen.append(left[k // 2 % len(left)])
    return chosen


def _feature(value: np.float32, feature: Feature) -> str:
    """A category that training never saw has a text that is no label either."""
    if np.isnan(value) and feature.labels and not feature.missing:
        return _free("unknown", feature.labels)
    return _cell(value, feature.labels)


def _cell(value: np.float32, labels: Sequence[str]) -> str:
    """The label, or the shortest text of the same float32; nothing where it is missing."""
    if np.isnan(value):
        return ""
    return labels[int(value)] if labels else str(value)
