"""The exercise data: watch recordings of physiotherapy exercises, read out of the seglearn package.

140 recordings of 10 people doing 7 exercises with either arm, 6 channels at 50 Hz (Burns et al.
2018, "Shoulder physiotherapy exercise recognition: machine learning the inertial signals from a
smartwatch"). The file is read where pip put it; seglearn itself is not imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.network import Floats

FEATURES = ("ax", "ay", "az", "wx", "wy", "wz", "side")
# The package names no units; at rest the accelerometer reads 1, so it is in g.
UNITS = ("g", "g", "g", "rad/s", "rad/s", "rad/s", "0 or 1")
LABELS = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")


@dataclass(frozen=True)
class Recording:
    """One session: a person doing an exercise with one arm; `signal` is f32 [steps, 7]."""

    name: str
    person: int
    label: int
    signal: Floats


def read_recordings() -> list[Recording]:
    """All 140 recordings, in the file's order. The last feature is the arm, 0 or 1."""
    raw: dict[str, Any] = np.load(_file(), allow_pickle=True).item()
    columns = zip(raw["X"], raw["subject"], raw["side"], raw["y"], strict=True)
    return [_recording(*row) for row in columns]


def source() -> dict[str, str]:
    """Where the data came from, for the manifest."""
    return {"package": "seglearn", "version": version("seglearn"), "file": _file().name}


def _file() -> Path:
    spec = find_spec("seglearn")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package seglearn is not installed; it holds the data")
    return Path(spec.origin).parent / "data" / "watch_dataset.npy"


def _recording(signal: NDArray[np.float64], person: Any, side: Any, label: Any) -> Recording:
    person, arm, label = int(person), int(float(side)), int(label)
    sides = np.full((len(signal), 1), arm, dtype=np.float32)
    name = f"person{person:02d}-{'ba'[arm]}-{LABELS[label]}"
    steps = np.concatenate([np.asarray(signal, dtype=np.float32), sides], axis=1)
    return Recording(name, person, label, steps)
