"""Write what a bundle predicts of sessions that it was not trained on, row by row."""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from training.errors import TrainingError
from training.figures import step_figures
from training.insight.evaluation import Subject, outputs_of, read_bundle
from training.network import Floats
from training.table.again import Again, read_again
from training.table.reading import ROW
from training.table.segments import NEW, PARTS, TEST, TRAIN, VALIDATION, Segment
from training.table.session import Dataset, Session, Target

log = logging.getLogger(__name__)
KINDS = (".csv", ".parquet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """BUNDLE, TABLE, where to."""
    add = parser.add_argument
    add("bundle", type=Path, help="its folder, .../NAME/VERSION")
    add("table", type=Path, nargs="?", help="a file like the one it was trained on (that one)")
    add("--out", type=Path, required=True, help="the file to write, .csv or .parquet")
    add("--all", action="store_true", help="sessions that it was trained on, too")


def run(arguments: argparse.Namespace) -> None:
    """Write the file whole, or not at all.

    Raises:
        TrainingError: it is no bundle that `fit` wrote, the table does not fit or has no session to
            predict, or the file cannot be written.
    """
    if arguments.out.suffix not in KINDS:
        raise TrainingError(f"--out must end in {' or '.join(KINDS)}, not {arguments.out.name}")
    manifest, network, recipe = read_bundle(arguments.bundle)
    again = read_again(manifest, recipe, arguments.table)
    chosen = _chosen(again, arguments.all, arguments.bundle)
    sessions = [session for _, session in chosen]
    target, source = again.encoded.target, again.segments.rows.source
    dataset = Dataset(again.encoded.features, target, (), (), tuple(sessions), source)
    name = f"{manifest['name']}/{manifest['version']}"
    outputs = outputs_of(Subject(name, manifest, network, recipe, dataset), sessions)
    frame = pl.concat(
        _place(again, segment, recipe.table.order).hstack(_said(target, session, output))
        for (segment, session), output in zip(chosen, outputs, strict=True)
    )
    _write(arguments.out, frame)
    log.info("wrote %s: %d rows of %d sessions", arguments.out, len(frame), len(chosen))
    for figure, value in step_figures(outputs, [each.y for each in sessions], target).items():
        log.info("%s: %.4g", figure, value)


def _chosen(again: Again, every: bool, bundle: Path) -> list[tuple[Segment, Session]]:
    """Without `every`, the test part and what is new; the validation part where no test part is."""
    if every:
        return again.of(TRAIN, VALIDATION, TEST, NEW)
    found = again.of(TEST, NEW) or again.of(VALIDATION)
    if not found:
        raise TrainingError(f"{bundle} was trained on every session of {again.segments.rows.name}; "
                            "--all predicts those")  # fmt: skip
    return found


def _place(again: Again, segment: Segment, order: str) -> pl.DataFrame:
    """Where each step stands in the table."""
    rows = again.segments.rows.frame[segment.start : segment.stop]
    return rows.select(
        session=pl.lit(segment.name),
        part=pl.lit(PARTS[segment.part]),
        row=pl.col(ROW),
        order=pl.col(order),
    )


def _said(target: Target, session: Session, outputs: Floats) -> pl.DataFrame:
    """What is true of each step, as far as it is known, and what was predicted."""
    if not target.classes:
        columns = {f"true_{name}": session.y[:, k] for k, name in enumerate(target.names)}
        columns |= {f"predicted_{name}": outputs[:, k] for k, name in enumerate(target.fan_names)}
        return pl.DataFrame(columns).fill_nan(None)
    (name,), labels = target.names, target.labels
    truths = [None if np.isnan(k) else labels[int(k)] for k in session.y[:, 0]]
    guesses = [labels[k] for k in outputs.argmax(axis=1)]
    return pl.DataFrame(
        {f"true_{name}": pl.Series(truths, dtype=pl.String), f"predicted_{name}": guesses}
        | {f"probability_{label}": outputs[:, k] for k, label in enumerate(labels)}
    )


def _write(out: Path, frame: pl.DataFrame) -> None:
    try:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".writing-") as folder:
            new = Path(folder) / out.name
            frame.write_csv(new) if out.suffix == ".csv" else frame.write_parquet(new)
            new.rename(out)
    except OSError as error:
        raise TrainingError(f"{out} cannot be written: {error.strerror}") from None
