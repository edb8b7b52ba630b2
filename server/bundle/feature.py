"""A feature as `model.json` describes it: its name, its values, and how training saw them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

SUM_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Distribution:
    """How a feature's values lay in the training data.

    `shares[k]` of all values were above `edges[k - 1]` and at most `edges[k]` (the outer bins are
    open), and `missing` of them were missing: together 1. Edges are whole float32 numbers, so that
    a value on an edge falls into one bin here and in training.
    """

    edges: tuple[float, ...]
    shares: tuple[float, ...]
    missing: float


@dataclass(frozen=True)
class Feature:
    """One value of an observation.

    Where it may be `missing`, NaN means that it was not observed. Where it has `labels`, its value
    is the index of one; any other number is unknown to the model.
    """

    name: str
    unit: str
    missing: bool = False
    labels: tuple[str, ...] = ()
    distribution: Distribution | None = None


def read(raw: dict[str, Any]) -> Feature:
    """Parse and check one entry of `features`.

    Raises:
        ValueError, KeyError, TypeError: a field is absent, mistyped or out of range.
    """
    name, missing = str(raw["name"]), raw.get("missing", False)
    if not isinstance(missing, bool):
        raise ValueError(f"feature {name!r}: missing must be true or false, not {missing!r}")
    found = raw.get("distribution")
    distribution = None if found is None else _read_distribution(name, found)
    unit = str(raw.get("unit", ""))
    return Feature(name, unit, missing, _read_labels(name, raw.get("labels", [])), distribution)


def _read_labels(name: str, raw: Any) -> tuple[str, ...]:
    if not isinstance(raw, list) or not all(isinstance(label, str) for label in raw):
        raise ValueError(f"feature {name!r}: labels must be a list of texts")
    if len(set(raw)) != len(raw):
        raise ValueError(f"feature {name!r}: a label occurs twice")
    return tuple(raw)


def _read_distribution(name: str, raw: Any) -> Distribution:
    where = f"feature {name!r}: distribution"
    if not isinstance(raw, dict) or not {"edges", "shares", "missing"} <= raw.keys():
        raise ValueError(f"{where} must have edges, shares and missing")
    with np.errstate(over="ignore"):  # too large for float32 is infinite, and refused as that
        edges = np.array(raw["edges"], dtype=np.float32)
    shares, missing = np.array(raw["shares"], dtype=np.float64), float(raw["missing"])
    if edges.ndim != 1 or not np.isfinite(edges).all() or not (edges[1:] > edges[:-1]).all():
        raise ValueError(f"{where}: edges must be finite and ascend in float32")
    if shares.shape != (len(edges) + 1,):
        raise ValueError(f"{where}: {len(edges)} edges need {len(edges) + 1} shares")
    if not ((shares >= 0).all() and missing >= 0):
        raise ValueError(f"{where}: a share must not be below 0")
    total = float(shares.sum()) + missing
    if not abs(total - 1) <= SUM_TOLERANCE:
        raise ValueError(f"{where}: shares and missing sum to {total:g}, not to 1")
    return Distribution(tuple(edges.tolist()), tuple(shares.tolist()), missing)
