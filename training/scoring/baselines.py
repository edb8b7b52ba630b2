"""What a network must beat: simple predictions for the very steps that it is measured by.

Of values: the mean, persistence (the present value stays), the value one season before, a ridge on
the present features and on those of some steps before as well, boosted trees on the latter, a
network that others published. Of classes: the commonest, the last label where labels come in as
time goes on, logistic regression and boosted trees on features of the same steps. All that is
learned is learned from the training part.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.network import Floats
from training.recipe.recipe import Baselines
from training.scoring import learned, nhits
from training.scoring.comparison import Baseline
from training.scoring.lags import filled, lags_of
from training.scoring.learned import Base, Learner
from training.table.session import Dataset, Session

log = logging.getLogger(__name__)
Doubles = NDArray[np.float64]
MOST_TREED = 20
"""For more values or classes, trees, one set for each, would take longer than the network."""
LONGEST_SEASON, LEAST_LIKE, LEAST_RISE, ALIKE = 1000, 0.2, 0.1, 0.9


def baselines(
    dataset: Dataset,
    settings: Baselines,
    sessions: Sequence[Session],
    weights: Doubles | None,
    threads: int,
) -> list[Baseline]:
    """All that there are for the target, on `sessions`; `weights` [C] is what training gives each
    class, and what logistic regression and trees are given too."""
    with learned.few_threads(threads):
        if not dataset.target.classes:
            return list(_of_values(dataset, settings, sessions))
        even = np.ones(dataset.target.outputs)
        return list(_of_classes(dataset, settings, sessions, even if weights is None else weights))


def _of_classes(
    dataset: Dataset, settings: Baselines, sessions: Sequence[Session], weights: Doubles
) -> Iterator[Baseline]:
    count = dataset.target.outputs
    y = np.concatenate([session.y[:, 0] for session in dataset.train])
    most = int(np.bincount(y[~np.isnan(y)].astype(int)).argmax())
    constant = [_one_hot(np.full(len(session), most), count) for session in sessions]
    yield Baseline("commonest", "the commonest class", constant)
    if dataset.target.horizon:
        last = [_one_hot(filled(_history(dataset, each, 0), most), count) for each in sessions]
        yield Baseline("last_label", "the last label", last, _is_told(dataset, 0))
    trees = learned.classifying_trees(settings.trees if count <= MOST_TREED else 0)
    for learner in (learned.logistic(), trees):
        yield from _learned(learner, dataset, settings, sessions, settings.lags, weights=weights)


def _of_values(
    dataset: Dataset, settings: Baselines, sessions: Sequence[Session]
) -> Iterator[Baseline]:
    values = range(len(dataset.target.names))
    means = np.array([_mean(dataset, k) for k in values])
    present = partial(_present, dataset, [_usual(dataset, k) for k in values])
    base = None if any(_is_told(dataset, k) for k in values) else present
    yield Baseline("mean", "the mean", [_floats(np.tile(means, (len(s), 1))) for s in sessions])
    if all(_has_history(dataset, k) for k in values):
        told = any(_is_told(dataset, k) for k in values)
        now = [present(session) for session in sessions]
        yield Baseline("persistence", "persistence", [_floats(each) for each in now], told)
        if season := settings.season or found_season(dataset):
            ago = [_season_ago(dataset, each, season) for each in now]
            words = f"the value of {season} steps before"
            yield Baseline(f"seasonal_naive_{season}", words, ago, told)
    for lags in (0, settings.lags):
        ridge = learned.ridge(settings.ridge)
        yield from _learned(ridge, dataset, settings, sessions, lags, base=base)
    trees = learned.regressing_trees(settings.trees if len(values) <= MOST_TREED else 0)
    yield from _learned(trees, dataset, settings, sessions, settings.lags, base=base)
    if settings.nhits:
        yield from _nhits(dataset, settings, sessions)


def _nhits(
    dataset: Dataset, settings: Baselines, sessions: Sequence[Session]
) -> Iterator[Baseline]:
    """One, or none where the values are no features, or the library is not there or fails."""
    columns = [_column(dataset, k) for k in range(len(dataset.target.names))]
    known = [column for column in columns if column is not None]
    if why := "it is for the next values of features" if None in columns else nhits.missing():
        log.warning("baseline nhits is left out: %s", why)
        return
    lags = lags_of(dataset, settings.lags)
    try:
        outputs = nhits.predicted(dataset, lags, known, sessions, settings.nhits)
    except Exception as error:  # others' code: it raises whatever it likes
        log.warning("baseline nhits is left out: %s", (str(error) or repr(error)).splitlines()[0])
        return
    yield Baseline(f"nhits_{settings.lags}_lags", f"NHITS on {settings.lags} lags", outputs)


def _learned(
    learner: Learner | None,
    dataset: Dataset,
    settings: Baselines,
    sessions: Sequence[Session],
    lags: int,
    weights: Doubles | None = None,
    base: Base | None = None,
) -> Iterator[Baseline]:
    """One, or none where it cannot learn: a network that took hours is not lost for that.

    Values that are features are learned as the change from the present one, as a network with
    `difference` does.
    """
    if learner is None:
        return
    name = f"{learner.name}_{lags}_lags" if lags else learner.name
    seen = f"{lags} lags" if lags else "the present features"
    try:
        outputs = learned.predicted(
            learner, dataset, lags_of(dataset, lags), sessions,
            rows=settings.rows, weights=weights, base=base,
        )  # fmt: skip
    except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
        log.warning("baseline %s is left out: %s", name, str(error).splitlines()[0])
        return
    yield Baseline(name, f"{learner.words} on {seen}", outputs)


def _column(dataset: Dataset, k: int) -> int | None:
    """The feature that value or class `k` is; a category is no value."""
    for column, feature in enumerate(dataset.features):
        if (
            feature.name == dataset.target.column(k)
            and bool(feature.labels) == dataset.target.classes
        ):
            return column
    return None


def _is_told(dataset: Dataset, k: int) -> bool:
    return _column(dataset, k) is None


def _has_history(dataset: Dataset, k: int) -> bool:
    return dataset.target.horizons[k] > 0 or not _is_told(dataset, k)


def _history(dataset: Dataset, session: Session, k: int) -> Doubles:
    """What value or class `k` was at each step [T], NaN where it is not known."""
    column, ahead = _column(dataset, k), dataset.target.horizons[k]
    if column is not None and not dataset.target.classes:
        return session.x[:, column].astype(np.float64)
    past = np.full(len(session), np.nan)
    past[ahead:] = session.y[: max(0, len(session) - ahead), k]
    return past


def _mean(dataset: Dataset, k: int) -> float:
    every = np.concatenate([session.y[:, k] for session in dataset.train])
    return float(np.nanmean(every.astype(np.float64)))


def _usual(dataset: Dataset, k: int) -> float:
    """What value `k` is taken for before it is known: its mean, as the feature that it is."""
    column = _column(dataset, k)
    if column is None:
        return _mean(dataset, k)
    every = np.concatenate([session.x[:, column] for session in dataset.train])
    return float(np.nanmean(every.astype(np.float64)))


def _present(dataset: Dataset, usual: Sequence[float], session: Session) -> Doubles:
    """[T, K]: each value as it is, or was last known."""
    columns = [filled(_history(dataset, session, k), each) for k, each in enumerate(usual)]
    return np.stack(columns, axis=1)


def _season_ago(dataset: Dataset, now: Doubles, season: int) -> Floats:
    """What was, at each step, whole seasons before the step that is asked for; where the session
    has no such step yet, the present value."""
    columns = list[Doubles]()
    for k, ahead in enumerate(dataset.target.horizons):
        at = np.arange(len(now)) + ahead - season * -(-max(ahead, 1) // season)
        columns.append(np.where(at >= 0, now[np.maximum(at, 0), k], now[:, k]))
    return _floats(np.stack(columns, axis=1))


def found_season(dataset: Dataset) -> int:
    """The lag at which the first value's changes from step to step are most like themselves again,
    in the training part; 0 where none is.

    It is the first of the highest maxima of their autocorrelation that stand out, since what
    repeats after a day does so after two. Of changes, because a slow drift would hide a season that
    is small beside it.
    """
    longest = min(LONGEST_SEASON, max(map(len, dataset.train)) // 3)
    if longest < 3:
        return 0
    total = np.zeros(longest + 1)
    for session in dataset.train:
        total += _autocovariance(np.diff(_history(dataset, session, 0)), longest)
    if not total[0] > 0:
        return 0
    like = total / total[0]
    lags = np.arange(2, longest)
    lowest = np.minimum.accumulate(like)
    peaks = (like[lags] > like[lags - 1]) & (like[lags] >= like[lags + 1])
    stands = (like[lags] > LEAST_LIKE) & (like[lags] - lowest[lags] > LEAST_RISE)
    found = lags[peaks & stands]
    return int(found[like[found] > ALIKE * like[found].max()][0]) if len(found) else 0


def _autocovariance(values: Doubles, longest: int) -> Doubles:
    """At lags 0 to `longest`, of the values less their mean; by the Fourier transform."""
    known = ~np.isnan(values)
    if not known.any():
        return np.zeros(longest + 1)
    centred = np.where(known, values - values[known].mean(), 0.0)
    padded = np.fft.rfft(centred, 2 * max(len(values), longest + 1))
    covariance: Doubles = np.fft.irfft(np.abs(padded) ** 2)[: longest + 1]
    return covariance


def _one_hot(labels: NDArray[Any], count: int) -> Floats:
    hot: Floats = (labels[:, None] == np.arange(count)).astype(np.float32)
    return hot


def _floats(values: Doubles) -> Floats:
    return values.astype(np.float32)
