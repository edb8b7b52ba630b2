"""A session as training sees it, and what its columns mean: the end of reading, the start of all
else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.network import Floats


@dataclass(frozen=True)
class Feature:
    """One value of an observation: a number, or the index of one of `labels`."""

    name: str
    unit: str = ""
    labels: tuple[str, ...] = ()
    missing: bool = False
    """Whether it may be missing: NaN, in training and in what callers send."""


@dataclass(frozen=True)
class Target:
    """What is predicted at each step: one of `labels`, or a value for each of `names`.

    The target of step t is read at step t + horizon of its session. With `add`, the network says
    the change from feature add[k] to value k.
    """

    names: tuple[str, ...]
    units: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    horizon: int = 0
    add: tuple[int, ...] | None = None

    @property
    def classes(self) -> bool:
        """Whether it is one of `labels`."""
        return bool(self.labels)

    @property
    def outputs(self) -> int:
        """O: values in one step's output."""
        return len(self.labels) or len(self.names)


@dataclass(frozen=True)
class Session:
    """x f32 [T, F]: raw features, NaN where missing, categories as indices (NaN where unknown).

    y f32 [T, 1] of label indices, or [T, O] of values; NaN where there is no target.
    order f64 [T] is ascending.
    """

    name: str
    group: str
    x: Floats
    y: Floats
    order: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.x)

    def part(self, start: int, stop: int, name: str = "") -> Session:
        """Its steps `start` to `stop`."""
        rows = slice(start, stop)
        return Session(name or self.name, self.group, self.x[rows], self.y[rows], self.order[rows])


@dataclass(frozen=True)
class Dataset:
    """A table read whole and split; every number learned from data comes from `train` alone."""

    features: tuple[Feature, ...]
    target: Target
    train: tuple[Session, ...]
    validation: tuple[Session, ...]
    test: tuple[Session, ...]
    source: dict[str, str]
    """Where it was read: the package and its version, or the file, and the sha256 of its bytes."""
