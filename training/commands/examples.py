"""Write held-out sessions as CSV, as a caller's own data might look."""

from __future__ import annotations

import argparse
import csv
import logging
from pathlib import Path

import numpy as np

from training.commands.options import add_recipe, recipe_of
from training.table.dataset import load
from training.table.session import Dataset, Session

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """CONFIG, where to, how many."""
    add_recipe(parser)
    parser.add_argument("--out", type=Path, required=True, help="the CSV file")
    parser.add_argument("--sessions", type=int, default=8, help="how many (default 8)")


def run(arguments: argparse.Namespace) -> None:
    """Write them."""
    dataset = load(recipe_of(arguments))
    names = [feature.name for feature in dataset.features]
    classes = dataset.target.classes
    with arguments.out.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["session", *(["label"] if classes else []), *names])
        for session in choose(dataset, arguments.sessions):
            for row, y in zip(session.x, session.y, strict=True):
                label = [_label(dataset, y[0])] if classes else []
                writer.writerow([session.name, *label, *(_text(value) for value in row)])
    log.info("wrote %s", arguments.out)


def choose(dataset: Dataset, count: int) -> list[Session]:
    """Different held-out sessions: the k-th is of class k modulo classes, and of another group
    than the one before, as far as there are such."""
    _, sessions = dataset.held_out
    groups = sorted({session.group for session in sessions}, key=lambda g: (len(g), g))
    chosen: list[Session] = []
    for k in range(min(count, len(sessions))):
        left = [session for session in sessions if session not in chosen]
        left = [s for s in left if s.group == groups[k % len(groups)]] or left
        if dataset.target.classes:
            left = [s for s in left if s.y[0, 0] == k % dataset.target.outputs] or left
        left = sorted(left, key=lambda s: s.name, reverse=True)
        chosen.append(left[k // 2 % len(left)])
    return chosen


def _label(dataset: Dataset, index: float) -> str:
    return "" if np.isnan(index) else dataset.target.labels[int(index)]


def _text(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6g}"
