"""Histograms of the metrics page. A leaf.

They take an observation with a weight, so that a run of 1,024 rows costs one update a column of
equal values and not 1,024; and of a traced one they remember the trace, as an exemplar.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import Exemplar, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

LABELS = ("model", "version")
Bucket = tuple[str, float] | tuple[str, float, Exemplar]
"""Its bound, how many are within it, and an example if there is one."""


class Weighted:
    """Bucket counts of one labelled histogram."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._exemplars: dict[int, Exemplar] = {}  # of each bucket the latest
        self._lock = threading.Lock()

    def observe(self, value: float, weight: int = 1) -> None:
        """Count `value` as if it had been seen `weight` times."""
        with self._lock:
            self._counts[bisect_left(self._bounds, value)] += weight
            self._sum += value * weight

    def note(self, bucket: int, value: float, weight: int) -> None:
        """As `observe`, for a histogram that one thread alone observes, and that has found the
        bucket already."""
        self._counts[bucket] += weight
        self._sum += value * weight

    def exemplify(self, value: float, trace: str) -> None:
        """Remember a trace as the example of those that took about as long."""
        bucket = bisect_left(self._bounds, value)
        self._exemplars[bucket] = Exemplar({"trace_id": trace}, value, time.time())

    def cumulative(self) -> tuple[list[Bucket], float]:
        """Prometheus's cumulative buckets, and the sum."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        running, buckets = 0, list[Bucket]()
        for at, bound in enumerate([*map(str, self._bounds), "+Inf"]):
            running += counts[at]
            example = self._exemplars.get(at)
            told = (bound, float(running))
            buckets.append(told if example is None else (*told, example))
        return buckets, total


class HistogramFamily(Collector):
    """A histogram by model and version, and by what is `more`."""

    def __init__(
        self,
        registry: CollectorRegistry,
        name: str,
        text: str,
        bounds: Sequence[float],
        *more: str,
    ) -> None:
        self._name, self._text, self._bounds = name, text, bounds
        self._labels = (*LABELS, *more)
        self._children: dict[tuple[str, ...], Weighted] = {}
        registry.register(self)

    def labels(self, model: str, version: str, *more: str) -> Weighted:
        """The histogram of one model version."""
        return self._children.setdefault((model, version, *more), Weighted(self._bounds))

    def remove(self, model: str, version: str) -> None:
        """Tell of a model version no more."""
        for labels in [each for each in self._children if each[:2] == (model, version)]:
            del self._children[labels]

    def describe(self) -> Iterable[Metric]:
        """The name, for the registry's check of duplicates."""
        return [HistogramMetricFamily(self._name, self._text, labels=self._labels)]

    def collect(self) -> Iterable[Metric]:
        """The family as it stands."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for labels, child in list(self._children.items()):
            family.add_metric(list(labels), *child.cumulative())
        return [family]
