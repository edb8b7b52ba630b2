"""Figures on sessions never seen: a network's, stepped whole and fresh, and those of simple means.

What a model must beat is predicted for the same test steps in the same command. For values: the
mean, persistence (the present value stays), a ridge on the present features and a ridge on those of
some steps before as well. For classes: the commonest one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from training.loop.module import StreamingNetwork
from training.network import Floats
from training.recipe.recipe import Baselines
from training.table.session import Dataset, Session, Target

Doubles = NDArray[np.float64]


def predict(network: StreamingNetwork, x: Floats) -> Floats:
    """The outputs [T, O] of a whole session x [T, F]."""
    with torch.no_grad():
        outputs: Floats = network.eval().predict(torch.from_numpy(x)[None])[0].numpy()
    return outputs


def figures_on(
    network: StreamingNetwork, target: Target, sessions: Sequence[Session]
) -> dict[str, float]:
    """Accuracy per step and at session end; or RMSE of each value in its unit."""
    outputs = [predict(network, session.x) for session in sessions]
    found = step_figures(outputs, [session.y for session in sessions], target)
    if not target.classes:
        return found
    return found | {"accuracy_at_session_end": float(np.mean(_last_hits(outputs, sessions)))}


def step_figures(
    outputs: Sequence[Floats], targets: Sequence[Floats], target: Target
) -> dict[str, float]:
    """Accuracy per step, or RMSE of each value, of sessions' outputs [T, O] against their targets
    [T, 1 or O]; what is known at no step is left out."""
    guess, y = np.concatenate(outputs), np.concatenate(targets)
    known = ~np.isnan(y)
    if target.classes:
        hits = (guess.argmax(-1) == y[:, 0])[known[:, 0]]
        return {"accuracy_per_step": float(hits.mean())} if len(hits) else {}
    return {
        f"rmse_{name}": rmse(guess[known[:, k], k], y[known[:, k], k])
        for k, name in enumerate(target.names)
        if known[:, k].any()
    }


def ends(network: StreamingNetwork, sessions: Sequence[Session]) -> list[tuple[int, int]]:
    """For each session its last label and the class then predicted."""
    pairs = []
    for session in sessions:
        known = np.flatnonzero(~np.isnan(session.y[:, 0]))
        if len(known):
            guess = predict(network, session.x)[known[-1]].argmax()
            pairs.append((int(session.y[known[-1], 0]), int(guess)))
    return pairs


def rmse(guess: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    """Root mean square error."""
    return float(np.sqrt(np.mean((guess.astype(np.float64) - truth) ** 2)))


def _last_hits(outputs: Sequence[Floats], sessions: Sequence[Session]) -> list[bool]:
    """Of each session that has one, whether its last known step is right."""
    hits = list[bool]()
    for guess, session in zip(outputs, sessions, strict=True):
        known = ~np.isnan(session.y[:, 0])
        hits += (guess.argmax(-1) == session.y[:, 0])[known][-1:].tolist()
    return hits


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
