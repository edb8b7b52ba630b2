"""What is looked at: a network in one of its forms, opened as the server opens it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.options import BOUNDS, SHAPES
from benchmarks.models import Shape
from server.bundle import manifest as manifests
from server.bundle.manifest import SINGLE, SINGLE_CUDA
from server.bundle.repository import Bundle
from server.engine import opening
from server.engine.device import Device
from server.engine.engine import Engine, EngineRows
from training.graphs.whole import Form, graphs

APART = "states apart"
WAYS = {
    SINGLE_CUDA: "ScatterElements",
    APART: "ScatterElements, states apart",
    SINGLE: "ScatterND",
}
"""By the graph of single steps that CUDA is given: how it puts states back. `APART` is CUDA's own
of a network whose states cannot lie in one row."""
CPU = Device("cpu")
MAX_CHUNK = 64
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Subject:
    """A network by its name; the graph of single steps that CUDA is given; and its precision."""

    model: str
    graph: str = SINGLE_CUDA
    precision: str = "float32"

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.model}, {WAYS[self.graph]}, {self.precision}"

    @property
    def bound(self) -> float:
        """See `BOUNDS`."""
        return BOUNDS[self.precision]

    @property
    def inputs(self) -> int:
        """Features of a step."""
        return SHAPES[self.model][2]

    @property
    def state_bytes(self) -> int:
        """Of one session."""
        layers, units, _ = SHAPES[self.model]
        return 2 * 4 * layers * units

    def bundle(self, max_batch: int = 4096) -> Bundle:
        """As the server would load it."""
        shape = _shape(self.model)
        files = dict(_graphs(self.model, self.precision, self.graph != APART))
        if self.graph == SINGLE:
            del files[SINGLE_CUDA]
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        manifest = {
            "format": manifests.FORMAT,
            "name": self.model,
            "version": 1,
            "features": [{"name": f"x{k}"} for k in range(shape.inputs)],
            "outputs": [{"name": "y", "size": shape.weights().outputs, "kind": "value"}],
            "states": [
                {"name": name, "shape": [width], "dtype": "float32"}
                for name, width in shape.weights().states()
            ],
            "max_chunk": MAX_CHUNK,
            "max_batch": max_batch,
            "files": digests,
        }
        parsed = manifests.parse(json.dumps(manifest).encode(), self.model)
        return Bundle(parsed, files)


@cache
def _shape(model: str) -> Shape:
    return Shape(model, *SHAPES[model])


@cache
def _graphs(model: str, precision: str, packed: bool) -> dict[str, bytes]:
    return graphs(_shape(model).weights(), Form(precision=precision, packed=packed))


@contextmanager
def opened(bundle: Bundle, device: Device, capacity: int, threads: int = 1) -> Iterator[Engine]:
    """An engine for this thread, which is released at the end."""
    engine = opening.open_engine(bundle, device, capacity, threads)
    try:
        engine.begin()
        yield engine
    finally:
        engine.release()


def single_rows(
    rng: np.random.Generator, slots: NDArray[np.int64], inputs: int, fresh: float = 0.0
) -> EngineRows:
    """One step of each slot, of which a share is `fresh`."""
    count = len(slots)
    return EngineRows(
        slots=slots.astype(np.int64),
        fresh=rng.random(count) < fresh,
        lengths=np.ones(count, np.int32),
        features=rng.normal(size=(count, 1, inputs)).astype(np.float32),
    )


def difference(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """The largest, relative to their largest value; infinite for what is not finite, or if theirs
    is nothing but zeros."""
    largest = float(np.abs(theirs).max())
    found = float(np.abs(ours - theirs).max()) / largest if largest else float("inf")
    return found if np.isfinite(found) else float("inf")
