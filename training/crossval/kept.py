"""Fits that are through are kept in a folder, so that a cross-validation which was killed goes on
where it was, and one that wants more of the same does not begin anew."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from tidegate import __version__
from training.crossval.fold import Doubles, Fit, Fold, fitted
from training.recipe.recipe import to_mapping
from training.scoring.comparison import Baseline

TORCH = version("torch")


@dataclass(frozen=True)
class Kept:
    """Fits by what they hang on: the recipe, which names the groups held out, the `data`'s digest,
    versions."""

    folder: Path
    data: Mapping[str, str]

    def fold(self, wanted: Fit) -> Fold:
        """A fit's fold: as it was kept, or by doing it now, and keeping it."""
        if (known := self._read(wanted)) is not None:
            return known
        fold = fitted(wanted)
        new = self.folder / f".{uuid4().hex}"
        new.write_text(json.dumps(_plain(fold)))
        new.rename(self._file(wanted))
        return fold

    def has(self, wanted: Fit) -> bool:
        """Whether it need not be done."""
        return self._read(wanted) is not None

    def _read(self, wanted: Fit) -> Fold | None:
        try:
            return replace(_fold(json.loads(self._file(wanted).read_text())), chosen=wanted.chosen)
        except (OSError, ValueError, KeyError, TypeError):  # there is none, or it is spoilt
            return None

    def _file(self, wanted: Fit) -> Path:
        recipe = to_mapping(wanted.recipe)
        about = [recipe, wanted.beside, dict(self.data), __version__, TORCH]
        text = json.dumps(about, sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def _plain(fold: Fold) -> dict[str, Any]:
    return {
        **fold.plain(),
        "by_group": _lists(fold.by_group),
        "ends": fold.ends,
        "baselines": [
            {"name": each.name, "words": each.words, "told": each.told, "by_group": _lists(sums)}
            for each, sums in fold.baselines
        ],
    }


def _fold(told: Mapping[str, Any]) -> Fold:
    return Fold(
        held_out=tuple(told["held_out"]),
        seed=told["seed"],
        figures=told["figures"],
        by_group=_arrays(told["by_group"]),
        ends=tuple((label, guess) for label, guess in told["ends"]),
        seconds=told["seconds"],
        chosen=(),
        baselines=tuple(
            (Baseline(each["name"], each["words"], [], each["told"]), _arrays(each["by_group"]))
            for each in told["baselines"]
        ),
    )


def _lists(sums: Mapping[str, Doubles]) -> dict[str, list[float]]:
    return {group: row.tolist() for group, row in sums.items()}


def _arrays(sums: Mapping[str, list[float]]) -> dict[str, Doubles]:
    return {group: np.array(row, np.float64) for group, row in sums.items()}
