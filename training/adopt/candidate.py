"""The merged graphs in the server's own engine, and their manifest: what is probed is served."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from server.bundle import manifest as manifests
from server.bundle.repository import Bundle
from server.engine.device import Device
from server.engine.engine import Engine, EngineRows
from server.errors import BadModel
from training.adopt.original import first_line
from training.adopt.plain import Rows
from training.errors import TrainingError
from training.network import Floats

CPU = Device("cpu")


@dataclass(frozen=True)
class Candidate:
    """Sessions in slots 1, 2, ... of an engine."""

    engine: Engine

    @property
    def names(self) -> list[str]:
        """The states'."""
        return [arena.name for arena in self.engine.arenas]

    def step(self, slots: Sequence[int], frames: Floats, fresh: Sequence[bool]) -> Floats:
        """One step of each slot: frames [B, F] -> outputs [B, O].

        Raises:
            TrainingError: onnxruntime cannot run it.
        """
        lengths = np.ones(len(slots), np.int32)
        features = np.ascontiguousarray(frames[:, None])
        rows = EngineRows(np.array(slots, np.int64), np.array(fresh), lengths, features)
        try:
            return np.array(self.engine.run(rows)[:, 0])
        except RuntimeError as error:
            raise TrainingError(f"the graph does not run: {first_line(error)}") from error

    def rows(self, *slots: int) -> Rows:
        """The states of the slots, by name."""
        found = self.engine.read(np.array(slots, np.int64))
        return {name: np.array(row) for name, row in zip(self.names, found, strict=True)}

    def put(self, rows: Rows, *slots: int) -> None:
        """Write the states of the slots."""
        self.engine.write(np.array(slots, np.int64), [rows[name] for name in self.names])


def make_engine(manifest: Mapping[str, Any], files: Mapping[str, bytes], sessions: int) -> Engine:
    """An engine over graphs that are not on disk yet.

    Raises:
        TrainingError: the manifest is malformed, or onnxruntime does not load a graph.
    """
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    text = json.dumps({**manifest, "files": digests})
    try:
        parsed = manifests.parse(text.encode(), str(manifest["name"]))
        return Engine(Bundle(parsed, dict(files)), CPU, sessions)
    except BadModel as error:
        raise TrainingError(str(error).splitlines()[0]) from error
