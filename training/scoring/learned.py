"""Baselines that learn, by scikit-learn: each from rows of the training part, as `lags` makes them.

Of a long table some `rows` rows are used, drawn at random: what a linear model or a hundred trees
learn changes little past that.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from threadpoolctl import threadpool_limits

from training.network import Floats
from training.scoring.lags import Lags
from training.table.session import Dataset, Session

Doubles = NDArray[np.float64]
Base = Callable[[Session], Doubles]
"""What is added to what is learned, [T, O] of a session."""
TOGETHER = 50_000
ROUNDS = 300


@dataclass(frozen=True)
class Learner:
    """A model that is made anew for each value, given which columns are categories; `trees`: it
    takes rows as they are, with gaps and categories."""

    name: str
    words: str
    trees: bool
    make: Callable[[list[bool]], Any]


def few_threads(threads: int) -> AbstractContextManager[Any]:
    """As many as training itself may have."""
    limits: AbstractContextManager[Any] = threadpool_limits(threads)
    return limits


def ridge(strength: float) -> Learner:
    """Least squares with a penalty."""
    return Learner("ridge", "ridge regression", False, lambda _: Ridge(alpha=strength))


def logistic() -> Learner:
    """A probability for each class, by a linear model."""
    make = lambda _: LogisticRegression(max_iter=ROUNDS)  # noqa: E731
    return Learner("logistic", "logistic regression", False, make)


def regressing_trees(count: int) -> Learner | None:
    """So many boosted trees; None for none."""
    return _trees(HistGradientBoostingRegressor, count)


def classifying_trees(count: int) -> Learner | None:
    """So many boosted trees, of several classes for each; None for none."""
    return _trees(HistGradientBoostingClassifier, count)


def _trees(kind: Any, count: int) -> Learner | None:
    def make(categories: list[bool]) -> Any:
        return kind(
            max_iter=count,
            early_stopping=False,
            categorical_features=categories if any(categories) else None,
            random_state=0,
        )

    return Learner("trees", "boosted trees", True, make) if count else None


def predicted(
    learner: Learner,
    dataset: Dataset,
    lags: Lags,
    sessions: Sequence[Session],
    *,
    rows: int,
    weights: Doubles | None,
    base: Base | None,
) -> list[Floats]:
    """What it predicts at each step of `sessions`, [T, O], learned from the training part.

    Raises:
        ValueError: scikit-learn does not take the values, or what it predicts is not finite.
    """
    see = lags.raw if learner.trees else lags.scaled
    x, y = _training(dataset, see, rows, base)
    columns = [_model(learner, lags, x, y[:, k], weights) for k in range(y.shape[1])]
    found = list[Floats]()
    for part in parts(sessions):
        seen = np.concatenate([see(session) for session in part])
        made = np.concatenate([column(seen) for column in columns], axis=1)
        ends = np.cumsum([len(session) for session in part])[:-1]
        for session, outputs in zip(part, np.split(made, ends), strict=True):
            added = 0.0 if base is None else base(session)
            found.append((outputs + added).astype(np.float32))
            if not np.isfinite(found[-1]).all():
                raise ValueError("what it predicts is not finite")
    return found


def _training(
    dataset: Dataset, see: Callable[[Session], Doubles], rows: int, base: Base | None
) -> tuple[Doubles, Doubles]:
    """What is seen [N, ·], and what is to be learned of it [N, K], of rows drawn evenly."""
    total = sum(map(len, dataset.train))
    share = min(1.0, rows / total)
    rng, seen, wanted = np.random.default_rng(0), list[Doubles](), list[Doubles]()
    for session in dataset.train:
        chosen = np.flatnonzero(rng.random(len(session)) < share)
        y = session.y.astype(np.float64)
        seen.append(see(session)[chosen])
        wanted.append((y if base is None else y - base(session))[chosen])
    return np.concatenate(seen), np.concatenate(wanted)


def _model(
    learner: Learner, lags: Lags, x: Doubles, y: Doubles, weights: Doubles | None
) -> Callable[[Doubles], Doubles]:
    """From what is seen [N, ·] to what is predicted: [N, 1], or with `weights` [C] of classes
    [N, C]."""
    known = ~np.isnan(y)
    x, y = x[known], y[known]
    if len(np.unique(y)) < 2:  # by chance, of few rows: there is nothing to tell apart
        only = np.zeros(1) + (y[0] if len(y) else 0.0)
        shown = only if weights is None else (np.arange(len(weights)) == only).astype(np.float64)
        return lambda seen: np.tile(shown, (len(seen), 1))
    model = learner.make(lags.categories)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is as good as it got
        model.fit(x, y, sample_weight=_of_rows(y, weights))
    if weights is None:
        return lambda seen: np.asarray(model.predict(seen), np.float64)[:, None]
    return lambda seen: _spread(model, seen, len(weights))


def _of_rows(y: Doubles, weights: Doubles | None) -> Doubles | None:
    """The rows' weights; none where all are 1, which is the same, and trees cut columns into bins
    faster without (scikit-learn finds each edge by itself where there are weights)."""
    if weights is None or (weights == 1).all():
        return None
    found: Doubles = weights[y.astype(int)]
    return found


def _spread(model: Any, seen: Doubles, count: int) -> Doubles:
    """Probabilities [N, C]: a class that was drawn at no row has none."""
    made = np.zeros((len(seen), count))
    made[:, model.classes_.astype(int)] = model.predict_proba(seen)
    return made


def parts(sessions: Sequence[Session]) -> Iterator[list[Session]]:
    """Sessions in order, as many together as have some 50,000 steps."""
    part, steps = list[Session](), 0
    for session in sessions:
        part.append(session)
        steps += len(session)
        if steps >= TOGETHER:
            yield part
            part, steps = [], 0
    if part:
        yield part
