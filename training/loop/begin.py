"""The linear model that a network begins with: on the lags that the baselines have, fitted before
training, so that whatever training does is added to it.

Of values it is a ridge regression, of classes a logistic one. How strongly it is held back is
chosen by the validation part, among the baselines' own strength and stronger ones: the weakest that
is not told apart from the best, by one standard error over sessions (Breiman et al. 1984), lest a
few sessions' chance has it held back.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from training.network import Floats, Mirror
from training.recipe.recipe import Recipe
from training.scoring.intervals import FEWEST
from training.scoring.lags import Lags
from training.scoring.learned import ROUNDS, few_threads
from training.table.session import Dataset, Session, Statistics, Target, mirrored

log = logging.getLogger(__name__)
Doubles = NDArray[np.float64]

MOST = 1024
"""Columns that it may see; of categories of many labels it would be a model of those alone."""
STRONGER = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5)
STRONGER_OF_CLASSES = (1.0, 10.0, 100.0)
CHOSEN_BY = 20_000
"""Rows, about, that a logistic regression's strength is chosen by; it is fitted to all."""
CELLS = 50_000_000
"""Rows times columns that are used at most: 400 MB."""
NEVER = -10.0
"""The score of a class that no row is of."""
LEAST = 1e-3
"""Of the targets' deviation: errors are never taken to be less."""


@dataclass(frozen=True)
class Start:
    """w [O, (lags + 1) W], columns as in `training.network.Linear`, and b [O]: scores, or values in
    their units. error [O]: the deviation of what it leaves over in the training part, 1 of classes.
    strength: how many times as strongly as the baselines' it is held back."""

    lags: int
    w: Floats
    b: Floats
    error: Floats
    strength: float = 1.0


def _values(target: Target) -> int:
    """Classes, or values, each of which may have a fan about it."""
    return len(target.labels) or len(target.names)


def blank(dataset: Dataset, recipe: Recipe) -> Start | None:
    """One that says nothing, of the size that it would have; None where there is to be none."""
    lags, outputs = recipe.baselines.lags, _values(dataset.target)
    columns = (lags + 1) * sum(len(feature.labels) or 1 for feature in dataset.features)
    if not recipe.network.linear:
        return None
    if columns > MOST:
        log.warning("network.linear is left out: it would see %d columns, over %d", columns, MOST)
        return None
    if recipe.loop.precision in ("16-true", "bf16-true", "transformer-engine"):
        log.warning("network.linear is left out: %s has too few bits", recipe.loop.precision)
        return None
    zeros = np.zeros(outputs, np.float32)
    return Start(lags, np.zeros((outputs, columns), np.float32), zeros, zeros + 1)


def fitted(
    dataset: Dataset,
    recipe: Recipe,
    statistics: Statistics,
    mirror: Mirror | None,
    weights: Doubles | None,
) -> Start | None:
    """The linear model of the training part; None where there is to be none, or it cannot be
    fitted. `weights` [C] of classes."""
    if (start := blank(dataset, recipe)) is None:
        return None
    mean, std = (each.astype(np.float64) for each in (statistics.mean, statistics.std))
    table = _Table(dataset, Lags(dataset.features, mean, std, start.lags), mirror)
    try:
        with few_threads(recipe.loop.threads):
            if dataset.target.classes:
                return _of_classes(table, recipe, start, weights)
            return _of_values(table, recipe, start, statistics)
    except (ValueError, ArithmeticError, MemoryError, np.linalg.LinAlgError) as error:
        log.warning("network.linear is left out: %s", str(error).splitlines()[0])
        return None


@dataclass(frozen=True)
class _Table:
    """What is seen, and what was to be said, of sessions as the network sees them."""

    dataset: Dataset
    lags: Lags
    mirror: Mirror | None

    def rows(self, sessions: Sequence[Session], most: int) -> tuple[Doubles, Doubles, list[int]]:
        """[N, (lags + 1) W] and [N, K], of at most some `most` steps, drawn evenly; and how many
        are each session's."""
        share = min(1.0, most / max(1, sum(map(len, sessions))))
        rng, seen, wanted = np.random.default_rng(0), list[Doubles](), list[Doubles]()
        for session in sessions:
            chosen = np.flatnonzero(rng.random(len(session)) < share)
            given = replace(session, x=mirrored(session.x, self.mirror))
            seen.append(self.lags.scaled(given)[chosen])
            wanted.append(session.y.astype(np.float64)[chosen])
        return np.concatenate(seen), np.concatenate(wanted), list(map(len, wanted))

    def base(self) -> tuple[Doubles, Doubles]:
        """What ridge adds to, as w [K, (lags + 1) W] and b [K]: the present values, if all are
        features, as the baselines have it."""
        names = [feature.name for feature in self.dataset.features]
        numbers = [k for k, feature in enumerate(self.dataset.features) if not feature.labels]
        target, width = self.dataset.target, self.lags.width
        count = _values(target)
        w, b = np.zeros((count, (self.lags.count + 1) * width)), np.zeros(count)
        columns = [target.column(k) for k in range(len(target.names))]
        places = [names.index(column) if column in names else -1 for column in columns]
        if all(place in numbers for place in places):
            for k, place in enumerate(places):
                w[k, numbers.index(place)] = self.lags.std[place]
                b[k] = self.lags.mean[place]
        return w, b


@dataclass(frozen=True)
class _Model:
    """w [O, columns of `Lags`], b [O]."""

    w: Doubles
    b: Doubles
    strength: float

    def __call__(self, seen: Doubles) -> Doubles:
        return seen @ self.w.T + self.b


def _of_values(table: _Table, recipe: Recipe, start: Start, statistics: Statistics) -> Start:
    x, y, _ = table.rows(table.dataset.train, _most(recipe, start))
    base_w, base_b = table.base()
    change = y - (x @ base_w.T + base_b)
    strengths = [recipe.baselines.ridge * strength for strength in STRONGER]

    def ridges() -> Iterator[_Model]:
        known = ~np.isnan(change)
        if known.all():
            found = list(_ridges(x, change, strengths))
        else:
            columns = zip(change.T, known.T, strict=True)
            each = [_ridges(x[there], column[there, None], strengths) for column, there in columns]
            found = [_stacked(models) for models in zip(*each, strict=True)]
        for (w, b), strength in zip(found, STRONGER, strict=True):
            yield _Model(w + base_w, b + base_b, strength)

    def errors(said: Doubles, wanted: Doubles) -> Doubles:
        squares: Doubles = np.nansum(((said - wanted) / statistics.scale) ** 2, axis=1)
        return squares

    model = _best(ridges(), table, recipe, start, errors)
    apart = np.sqrt(np.nanmean((model(x) - y) ** 2, axis=0))
    return _start(start, model, np.maximum(apart, LEAST * statistics.scale))


def _ridges(
    x: Doubles, y: Doubles, strengths: Sequence[float]
) -> Iterator[tuple[Doubles, Doubles]]:
    """Ridge regression at each strength, w [K, columns] and b [K], by one decomposition for all:
    scikit-learn's would make one for each."""
    if not len(x):
        raise ValueError("a value is known at no row")
    middle, level = x.mean(axis=0), y.mean(axis=0)
    away = x - middle
    values, vectors = np.linalg.eigh(away.T @ away)
    pulled = vectors.T @ (away.T @ (y - level))
    for strength in strengths:
        held = values + strength
        sound = held > max(float(values[-1]), 1.0) * 1e-12  # where nothing holds it back, none
        w = (vectors @ np.where(sound, pulled.T / np.where(sound, held, 1.0), 0.0).T).T
        yield w, level - w @ middle


def _stacked(models: Sequence[tuple[Doubles, Doubles]]) -> tuple[Doubles, Doubles]:
    w, b = zip(*models, strict=True)
    return np.concatenate(w), np.concatenate(b)


def _of_classes(table: _Table, recipe: Recipe, start: Start, weights: Doubles | None) -> Start:
    x, y, _ = table.rows(table.dataset.train, _most(recipe, start))
    known, count = ~np.isnan(y[:, 0]), table.dataset.target.outputs
    x, labels = x[known], y[known, 0].astype(int)
    each = np.ones(count) if weights is None else weights
    some = slice(None, None, -(-len(x) // CHOSEN_BY))

    def logistics() -> Iterator[_Model]:
        for strength in STRONGER_OF_CLASSES:
            yield _logistic(x[some], labels[some], each, strength)

    def errors(said: Doubles, wanted: Doubles) -> Doubles:
        there = ~np.isnan(wanted[:, 0])
        true, said = wanted[there, 0].astype(int), said[there]
        said = said - said.max(axis=1, keepdims=True)
        losses = np.log(np.exp(said).sum(axis=1)) - said[np.arange(len(true)), true]
        found = np.zeros(len(wanted))
        found[there] = losses * each[true]
        return found

    model = _best(logistics(), table, recipe, start, errors)
    if some.step > 1:
        model = _logistic(x, labels, each, model.strength)
    return _start(start, model, np.ones(count))


def _logistic(x: Doubles, labels: NDArray[Any], weights: Doubles, strength: float) -> _Model:
    w, b = np.zeros((len(weights), x.shape[1])), np.full(len(weights), NEVER)
    found = np.unique(labels)
    if len(found) < 2:
        raise ValueError("only one class is known")
    model = LogisticRegression(C=1 / strength, max_iter=ROUNDS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is as good as it got
        model.fit(x, labels, sample_weight=weights[labels])
    if len(found) == 2:  # one score, of the second against the first
        w[found[1]], b[found] = model.coef_[0], [0.0, model.intercept_[0]]
    else:
        w[found], b[found] = model.coef_, model.intercept_
    return _Model(w, b, strength)


def _most(recipe: Recipe, start: Start) -> int:
    """Rows that are used, of so many columns."""
    return min(recipe.baselines.rows, CELLS // int(start.w.shape[1]))


def _best(
    models: Iterator[_Model],
    table: _Table,
    recipe: Recipe,
    start: Start,
    errors: Callable[[Doubles, Doubles], Doubles],
) -> _Model:
    """By the validation part; the first one, which is the baselines', where there is none. `errors`
    [N] are those of rows, 0 of one of which nothing is known."""
    if not table.dataset.validation:
        return next(models)
    x, wanted, lengths = table.rows(table.dataset.validation, _most(recipe, start))
    if np.isnan(wanted).all():
        return next(models)
    session = np.repeat(np.arange(len(lengths)), lengths)
    found = [(model, np.bincount(session, errors(model(x), wanted))) for model in models]
    least = min((each for _, each in found), key=np.sum)
    return next(model for model, each in found if not _told_apart(each - least))


def _told_apart(more: NDArray[Any]) -> bool:
    """Whether so many errors `more` [S] in each session are beyond what chance makes of sessions;
    of a few of these nothing is known of chance, and any are."""
    if len(more) < FEWEST:
        return bool(more.sum() > 0)
    return bool(more.sum() > np.sqrt(len(more)) * more.std(ddof=1))


def _start(start: Start, model: _Model, error: Doubles) -> Start:
    """The columns of `Lags` go from the present step to the oldest one."""
    w = model.w.reshape(len(model.w), start.lags + 1, -1)[:, ::-1].reshape(model.w.shape)
    if not (np.isfinite(w).all() and np.isfinite(model.b).all()):
        raise ValueError("what was fitted is not finite")
    return Start(start.lags, _floats(w), _floats(model.b), _floats(error), model.strength)


def _floats(values: Doubles) -> Floats:
    return values.astype(np.float32)
