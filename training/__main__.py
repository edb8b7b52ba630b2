"""`python -m training` and `tidegate-train`: fit the bundle, cross-validate, write examples."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.crossval import cross_validate
from training.data import read_recordings, source
from training.examples import write_examples
from training.export import export
from training.fit import FitConfig, evaluate, fit
from training.split import HELD_OUT, by_person

log = logging.getLogger("training")
Run = Callable[[argparse.Namespace], None]


def main() -> int:
    """Exit status 0, or what an error made of it."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    parser = argparse.ArgumentParser(prog="tidegate-train", description=__doc__)
    commands = parser.add_subparsers(required=True)
    _command(commands, "fit", fit_bundle, Path("models/exercise/1"))
    _command(commands, "crossval", crossval, Path("models/exercise/crossval.json"))
    _command(commands, "examples", examples, Path("examples/watch.csv"))
    arguments = parser.parse_args()
    arguments.run(arguments)
    return 0


def fit_bundle(arguments: argparse.Namespace) -> None:
    """Train on eight people, prove the export on the two held out, write the bundle."""
    config = FitConfig(epochs=arguments.epochs)
    train, held_out = by_person(read_recordings(), HELD_OUT)
    started = time.monotonic()
    model = fit(train, config)
    score = evaluate(model, held_out)
    log.info("people never seen: %.3f per step, %.3f at session end", score.per_step, score.at_end)
    story = {
        "data": source(),
        "people": {
            "trained_on": sorted({recording.person for recording in train}),
            "held_out": sorted(HELD_OUT),
        },
        "held_out_accuracy": {"per_step": score.per_step, "at_session_end": score.at_end},
        "config": asdict(config),
        "seconds": round(time.monotonic() - started),
    }
    errors = export(arguments.out, model, train, held_out, story)
    log.info("wrote %s; largest differences from the reference: %s", arguments.out, errors)


def crossval(arguments: argparse.Namespace) -> None:
    """Print and write accuracy on unseen people."""
    result = cross_validate(FitConfig(epochs=arguments.epochs), arguments.out)
    for fold in result["folds"]:
        log.info(
            "people %s: %.3f per step, %.3f at end",
            *map(fold.get, ("held_out", "per_step", "at_end")),
        )
    log.info("all: %.3f per step, %.3f at session end", result["per_step"], result["at_end"])


def examples(arguments: argparse.Namespace) -> None:
    """Write held-out sessions as CSV."""
    log.info("wrote %s: %s", arguments.out, ", ".join(write_examples(arguments.out)))


def _command(commands: Any, name: str, run: Run, out: Path) -> None:
    command = commands.add_parser(name, help=run.__doc__)
    command.add_argument("--out", type=Path, default=out, help=f"what to write (default {out})")
    command.add_argument("--epochs", type=int, default=FitConfig.epochs)
    command.set_defaults(run=run)


if __name__ == "__main__":
    sys.exit(main())
