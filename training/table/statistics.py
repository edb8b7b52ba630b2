"""What normalisation needs, learned from the training part alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.network import Floats, Mirror
from training.table.session import Feature, Session, Target


@dataclass(frozen=True)
class Statistics:
    """mean, std [F] of the (mirrored) features, 0 and 1 for categories; scale, shift [O] of the
    targets, or of their changes, 1 and 0 for classes."""

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
