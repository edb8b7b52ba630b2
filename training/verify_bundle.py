"""A bundle from disk, its engine as the server would make it, and random sessions to step."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.bundle.manifest import Manifest
from server.bundle.repository import Bundle, Entry, load
from server.engine.device import Device, DeviceError, choose
from server.engine.engine import Engine
from server.errors import BadModel
from training.errors import TrainingError
from training.network import Floats, Network
from training.store import FILE, network_from_bytes

SESSIONS, LONGEST, MISSING = 16, 150, 0.1
LIMITS = {"float32": 1e-5, "float16": 1e-2, "int8": 1e-1}


class LeftOut(Exception):
    """The bundle gives no ground for a check; the message says why."""


@dataclass(frozen=True)
class Subject:
    """What is verified: `signals` [T, F] are drawn as the manifest says the features lie."""

    bundle: Bundle
    raw: Mapping[str, Any]
    network: Network | None
    device: Device
    signals: tuple[Floats, ...]

    @property
    def manifest(self) -> Manifest:
        """The bundle's, as the server reads it."""
        return self.bundle.manifest

    @property
    def precision(self) -> str:
        """What its graphs compute in."""
        return str(self.raw.get("export", {}).get("form", {}).get("precision", "float32"))

    @property
    def limit(self) -> float:
        """How far outputs may be apart, in shares of `scale`: in other precisions than float32 at
        least thrice what was measured at the export."""
        cost = self.raw.get("precisions", {}).get(self.precision, {}).get("difference", {})
        measured = 0.0 if self.precision == "float32" else 3 * float(cost.get("max", 0.0))
        return max(LIMITS.get(self.precision, 0.0), measured)

    @property
    def told(self) -> str:
        """The bundle in one line."""
        m, kind = self.manifest, f"{self.precision} on {self.device.name}"
        return f"{m.name}/{m.version}, {len(m.files)} match their sha256; {kind}"

    def engine(self, sessions: int = SESSIONS) -> Engine:
        """A new one, all of whose sessions are unused.

        Raises:
            TrainingError: a graph does not load.
        """
        try:
            return Engine(self.bundle, self.device, sessions)
        except BadModel as error:
            raise TrainingError(str(error)) from error

    def scale(self, outputs: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
        """[O]: 1 for probabilities, else the largest value."""
        largest = np.abs(np.concatenate(outputs)).max(axis=0).astype(np.float64)
        kinds = [output.kind for output in self.manifest.outputs for _ in range(output.size)]
        plain = np.array([kind != "value" for kind in kinds]) | (largest == 0)
        return np.where(plain, 1.0, largest)


def open_bundle(folder: Path, device: str, seed: int) -> Subject:
    """Read and check all files.

    Raises:
        TrainingError: a file is missing, corrupt or malformed, or the device cannot be used.
    """
    folder = folder.resolve()
    if not folder.name.isdecimal():
        raise TrainingError(f"{folder.name!r} is no version: name the folder .../NAME/VERSION")
    try:
        entry = Entry(folder.parent.name, int(folder.name), folder)
        bundle = load(entry, folder.parent.parent)
        chosen = choose(device)
    except (BadModel, DeviceError) as error:
        raise TrainingError(str(error)) from error
    raw = json.loads((folder / "model.json").read_bytes())
    listed = FILE in bundle.manifest.files
    network = network_from_bytes((folder / FILE).read_bytes()) if listed else None
    return Subject(bundle, raw, network, chosen, _signals(raw["features"], seed))


def _signals(features: Sequence[Mapping[str, Any]], seed: int) -> tuple[Floats, ...]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(LONGEST // 3, LONGEST + 1, SESSIONS)
    return tuple(
        np.stack([_column(feature, int(length), rng) for feature in features], axis=1)
        for length in lengths
    )


def _column(feature: Mapping[str, Any], length: int, rng: np.random.Generator) -> Floats:
    """Labels are drawn evenly, the unknown one among them; a tenth is missing where it may be."""
    if labels := feature.get("labels"):
        column = rng.integers(0, len(labels) + 1, length).astype(np.float32)
    else:
        drawn = rng.normal(feature.get("mean", 0.0), feature.get("std", 1.0), length)
        column = np.clip(drawn, feature.get("min"), feature.get("max")).astype(np.float32)
    if feature.get("missing"):
        column[rng.random(length) < MISSING] = np.nan
    return column
