"""One row of a batch becomes NaN: the others must not notice, and its own state must stay."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from server.engine.engine import Engine
from training.errors import TrainingError
from training.graphs.walks import by_single_steps, rows
from training.network import Floats
from training.verify_bundle import LeftOut, Subject

ROWS, VICTIM, BEFORE = 4, 1, 5


def poison(subject: Subject) -> str:
    """By a single step, and in the middle of a chunk.

    Raises:
        TrainingError: a neighbour's output or state changes, or the row's own state does.
    """
    feature = _poisonable(subject)
    widths = sorted({1, subject.manifest.max_chunk})
    for width in widths:
        _check(subject, feature, width)
    name = subject.manifest.features[feature].name
    return f"NaN in {name!r} by chunks of {widths} left its own state and all others"


def _poisonable(subject: Subject) -> int:
    if subject.manifest.max_batch < ROWS:
        raise LeftOut("the bundle steps one session at a time")
    for k, feature in enumerate(subject.manifest.features):
        if not (feature.missing or feature.labels):
            return k
    raise LeftOut("every feature may be missing")


def _check(subject: Subject, feature: int, width: int) -> None:
    good = _chunk(subject, width)
    bad = good.copy()
    bad[VICTIM, width // 2, feature] = np.nan
    slots = np.arange(1, ROWS + 1, dtype=np.int64)
    untouched, poisoned = (_warm(subject) for _ in range(2))
    before = poisoned.read(slots)
    expected, got = _step(untouched, good), _step(poisoned, bad)
    others = np.arange(ROWS) != VICTIM
    pairs = list(zip(untouched.read(slots), poisoned.read(slots), before, strict=True))
    if not _same(expected[others], got[others]) or not all(
        _same(ours[others], theirs[others]) for ours, theirs, _ in pairs
    ):
        raise TrainingError(f"a poisoned row changes its neighbours, by chunks of {width}")
    swallowed = subject.network is None and np.isfinite(got[VICTIM]).all()
    if not swallowed and not all(_same(after[VICTIM], old[VICTIM]) for _, after, old in pairs):
        raise TrainingError(f"a poisoned row loses its own state, by chunks of {width}")


def _chunk(subject: Subject, width: int) -> Floats:
    """The steps after `BEFORE` of the first sessions, without holes [ROWS, width, F]."""
    whole = np.concatenate([np.nan_to_num(signal) for signal in subject.signals])
    wanted = np.arange(ROWS * width) % len(whole)
    return whole[wanted].reshape(ROWS, width, -1)


def _warm(subject: Subject) -> Engine:
    """An engine whose sessions have come some way, so that their states differ."""
    engine = subject.engine(ROWS)
    by_single_steps(engine, [signal[:BEFORE] for signal in subject.signals[:ROWS]])
    return engine


def _step(engine: Engine, features: Floats) -> Floats:
    return engine.run(rows(range(ROWS), features, np.zeros(ROWS, np.bool_)))


def _same(ours: NDArray[np.floating], theirs: NDArray[np.floating]) -> bool:
    return np.array_equal(ours, theirs)
