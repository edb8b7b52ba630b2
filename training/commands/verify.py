"""Does a bundle keep its promises? No training data is needed.

Every check prints a line with its figure; one that a bundle gives no ground for (no network.npz,
no feature that may be missing) says so instead.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from server.bundle import signature
from server.bundle.repository import KeyProblem, Verify
from training.errors import TrainingError
from training.verify import CHECKS, LeftOut, open_bundle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """BUNDLE, the device, the seed."""
    parser.add_argument("bundle", type=Path, help="its folder, .../NAME/VERSION")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument(
        "--trusted-keys",
        type=Path,
        help="PEM file of public keys, one of which must have signed it",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random inputs")


def run(arguments: argparse.Namespace) -> None:
    """Print a line a check.

    Raises:
        TrainingError: the bundle cannot be opened, or the first check that fails.
    """
    opened = open_bundle(
        arguments.bundle, arguments.device, arguments.seed, _verifier(arguments.trusted_keys)
    )
    print(f"ok   files: {opened.told}")
    if arguments.trusted_keys is not None:
        print(f"ok   signature: by a key of {arguments.trusted_keys}")
    for name, check in CHECKS.items():
        try:
            print(f"ok   {name}: {check(opened)}")
        except LeftOut as reason:
            print(f"  -  {name}: left out, {reason}")
        except (RuntimeError, ValueError) as error:  # what onnxruntime raises of a graph
            raise TrainingError(f"{name}: {str(error).splitlines()[0]}") from error


def _verifier(path: Path | None) -> Verify | None:
    if path is None:
        return None
    try:
        return signature.verifier(path)
    except KeyProblem as error:
        raise TrainingError(str(error)) from error
