"""Streams one recorded session to a server and prints how many steps it applied.

A part of container-check: the session stays live, so that the server is stopped with state on it,
and one call fails on purpose, so that the errors' metric has something to tell.
"""

from __future__ import annotations

import argparse
import csv
from itertools import takewhile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tidegate import SyncClient, errors
from tidegate.model import Model


def first_session(path: Path, column: str, model: Model) -> NDArray[np.float32]:
    """The features of the file's first session, [T, I]."""
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        first = next(rows)
        same = takewhile(lambda row: row[column] == first[column], rows)
        return np.array(
            [[float(row[name]) for name in model.feature_names] for row in (first, *same)],
            np.float32,
        )


def check_outputs(outputs: NDArray[np.float32], model: Model) -> None:
    """Every step has finite outputs, and probabilities sum to one."""
    assert np.isfinite(outputs).all(), "an output is not finite"
    if model.outputs[0].kind == "probability":
        sums = outputs[:, : model.outputs[0].size].sum(axis=1)
        assert np.allclose(sums, 1, atol=1e-4), "probabilities do not sum to 1"


def stream(address: str, name: str, path: Path, column: str, session_id: str) -> int:
    """Play the first session, every row a step, and return the server's count."""
    with SyncClient(address) as client:
        model = client.model(name)
        features = first_session(path, column, model)
        with client.session(name, session_id, keep=True) as session:
            outputs = np.stack([session.step(row) for row in features])
            steps = session.info().steps
        check_outputs(outputs, model)
        assert steps == len(features), f"{steps} of {len(features)} steps were applied"
        try:
            client.close_session(name, "nobody")
        except errors.UnknownSession:
            return steps
        raise AssertionError("closing an unknown session did not fail")


def main() -> None:
    """Read the arguments, stream, and print the count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", default="exercise")
    parser.add_argument("--session-column", default="session")
    parser.add_argument("--session-id", default="check")
    given = parser.parse_args()
    print(stream(given.address, given.model, given.file, given.session_column, given.session_id))


if __name__ == "__main__":
    main()
