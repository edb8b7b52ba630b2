"""Training variety: the watch worn a little askew, movements faster or larger, a later start."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.network import Floats

ARM = 6  # the feature that is no measurement


@dataclass(frozen=True)
class Augmentation:
    """How far each variation may go."""

    rotation_degrees: float = 25.0
    scale: float = 0.15
    speed: float = 0.25
    noise: float = 0.05
    late_start: float = 0.3


def vary(signal: Floats, how: Augmentation, rng: np.random.Generator) -> Floats:
    """A variation of one recording's signal [T, 7]."""
    start = int(rng.uniform(0, how.late_start) * len(signal))
    moved = _warp(signal[start:], rng.uniform(1 - how.speed, 1 + how.speed))
    turn = _rotation(rng.normal(size=3), np.deg2rad(rng.normal() * how.rotation_degrees))
    varied = moved.copy()
    varied[:, 0:3] = moved[:, 0:3] @ turn.T
    size = rng.uniform(1 - how.scale, 1 + how.scale)
    varied[:, 3:6] = moved[:, 3:6] @ turn.T * size
    varied[:, :ARM] += rng.normal(0, how.noise, (len(moved), ARM))
    return varied.astype(np.float32)


def _warp(signal: Floats, speed: float) -> Floats:
    """The signal played `speed` times as fast; turn rates grow with it."""
    at = np.arange(0, len(signal) - 1, speed)
    low = at.astype(int)
    part = (at - low)[:, None]
    warped = signal[low] * (1 - part) + signal[low + 1] * part
    warped[:, 3:6] *= speed
    return np.asarray(warped, dtype=np.float32)


def _rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rodrigues' formula."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn: np.ndarray = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return turn
