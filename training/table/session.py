"""A session as training sees it, what its columns mean, and what normalisation learns of them: the
end of reading, the start of all else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.network import Floats, Mirror, ascending, outputs_order


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

    The target of step t is read at step t + horizon of its session; with `several` horizons, one
    for each name, value k at step t + several[k]. With `add`, the network says
    the change from feature add[k] to value k. With `quantiles` it puts out those of each value:
    all medians, then all lowest ones, and so on.
    """

    names: tuple[str, ...]
    units: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    horizon: int = 0
    add: tuple[int, ...] | None = None
    quantiles: tuple[float, ...] = ()
    several: tuple[int, ...] = ()
    columns: tuple[str, ...] = ()
    """The column that each value is read from, where that is not its name."""

    @property
    def horizons(self) -> tuple[int, ...]:
        """That of each name."""
        return self.several or (self.horizon,) * len(self.names)

    def column(self, k: int) -> str:
        """What value or class `k` is read from."""
        return self.columns[k] if self.columns else self.names[k]

    @property
    def classes(self) -> bool:
        """Whether it is one of `labels`."""
        return bool(self.labels)

    @property
    def outputs(self) -> int:
        """O: values in one step's output."""
        return len(self.labels) or len(self.names) * max(1, len(self.quantiles))

    def single(self, outputs: Floats) -> Floats:
        """Outputs [..., O] as one number for each value [..., V]: of quantiles the medians, which
        come first; or probabilities."""
        return outputs if self.classes else outputs[..., : len(self.names)]

    def fans(self, outputs: Floats) -> Floats:
        """Outputs [..., O] as quantiles of each value [..., V, Q], the lowest first."""
        return ascending(outputs, self.quantiles)

    @property
    def fan(self) -> tuple[tuple[int, float], ...]:
        """The value and the level that each output says, where there are quantiles."""
        levels = (
            [self.quantiles[k] for k in outputs_order(self.quantiles)] if self.quantiles else ()
        )
        return tuple((k, level) for level in levels for k in range(len(self.names)))

    @property
    def fan_names(self) -> tuple[str, ...]:
        """What each output of values is called: a median as its value, "load_q90" what 90 % of
        values lie below."""
        if not self.quantiles:
            return self.names
        return tuple(
            self.names[k] if level == 0.5 else f"{self.names[k]}_q{100 * level:.10g}"
            for k, level in self.fan
        )


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

    @property
    def held_out(self) -> tuple[str, tuple[Session, ...]]:
        """The part to measure a network by, and its sessions: test, or what comes nearest."""
        if self.test:
            return "test", self.test
        if self.validation:
            return "validation", self.validation
        return "training", self.train


@dataclass(frozen=True)
class Statistics:
    """mean, std [F] of the (mirrored) features, 0 and 1 for categories; scale, shift of the
    targets, or of their changes, 1 and 0 for classes: [V] for values, whatever their quantiles."""

    mean: Floats
    std: Floats
    shift: Floats
    scale: Floats


def mirrored(x: Floats, mirror: Mirror | None) -> Floats:
    """x [T, F] as the network sees it."""
    if mirror is None:
        return x
    flip = np.array(mirror.flip, np.float32)
    return x * (1 - 2 * x[:, mirror.by : mirror.by + 1] * flip)


def groups_of(sessions: Iterable[Session]) -> list[str]:
    """Their groups' names; by number where all are numbers."""
    groups = {session.group for session in sessions}
    return sorted(groups, key=int if all(each.isdecimal() for each in groups) else None)


def measure(
    train: Sequence[Session], features: Sequence[Feature], target: Target, mirror: Mirror | None
) -> Statistics:
    """The statistics of the training part."""
    x = np.concatenate([mirrored(session.x, mirror) for session in train]).astype(np.float64)
    mean, std = np.nanmean(x, axis=0), np.nanstd(x, axis=0)
    for k, feature in enumerate(features):
        if feature.labels:
            mean[k], std[k] = 0.0, 1.0
    shift, scale = _of_targets(train, target, mean)
    return Statistics(*(each.astype(np.float32) for each in (mean, std, shift, scale)))


def _of_targets(
    train: Sequence[Session], target: Target, mean: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    if target.classes:
        return np.zeros(target.outputs), np.ones(target.outputs)
    y = np.concatenate([session.y for session in train]).astype(np.float64)
    if target.add is not None:
        columns = list(target.add)
        x = np.concatenate([session.x[:, columns] for session in train])
        y = y - np.where(np.isnan(x), mean[columns], x)
    scale = np.nanstd(y, axis=0)
    return np.nanmean(y, axis=0), np.where(scale > 0, scale, 1.0)
