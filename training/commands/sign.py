"""Vouch for a bundle: servers that trust the key's public half serve it."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server.bundle import signature
from server.bundle.repository import MANIFEST, SIGNATURE
from training.errors import TrainingError
from training.verify import open_bundle

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """BUNDLE and the key."""
    parser.add_argument("bundle", type=Path, help="its folder, .../NAME/VERSION")
    parser.add_argument(
        "--key", type=Path, required=True, help="PEM file of an Ed25519 private key"
    )


def run(arguments: argparse.Namespace) -> None:
    """Check that the files are what the manifest says, and sign that.

    Raises:
        TrainingError: the bundle or the key cannot be read, or a file is not as the manifest says.
    """
    folder, key = arguments.bundle.resolve(), key_of(arguments.key)
    text = open_bundle(folder, "cpu", seed=0).bundle.text
    temporary = folder / f".{SIGNATURE}.writing"
    temporary.write_bytes(signature.sign(text, key))
    temporary.rename(folder / SIGNATURE)
    log.info("signed %s: %s is in %s", folder, MANIFEST, SIGNATURE)


def key_of(path: Path) -> Ed25519PrivateKey:
    """The private key in a file.

    Raises:
        TrainingError: there is none.
    """
    try:
        return signature.read_private(path)
    except signature.KeyProblem as error:
        raise TrainingError(str(error)) from error
