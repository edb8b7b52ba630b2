"""Drift: how far the features of the steps applied of late are from those of training.

It is shown every run, which costs little more than a clock's reading; now and then a step of it is
kept. Whoever reads the metrics pays for the rest.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from server.bundle.feature import Distribution
from server.bundle.manifest import Manifest
from server.engine.engine import EngineRows
from server.metrics import ModelMetrics

Floats = NDArray[np.float32]

SAMPLES = 10_000  # a window
ENOUGH, ENOUGH_A_BIN = 1_000, 20  # chance alone makes an index of about bins / samples
FLOOR = 1e-4  # stands in for a share of 0, whose logarithm is infinite


class Drift:
    """A sample of the steps applied in the last `window` seconds.

    The window has 10,000 periods. Of each, one step is kept, drawn at random from all that were
    applied in it: every moment counts alike, and within it every step, whatever run it was in.
    """

    def __init__(
        self, manifest: Manifest, window: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._features, self._window, self._clock = manifest.features, window, clock
        self._rows = np.zeros((SAMPLES, manifest.inputs_width), dtype=np.float32)
        self._times = np.full(SAMPLES, -math.inf)  # when the row was applied
        self._draw = random.Random(0).random
        self._at = 0  # the row of the present period
        self._ends = 0.0
        self._seen, self._next = 0, 1  # steps in it, and the number of the next to keep

    @property
    def samples(self) -> int:
        """Steps kept that are within the window."""
        return int(self._recent().sum())

    def note(self, ran: EngineRows) -> None:
        """Take note of a run whose rows were applied, in whichever thread holds the engine."""
        now = self._clock()
        if now >= self._ends:
            self._at, self._ends = (self._at + 1) % SAMPLES, now + self._window / SAMPLES
            self._seen, self._next = 0, 1
        before = self._seen
        self._seen = before + ran.steps
        if self._next <= self._seen:
            self._keep(ran, before, now)

    def index(self, feature: int) -> float:
        """A feature's stability index, at any time from any thread.

        NaN while it would rest on less than 1,000 steps, or less than 20 for each of its bins.
        """
        trained = self._features[feature].distribution
        values = self._rows[self._recent(), feature]
        if trained is None or len(values) < max(ENOUGH, ENOUGH_A_BIN * len(trained.shares)):
            return math.nan
        return stability_index(trained, values)

    def _keep(self, ran: EngineRows, before: int, now: float) -> None:
        """Keep a step in place of the period's one before, and draw which will replace it: that it
        is after step j must have the chance kept / j (reservoir sampling, skipping as Li 1994)."""
        kept = self._next
        while self._next <= self._seen:
            kept = self._next
            self._next = int(kept / (1 - self._draw())) + 1
        self._rows[self._at] = _step(ran, kept - before - 1)
        self._times[self._at] = now

    def _recent(self) -> NDArray[np.bool_]:
        recent: NDArray[np.bool_] = self._times > self._clock() - self._window
        return recent


def watch(manifest: Manifest, window: float, metrics: ModelMetrics) -> Drift | None:
    """Export the drift of the features whose distribution in training is known.

    None where there is no such feature, or no window.
    """
    known = [k for k, feature in enumerate(manifest.features) if feature.distribution]
    if not known or not window:
        return None
    drift = Drift(manifest, window)
    indices = {manifest.features[k].name: partial(drift.index, k) for k in known}
    metrics.watch_drift(lambda: drift.samples, indices)
    return drift


def stability_index(trained: Distribution, values: Floats) -> float:
    """The population stability index (Siddiqi 2006) of `values` [n] against those of training.

    It is the sum of (p - q) ln(p / q) over all bins, that of the missing included, where p is the
    bin's share of `values` and q that in training, neither taken below 0.0001. By custom under 0.1
    is little, and over 0.25 much.
    """
    known = values[~np.isnan(values)]
    bins = np.searchsorted(np.array(trained.edges, dtype=np.float32), known, side="left")
    counts = np.bincount(bins, minlength=len(trained.shares))
    p = np.append(counts, len(values) - len(known)) / len(values)
    p, q = np.maximum(p, FLOOR), np.maximum([*trained.shares, trained.missing], FLOOR)
    return float(((p - q) * np.log(p / q)).sum())


def _step(ran: EngineRows, number: int) -> Floats:
    """The features [I] of one of a run's steps."""
    row, at = number, 0
    if ran.features.shape[1] > 1:
        ends = np.cumsum(ran.lengths)
        row = int(np.searchsorted(ends, number, side="right"))
        at = number - int(ends[row] - ran.lengths[row])
    step: Floats = ran.features[row, at]
    return step
