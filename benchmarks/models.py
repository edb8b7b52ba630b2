"""The models that are measured: random weights, since speed does not depend on what was learned."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from server.bundle.repository import Bundle, Entry, load
from server.engine.engine import EngineRows
from training.bundle import random_bundle
from training.network import Network, random_network

OUTPUTS = 32
SEED = 11


@dataclass(frozen=True)
class Shape:
    """An LSTM of `layers` layers of `hidden` units over `inputs` features, with 32 outputs."""

    name: str
    layers: int
    hidden: int
    inputs: int

    def weights(self) -> Network:
        """The same weights at every call."""
        return random_network(
            self.inputs, self.hidden, self.layers, OUTPUTS, seed=SEED, softmax=False
        )

    def write(self, repository: Path) -> None:
        """Add the model's bundle, version 1, to a repository."""
        random_bundle(repository / self.name / "1", self.weights())

    def bundle(self) -> Bundle:
        """The bundle as the server loads it."""
        with tempfile.TemporaryDirectory() as folder:
            repository = Path(folder)
            self.write(repository)
            return load(Entry(self.name, 1, repository / self.name / "1"), repository)


# The server's benchmark: one layer of 64 units over 16 features.
H64 = Shape("h64", 1, 64, 16)


def rows_of(features: NDArray[np.float32], *, fresh: bool = False) -> EngineRows:
    """Rows for features [B, T, I], all of T steps, in slots 1..B."""
    batch, width, _ = features.shape
    return EngineRows(
        slots=np.arange(1, batch + 1, dtype=np.int64),
        fresh=np.full(batch, fresh, dtype=np.bool_),
        lengths=np.full(batch, width, dtype=np.int32),
        features=features,
    )
