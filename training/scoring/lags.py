"""What baselines, and the linear path of a network, see of a step: its features and those of some
steps before, as a row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.network import FAR
from training.table.session import Dataset, Feature, Session

Doubles = NDArray[np.float64]
MOST_CATEGORIES = 255
"""That the trees tell apart; a feature of more is a number to them."""


@dataclass(frozen=True)
class Lags:
    """Rows of the last `count` steps and the present one; means and deviations [F] are those of
    the training part."""

    features: tuple[Feature, ...]
    mean: Doubles
    std: Doubles
    count: int

    def scaled(self, session: Session) -> Doubles:
        """[T, (count + 1) W] for linear models, the present step first: standardised numbers, then
        categories one-hot, as `training.network.Linear` says it. Before the first step is the
        first."""
        return np.concatenate(self._seen(self._scaled(session)), axis=1)

    def _scaled(self, session: Session) -> Doubles:
        numbers, ones = list[Doubles](), list[Doubles]()
        for k, feature in enumerate(self.features):
            values = session.x[:, k].astype(np.float64)
            if feature.labels:
                ones.append(values[:, None] == np.arange(len(feature.labels)))
            else:
                away = np.clip((values - self.mean[k]) / self.std[k], -FAR, FAR)
                numbers.append(filled(away, 0.0)[:, None])
        return np.concatenate([*numbers, *ones], axis=1, dtype=np.float64)

    @property
    def width(self) -> int:
        """W: values that linear models see of a step."""
        return sum(len(feature.labels) or 1 for feature in self.features)

    def raw(self, session: Session) -> Doubles:
        """[T, (count + 1) F] for trees: as observed, NaN where missing and before the first."""
        seen = self._seen(session.x.astype(np.float64))
        for lag, part in enumerate(seen):
            part[:lag] = np.nan
        return np.concatenate(seen, axis=1)

    def _seen(self, now: Doubles) -> list[Doubles]:
        steps = np.arange(len(now))
        return [now[np.maximum(steps - lag, 0)] for lag in range(self.count + 1)]

    @property
    def categories(self) -> list[bool]:
        """Which columns of `raw` are categories."""
        here = [0 < len(feature.labels) <= MOST_CATEGORIES for feature in self.features]
        return here * (self.count + 1)


def lags_of(dataset: Dataset, count: int) -> Lags:
    """Measured on the training part."""
    x = np.concatenate([session.x for session in dataset.train]).astype(np.float64)
    return Lags(dataset.features, np.nanmean(x, axis=0), np.nanstd(x, axis=0), count)


def filled(values: Doubles, before: float) -> Doubles:
    """The last one known, where one is missing; `before` there is any."""
    known = ~np.isnan(values)
    last = np.maximum.accumulate(np.where(known, np.arange(len(values)), 0))
    return np.where(np.isnan(values[last]), before, values[last])
