"""What a model must beat: the same test steps predicted by simple means, in the same command.

For values: the mean, persistence (the present value stays), a ridge on the present features and a
ridge on those of some steps before as well. For classes: the commonest one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.recipe.recipe import Baselines
from training.table.session import Dataset, Session

Doubles = NDArray[np.float64]


def compare(dataset: Dataset, settings: Baselines) -> dict[str, float]:
    """Accuracy (classes), or root mean square error of the first target, on the test part."""
    if dataset.target.classes:
        return {"commonest": _commonest(dataset)}
    y = _targets(dataset.test)
    known = ~np.isnan(y)
    scores = {"mean": np.full(len(y), np.nanmean(_targets(dataset.train)))}
    present = _present(dataset)
    if present is not None:
        scores["persistence"] = present
    for name, lags in (("ridge", 0), (f"ridge_{settings.lags}_lags", settings.lags)):
        scores[name] = _ridge(dataset, lags, settings.ridge, present is not None)
    return {name: rmse(guess[known], y[known]) for name, guess in scores.items()}


def rmse(guess: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    """Root mean square error."""
    return float(np.sqrt(np.mean((guess.astype(np.float64) - truth) ** 2)))


def _commonest(dataset: Dataset) -> float:
    y = _targets(dataset.train)
    most = np.bincount(y[~np.isnan(y)].astype(int)).argmax()
    test = _targets(dataset.test)
    return float(np.mean(test[~np.isnan(test)] == most))


def _targets(sessions: Sequence[Session]) -> Doubles:
    return np.concatenate([session.y[:, 0] for session in sessions]).astype(np.float64)


def _present(dataset: Dataset) -> Doubles | None:
    """The first target's present value, where it is a feature; the last one known where missing."""
    names = [feature.name for feature in dataset.features]
    if dataset.target.names[0] not in names:
        return None
    return np.concatenate([_now(session, dataset) for session in dataset.test])


def _now(session: Session, dataset: Dataset) -> Doubles:
    names = [feature.name for feature in dataset.features]
    column = session.x[:, names.index(dataset.target.names[0])].astype(np.float64)
    known = ~np.isnan(column)
    last = np.maximum.accumulate(np.where(known, np.arange(len(column)), 0))
    return np.nan_to_num(column[last], nan=float(np.nanmean(_targets(dataset.train))))


def _ridge(dataset: Dataset, lags: int, strength: float, change: bool) -> Doubles:
    """Fitted on the training part, to the change from the present value where there is one."""
    mean, std = _scales(dataset)
    train = np.concatenate([_design(each, dataset, mean, std, lags) for each in dataset.train])
    test = np.concatenate([_design(each, dataset, mean, std, lags) for each in dataset.test])
    base, known_base = (
        np.concatenate([_now(each, dataset) for each in part]) if change else 0.0
        for part in (dataset.train, dataset.test)
    )
    wanted = _targets(dataset.train) - base
    known = ~np.isnan(wanted)
    a, b = train[known], wanted[known]
    penalty = strength * np.eye(a.shape[1])
    penalty[-1, -1] = 0.0  # the intercept is free
    guess: Doubles = test @ np.linalg.solve(a.T @ a + penalty, a.T @ b) + known_base
    return guess


def _scales(dataset: Dataset) -> tuple[Doubles, Doubles]:
    x = np.concatenate([session.x for session in dataset.train]).astype(np.float64)
    return np.nanmean(x, axis=0), np.nanstd(x, axis=0)


def _design(session: Session, dataset: Dataset, mean: Doubles, std: Doubles, lags: int) -> Doubles:
    """Rows of standardised features now and some steps before, one-hot categories, and a 1."""
    labels = [len(feature.labels) for feature in dataset.features]
    parts = [np.nan_to_num((session.x[:, k] - mean[k]) / std[k])[:, None]
             if not count else (session.x[:, k, None] == np.arange(count)).astype(np.float64)
             for k, count in enumerate(labels)]  # fmt: skip
    now = np.concatenate(parts, axis=1)
    steps = np.arange(len(now))
    seen = [now[np.maximum(steps - lag, 0)] for lag in range(lags + 1)]
    return np.concatenate([*seen, np.ones((len(now), 1))], axis=1)
