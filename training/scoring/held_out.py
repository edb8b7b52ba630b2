"""A bundle and the sessions of a table that it was not trained on: what it may be measured by.

Of the table that it was trained on, that is the part its recipe held out. Of another one, it is the
sessions (or groups) that the manifest does not name as trained on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from training.errors import TrainingError
from training.insight.evaluation import Evaluation, Subject, evaluate, read_bundle
from training.scoring.scorer import scorer_of, targets_of
from training.scoring.scores import Scores, scores_of, sure_scores
from training.table.again import read_again
from training.table.columns import require
from training.table.frame import kept_as_file
from training.table.reading import Rows
from training.table.segments import NEW, PARTS, TEST, VALIDATION, Segment, Segments
from training.table.session import Dataset, Session


@dataclass(frozen=True)
class HeldOut:
    """A bundle, with a dataset whose held-out part is what to measure it by; `part` says what that
    is, and `segments` where its sessions lie in the table."""

    subject: Subject
    part: str
    segments: Segments

    @property
    def sessions(self) -> tuple[Session, ...]:
        """Those to measure by."""
        return self.subject.held_out

    def column(self, name: str) -> dict[str, pl.Series]:
        """A column of the table, by session.

        Raises:
            TrainingError: there is none of that name.
        """
        values = require(self.segments.rows, name, "--by")
        return {each.name: values[each.start : each.stop] for each in self.segments.all}


def subject_on(folder: Path, table: Any = None) -> HeldOut:
    """A bundle that `fit` wrote, and what of a table (a file or a DataFrame; else its own) it was
    not trained on.

    Raises:
        TrainingError: it is no such bundle, the table cannot be read, or nothing was held out.
    """
    if table is None or isinstance(table, str | Path):
        return _on_file(folder, None if table is None else Path(table))
    with tempfile.TemporaryDirectory() as kept:
        return _on_file(folder, kept_as_file(table, Path(kept)))


def _on_file(folder: Path, file: Path | None) -> HeldOut:
    manifest, network, recipe = read_bundle(folder)
    name = f"{manifest['name']}/{manifest['version']}"
    again = read_again(manifest, recipe, file)
    rows = again.segments.rows
    found = again.of(TEST, NEW) or again.of(VALIDATION)
    if not found:
        raise TrainingError(f"{name} was trained on every session of {rows.name}")
    sessions = tuple(session for _, session in found)
    encoded = again.encoded
    dataset = Dataset(encoded.features, encoded.target, (), (), sessions, rows.source)
    subject = Subject(name, manifest, network, recipe, dataset)
    return HeldOut(subject, _part(found, rows), again.segments)


def _part(found: Sequence[tuple[Segment, Session]], rows: Rows) -> str:
    """What of the table it is, in words."""
    parts = {segment.part for segment, _ in found}
    if NEW in parts:
        return f"sessions of {rows.name} that it was not trained on"
    return f"{PARTS[parts.pop()]} part of {rows.name}"


def scored(held: HeldOut) -> Scores:
    """Step every session by the bundle's own graphs, and measure.

    Raises:
        TrainingError: no step has a target, or the graphs do not run here.
    """
    evaluation = evaluate(held.subject)
    scores, targets = scores_on(evaluation, held.part), targets_of(evaluation.sessions)
    temperature = held.subject.network.temperature
    return sure_scores(scores, evaluation.target, evaluation.outputs, targets, temperature)


def scores_on(evaluation: Evaluation, part: str) -> Scores:
    """Figures of outputs that were made."""
    targets = targets_of(evaluation.sessions)
    scorer = scorer_of(evaluation.target, targets)
    return scores_of(scorer, scorer.sums(evaluation.outputs, targets), part)
