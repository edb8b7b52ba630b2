"""What a bundle's manifest tells of how it came to be: features, outputs, data, split, figures."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from training.distribution import distribution
from training.recipe.recipe import Recipe, to_mapping
from training.scoring.comparison import Comparison
from training.table.session import Dataset, Feature, Session, Target, groups_of

PACKAGES = ("lightning", "numpy", "onnx", "onnxruntime-gpu", "polars", "scikit-learn", "torch")


def provenance(
    dataset: Dataset,
    recipe: Recipe,
    comparison: Comparison,
    curve: Sequence[Mapping[str, float]],
    seconds: float,
    linear: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The manifest's `training`; `linear` is what it began with."""
    began = {} if linear is None else {"linear": dict(linear)}
    return {
        "data": dataset.source,
        "recipe": to_mapping(recipe),
        "split": _split(dataset, recipe),
        "held_out": comparison.scores.values,
        "baselines": comparison.baseline_figures,
        "comparison": comparison.plain(),
        **began,
        "curve": [dict(line) for line in curve],
        "seconds": round(seconds),
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
    }


def feature_entries(dataset: Dataset) -> list[dict[str, Any]]:
    """The manifest's `features`: statistics are the training part's, of the values as sent."""
    every = np.concatenate([session.x for session in dataset.train])
    return [_feature(feature, every[:, k]) for k, feature in enumerate(dataset.features)]


def output_entries(target: Target) -> list[dict[str, Any]]:
    """The manifest's `outputs`: one of probabilities, or one for each value or quantile of it. A
    median has its value's own name, by which forecasts feed it back."""
    if target.classes:
        labels = list(target.labels)
        return [{"name": target.names[0], "size": len(labels), "kind": "probability",
                 "labels": labels}]  # fmt: skip
    pairs = zip(target.names, target.units, strict=True)
    plain = [{"name": name, "size": 1, "kind": "value", "unit": unit} for name, unit in pairs]
    if not target.quantiles:
        return plain
    fan = zip(target.fan_names, target.fan, strict=True)
    return [
        plain[k] | {"name": name, "of": plain[k]["name"], "quantile": level}
        for name, (k, level) in fan
    ]


def _feature(feature: Feature, values: np.ndarray) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": feature.name, "unit": feature.unit}
    if feature.missing:
        entry["missing"] = True
    if feature.labels:
        entry["labels"] = list(feature.labels)
    known = values[~np.isnan(values)].astype(np.float64)
    for name in ("mean", "std", "min", "max"):
        entry[name] = float(getattr(known, name)())
    return entry | {"distribution": distribution(values, len(feature.labels))}


def _split(dataset: Dataset, recipe: Recipe) -> dict[str, Any]:
    parts = {"training": dataset.train, "validation": dataset.validation, "test": dataset.test}
    told: dict[str, Any] = {"by": recipe.split.by} | {
        name: _part(part) for name, part in parts.items()
    }
    if recipe.split.by == "time":
        ends = {name: max(each.order[-1] for each in part) for name, part in parts.items() if part}
        told |= {"training_until": float(ends["training"])}
        told |= {"validation_until": float(ends.get("validation", ends["training"]))}
    return told


def _part(sessions: Sequence[Session]) -> dict[str, Any]:
    lengths = [len(session) for session in sessions]
    told = {"sessions": len(sessions), "steps": sum(lengths)}
    if lengths:
        told |= {"shortest": min(lengths), "longest": max(lengths)}
    return told | {"groups": groups_of(sessions)}
