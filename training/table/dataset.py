"""From a recipe to a dataset: read, cut, encode, shift targets. What training begins with."""

from __future__ import annotations

import numpy as np

from training.errors import TrainingError
from training.recipe.recipe import Recipe
from training.table.columns import Doubles
from training.table.encode import Encoded, as_floats, encode
from training.table.reading import read_rows
from training.table.segments import Segment, Segments, cut
from training.table.session import Dataset, Session
from training.table.split import PARTS, TEST, TRAIN, VALIDATION


def load(recipe: Recipe) -> Dataset:
    """The recipe's table as sessions in three parts.

    Raises:
        TrainingError: something about the table or its columns; it names the row, if there is one.
    """
    rows = read_rows(recipe.source, recipe.table)
    segments = cut(rows, recipe.table, recipe.split)
    encoded = encode(segments.rows, segments.parts, recipe)
    train, validation, test = (
        tuple(_session(segments, encoded, each) for each in segments.all if each.part == part)
        for part in (TRAIN, VALIDATION, TEST)
    )
    for part, sessions in ((TRAIN, train), (VALIDATION, validation), (TEST, test)):
        _check_targets(PARTS[part], sessions, encoded.target.horizon)
    return Dataset(encoded.features, encoded.target, train, validation, test, rows.source)


def _session(segments: Segments, encoded: Encoded, segment: Segment) -> Session:
    rows = slice(segment.start, segment.stop)
    y = _ahead(encoded.y[rows], encoded.target.horizon)
    order = segments.order[rows]
    return Session(segment.name, segment.group, as_floats(encoded.x[rows]), as_floats(y), order)


def _ahead(y: Doubles, steps: int) -> Doubles:
    """Row t holds what row t + steps held; the last ones have no target."""
    if not steps:
        return y
    shifted = np.full_like(y, np.nan)
    shifted[: max(0, len(y) - steps)] = y[steps:]
    return shifted


def _check_targets(part: str, sessions: tuple[Session, ...], horizon: int) -> None:
    """A part with sessions has at least one step whose targets are all known."""
    if not sessions or any((~np.isnan(session.y)).all(axis=1).any() for session in sessions):
        return
    if max(len(session) for session in sessions) <= horizon:
        raise TrainingError(f"target.horizon: no session of the {part} part is longer than "
                            f"{horizon} steps, so no step has a target")  # fmt: skip
    raise TrainingError(f"target: it is missing at every step of the {part} part")
