"""Give an older bundle the graph for a GPU, without data or training; its sessions go on."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from server.bundle.manifest import SINGLE_CUDA
from server.bundle.repository import SIGNATURE
from training.commands import sign
from training.errors import TrainingError
from training.upgrade import put, upgraded
from training.verify import open_bundle

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """BUNDLE and, for one that is signed, the key."""
    parser.add_argument("bundle", type=Path, help="its folder, .../NAME/VERSION")
    parser.add_argument("--key", type=Path, help="PEM file of a private key, to sign it anew")


def run(arguments: argparse.Namespace) -> None:
    """Add single.cuda.onnx, once it is proven; sign the manifest that names it.

    Raises:
        TrainingError: the bundle cannot be read or have such a graph; or it is signed, and nobody
            says by whom. It is as it was then.
    """
    folder = arguments.bundle.resolve()
    opened = open_bundle(folder, "cpu", seed=0)
    found = upgraded(opened)
    if found is None:
        log.info("%s has all that this version writes", folder)
        return
    if (folder / SIGNATURE).exists() and arguments.key is None:
        raise TrainingError(f"{folder} is signed, and would not be what was signed: name --key")
    if arguments.key is not None:
        sign.key_of(arguments.key)  # before anything is written
    graph, told = found
    try:
        put(folder, opened, graph)
    except OSError as error:
        raise TrainingError(f"{folder} cannot be written: {error.strerror}") from error
    log.info("%s has %s now, %s", folder, SINGLE_CUDA, told)
    if arguments.key is not None:
        sign.run(arguments)
