"""A bundle's table once more, or another one like it: which of its sessions the bundle was trained
on, and all of them encoded in the bundle's terms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError
from training.recipe.recipe import Recipe
from training.table.columns import Doubles
from training.table.dataset import Encoded, Terms, encode, number_columns, session_of
from training.table.reading import read_rows
from training.table.segments import (
    NEW,
    PARTS,
    TEST,
    TRAIN,
    VALIDATION,
    Parts,
    PartsOf,
    Segment,
    Segments,
    cut,
)
from training.table.session import Session


@dataclass(frozen=True)
class Again:
    """The table's sessions in order, and for each the segment of `segments` that it is."""

    segments: Segments
    encoded: Encoded
    pairs: tuple[tuple[Segment, Session], ...]

    def of(self, *parts: int) -> list[tuple[Segment, Session]]:
        """Those of some parts."""
        return [(segment, session) for segment, session in self.pairs if segment.part in parts]


def read_again(manifest: Mapping[str, Any], recipe: Recipe, file: Path | None) -> Again:
    """Read `file`, or the bundle's own table; sessions that the bundle never had are of part "new".

    Args:
        manifest: with all names of its split.

    Raises:
        TrainingError: the table cannot be read or does not fit, or the manifest does not tell who
            was held out.
    """
    if file is not None:
        source = recipe.source.model_copy(update={"file": str(file.resolve()), "package": ""})
        recipe = recipe.model_copy(update={"source": source})
    rows = read_rows(recipe.source, recipe.table)
    told = manifest["training"]
    same = rows.source["sha256"] == told["data"].get("sha256")
    before = None if same else parts_before(told["split"])
    segments = cut(rows, recipe.table, recipe.split, number_columns(recipe), before)
    encoded = encode(segments.rows, segments.parts, recipe, _terms(manifest))
    pairs = [(each, session_of(segments, encoded, each)) for each in segments.all]
    return Again(segments, encoded, tuple(pairs))


def parts_before(split: Mapping[str, Any]) -> PartsOf:
    """How the manifest says that rows were split.

    Raises:
        TrainingError: it does not say so of all.
    """
    if split["by"] == "time":
        if "training_until" not in split:
            raise TrainingError("the bundle does not tell until when it was trained; fit it anew")
        cuts = np.array([split["training_until"], split["validation_until"]])
        return lambda groups, order: _by_cuts(cuts, order)
    places = dict[str, int]()
    for part in (TRAIN, VALIDATION, TEST):
        if "groups" not in split[PARTS[part]]:
            raise TrainingError("the bundle does not name all whom it was trained on; fit it anew")
        places |= {str(group): part for group in split[PARTS[part]]["groups"]}
    return lambda groups, order: _by_names(places, groups)


def _by_cuts(cuts: Doubles, order: Doubles) -> Parts:
    return np.searchsorted(cuts, order, side="left").astype(np.int8)


def _by_names(places: Mapping[str, int], groups: NDArray[np.str_]) -> Parts:
    names, which = np.unique(groups, return_inverse=True)
    return np.array([places.get(str(name), NEW) for name in names], np.int8)[which]


def _terms(manifest: Mapping[str, Any]) -> Terms:
    features = {each["name"]: tuple(each.get("labels", ())) for each in manifest["features"]}
    return Terms(features, tuple(manifest["outputs"][0].get("labels", ())))
