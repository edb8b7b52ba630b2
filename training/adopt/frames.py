"""Random inputs to probe with. A leaf."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from training.errors import TrainingError
from training.network import Floats


@dataclass(frozen=True)
class Frames:
    """Evenly drawn from `low` to `high` where they are given; else normal, or 0 and 1 where the
    graph takes whole numbers."""

    span: tuple[float, float] | None = None
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def draw(self, count: int, width: int, dtype: str) -> Floats:
        """`count` frames [count, width]."""
        shape = (count, width)
        whole = np.dtype(dtype).kind != "f"
        if self.span is None and not whole:
            return self.rng.normal(0.0, 1.0, shape).astype(np.float32)
        low, high = self.span or (0.0, 1.0)
        if whole:
            return self.rng.integers(int(low), int(high) + 1, shape).astype(np.float32)
        return self.rng.uniform(low, high, shape).astype(np.float32)

    def story(self, dtype: str) -> dict[str, float]:
        """How a feature lies, as its entry in the manifest says it."""
        if self.span is None and np.dtype(dtype).kind == "f":
            return {"mean": 0.0, "std": 1.0}
        low, high = self.span or (0.0, 1.0)
        return {"mean": (low + high) / 2, "std": (high - low) / 4, "min": low, "max": high}


def parse_span(text: str) -> tuple[float, float] | None:
    """LOW,HIGH.

    Raises:
        TrainingError: not two finite numbers in that order.
    """
    if not text:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise TrainingError(f"--range {text!r} is not LOW,HIGH") from error
    if not (np.isfinite([low, high]).all() and low < high):
        raise TrainingError(f"--range {text!r} is not LOW,HIGH with LOW below HIGH")
    return low, high
