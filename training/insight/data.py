"""The data a model was trained on, as its manifest tells it: features, split, and their words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.bundle.feature import read
from server.serving.drift import stability_index
from training.insight.judged import Judged
from training.insight.subject import Subject

CELLS = 24


@dataclass(frozen=True)
class FeatureLine:
    """One feature: `entry` is the manifest's, `bars` heights from 0 to 1, `drift` the population
    stability index of the held-out part against the training part, NaN where they are the same."""

    entry: Mapping[str, Any]
    bars: tuple[float, ...]
    drift: float

    @property
    def missing(self) -> float:
        """The share of the training part's values that were missing."""
        share: float = self.entry["distribution"]["missing"]
        return share


def feature_lines(subject: Subject, judged: Judged) -> list[FeatureLine]:
    """All features in order."""
    every = np.concatenate([session.x for session in judged.sessions])
    train = np.concatenate([session.x for session in subject.dataset.train])
    lines = []
    for k, entry in enumerate(subject.manifest["features"]):
        trained = read(entry).distribution
        assert trained is not None  # fit writes one for each
        same = judged.part == "training"
        drift = math.nan if same else stability_index(trained, every[:, k])
        lines.append(FeatureLine(entry, _bars(entry.get("labels", ()), train[:, k]), drift))
    return lines


def _bars(labels: Sequence[str], values: NDArray[np.floating]) -> tuple[float, ...]:
    """Counts in cells from the least to the greatest, of categories one each, by the highest."""
    known = values[~np.isnan(values)]
    cells, ends = (len(labels), (-0.5, len(labels) - 0.5)) if labels else (CELLS, None)
    heights = np.histogram(known, bins=cells, range=ends)[0]
    return tuple((heights / max(heights.max(), 1)).tolist())


def split_words(story: Mapping[str, Any]) -> str:
    """Which kind of split it is, and why nothing of the held-out parts is known in training."""
    by, group = story["split"]["by"], story["recipe"]["split"].get("group", "")
    ways = {
        "session": "By session: all steps of a session are in the same part, so no held-out "
        "session was seen in training. Sessions of one origin can be in different parts.",
        "group": f"By group ({group}): all sessions of a group are in the same part, so figures "
        "on the held-out part are for groups never seen in training.",
        "time": "By time: every validation step is later than the training part, and every test "
        "step later than both, so nothing of the future was seen in training. A session that "
        "crosses a boundary is cut there, and targets are read within the part.",
    }
    return (
        f"{ways[by]} Means, deviations, categories and classes come from the training part alone."
    )
