"""How far a shadow's outputs are from those that callers get, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

LABELS = ("model", "version", "shadow")
BOUNDS = np.array([0.0, 1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0])

Values = NDArray[np.float64]
Labels = tuple[str, str, str]


class Distances(Collector):
    """A histogram that takes many values at once."""

    def __init__(self, registry: CollectorRegistry, name: str, text: str) -> None:
        self._name, self._text = name, text
        self._counts: dict[Labels, NDArray[np.int64]] = {}
        self._sums: dict[Labels, float] = {}
        registry.register(self)

    def observe(self, labels: Labels, values: Values) -> None:
        """Count values; one thread alone does so for the same labels."""
        at = np.bincount(np.searchsorted(BOUNDS, values), minlength=len(BOUNDS) + 1)
        before = self._counts.get(labels)
        self._sums[labels] = self._sums.get(labels, 0.0) + float(values.sum())
        self._counts[labels] = at if before is None else before + at

    def remove(self, labels: Labels) -> None:
        """Tell of a shadow no more."""
        self._counts.pop(labels, None)
        self._sums.pop(labels, None)

    def describe(self) -> Iterable[Metric]:
        """The name, for the registry's check of duplicates."""
        return [HistogramMetricFamily(self._name, self._text, labels=LABELS)]

    def collect(self) -> Iterable[Metric]:
        """The family as it stands."""
        family = HistogramMetricFamily(self._name, self._text, labels=LABELS)
        names = [*map(str, BOUNDS.tolist()), "+Inf"]
        for labels, counts in list(self._counts.items()):
            buckets = list(zip(names, np.cumsum(counts).astype(float).tolist(), strict=True))
            family.add_metric(list(labels), buckets, self._sums.get(labels, 0.0))
        return [family]


class ShadowFamilies:
    """The metric families of all shadows."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(f"tidegate_shadow_{name}", text, LABELS, registry=registry)

        self.steps = counter("steps", "Steps that a shadow made as well, and that were compared.")
        self.dropped = counter("dropped", "Steps that a shadow could not keep up with.")
        self.stopped = counter("sessions_stopped", "Sessions that a shadow could not follow on.")
        self.classed = counter("class_steps", "Compared steps whose outputs are probabilities.")
        self.differing = counter("class_differs", "Compared steps with another likeliest class.")
        name = "tidegate_shadow_difference"
        self.largest = Distances(
            registry, f"{name}_max", "Largest |difference| in a step's output."
        )
        self.mean = Distances(registry, f"{name}_mean", "Mean |difference| in a step's output.")


class ShadowMetrics:
    """The metrics of one shadow beside one version, labels filled in."""

    def __init__(self, families: ShadowFamilies, model: str, version: int, shadow: int) -> None:
        self._families, self._labels = families, (model, str(version), str(shadow))
        self.steps = families.steps.labels(*self._labels)
        self.dropped = families.dropped.labels(*self._labels)
        self.stopped = families.stopped.labels(*self._labels)
        self._classed = families.classed.labels(*self._labels)
        self._differing = families.differing.labels(*self._labels)

    def compared(self, largest: Values, mean: Values) -> None:
        """Steps were compared: the largest and the mean difference of each."""
        self.steps.inc(len(largest))
        self._families.largest.observe(self._labels, largest)
        self._families.mean.observe(self._labels, mean)

    def classed(self, differs: NDArray[np.bool_]) -> None:
        """Whether the likeliest class of each step is another."""
        self._classed.inc(len(differs))
        self._differing.inc(int(differs.sum()))

    def remove(self) -> None:
        """The shadow is over."""
        families = self._families
        for family in (
            families.steps, families.dropped, families.stopped, families.classed,
            families.differing,
        ):  # fmt: skip
            family.remove_by_labels(dict(zip(LABELS, self._labels, strict=True)))
        families.largest.remove(self._labels)
        families.mean.remove(self._labels)
