"""Does a bundle keep its promises? No training data is needed.

Every check prints a line with its figure; one that a bundle gives no ground for (no network.npz,
no feature that may be missing) says so instead.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from training.errors import TrainingError
from training.verify import CHECKS, LeftOut, open_bundle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """BUNDLE, the device, the seed."""
    parser.add_argument("bundle", type=Path, help="its folder, .../NAME/VERSION")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--seed", type=int, default=0, help="of the random inputs")


def run(arguments: argparse.Namespace) -> None:
    """Print a line a check.

    Raises:
        TrainingError: the bundle cannot be opened, or the first check that fails.
    """
    opened = open_bundle(arguments.bundle, arguments.device, arguments.seed)
    print(f"ok   files: {opened.told}")
    for name, check in CHECKS.items():
        try:
            print(f"ok   {name}: {check(opened)}")
        except LeftOut as reason:
            print(f"  -  {name}: left out, {reason}")
        except (RuntimeError, ValueError) as error:  # what onnxruntime raises of a graph
            raise TrainingError(f"{name}: {str(error).splitlines()[0]}") from error
