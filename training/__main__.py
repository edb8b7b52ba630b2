"""`tidegate-train`, or `python -m training`: from a table of sessions to a served model."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from training.errors import TrainingError

# Command, module and what it does. A module is imported when its command is asked for: some need
# torch, which takes seconds, and some do well without it.
COMMANDS = {
    "fit": ("training.commands.fit", "train by a recipe and write a bundle"),
    "sweep": ("training.commands.sweep", "try a small grid of settings"),
    "crossval": ("training.commands.crossval", "accuracy on groups never seen, in folds"),
    "diagnose": ("training.commands.diagnose", "draw what a network learned and remembers"),
    "report": ("training.commands.report", "write one HTML page on a bundle"),
    "compare": ("training.commands.compare", "which of two bundles is better on a table"),
    "replay": ("training.commands.replay", "stream held-out sessions through a server"),
    "verify": ("training.commands.verify", "check that a bundle keeps its promises"),
    "predict": ("training.commands.predict", "write a bundle's predictions of held-out sessions"),
    "upgrade": ("training.commands.upgrade", "give an older bundle the graph for a GPU"),
    "sign": ("training.commands.sign", "vouch for a bundle with a key"),
    "examples": ("training.commands.examples", "write held-out sessions as CSV"),
    "import": ("training.commands.importer", "serve any recurrent single-step ONNX graph"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0; 2 with one sentence on what must be fixed; 1 where `replay` found that a
    server answers otherwise."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        chosen = _parser(given).parse_args(given)
        with _packages(given[0]):
            chosen.run(chosen)
    except TrainingError as error:
        print(f"tidegate-train: {error}", file=sys.stderr)
        return error.status
    return 0


def _parser(given: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tidegate-train", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (module, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if given[:1] == [name]:
            with _packages(name):
                code = importlib.import_module(module)
            code.add_arguments(command)
            command.set_defaults(run=code.run)
    return parser


@contextmanager
def _packages(command: str) -> Iterator[None]:
    """Raises TrainingError where a package is missing that the command needs."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in ("training", "server"):
            raise
        raise TrainingError(f"{command} needs the package {error.name}, which is not installed; "
                            "the extra [training] brings it") from None  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
