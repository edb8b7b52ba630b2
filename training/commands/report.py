"""Write one HTML page on a bundle: why to trust it, and where not."""

from __future__ import annotations

import argparse
import errno
import logging
import math
import os
import tempfile
from pathlib import Path

from training.errors import TrainingError
from training.insight.evaluation import open_subject
from training.insight.moved import Movement, movement
from training.insight.page import page

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """BUNDLE, where to."""
    parser.add_argument("bundle", type=Path, help="its folder, .../NAME/VERSION")
    parser.add_argument("--out", type=Path, help="the HTML file (runs/NAME/report.html)")
    parser.add_argument(
        "--against",
        metavar="METRICS_URL",
        help="a server's metrics page: which features have moved since, and how much",
    )


def run(arguments: argparse.Namespace) -> None:
    """Write the page whole, or not at all.

    Raises:
        TrainingError: it is no bundle that `fit` wrote, its data or the metrics page cannot be
            read, or the file not written.
    """
    subject = open_subject(arguments.bundle)
    out = arguments.out or Path("runs", subject.recipe.name, "report.html")
    moved = movement(arguments.against, subject.manifest) if arguments.against else None
    if out.is_dir():  # first: the page takes a while
        raise TrainingError(f"{out} cannot be written: {os.strerror(errno.EISDIR)}")
    text = page(subject, moved)
    try:
        _write(out, text)
    except OSError as error:
        raise TrainingError(f"{out} cannot be written: {error.strerror}") from error
    log.info("wrote %s", out)
    if moved is not None:
        _tell(moved)


def _tell(moved: Movement) -> None:
    for each in moved.features:
        index = "–" if math.isnan(each.index) else f"{each.index:.3f}"
        print(f"{each.feature}: PSI {index}, {each.words}")
    print(moved.sentence)


def _write(out: Path, text: str) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".writing-") as folder:
        new = Path(folder) / out.name
        new.write_text(text)
        new.rename(out)
