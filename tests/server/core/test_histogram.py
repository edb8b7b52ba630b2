"""The weighted histogram: an observation of weight n counts as n observations do."""

from __future__ import annotations

from collections import defaultdict

import hypothesis.strategies as st
import pytest
from hypothesis import given
from prometheus_client import CollectorRegistry, Histogram

from server.histograms import HistogramFamily
from server.metrics import SECONDS

VALUES = st.one_of(st.sampled_from(SECONDS), st.floats(0, 10))
MODELS = st.sampled_from(["a", "b"])


def samples(registry: CollectorRegistry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = defaultdict(float)
    for family in registry.collect():
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


@given(st.lists(st.tuples(MODELS, VALUES, st.integers(1, 20)), max_size=30))
def test_it_shows_what_prometheus_s_own_shows(
    observations: list[tuple[str, float, int]],
) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    family = HistogramFamily(ours, "x", "X.", SECONDS)
    own = Histogram("x", "X.", ("model", "version"), buckets=SECONDS, registry=theirs)
    for model, value, weight in observations:
        family.labels(model, "1").observe(value, weight)
        for _ in range(weight):
            own.labels(model, "1").observe(value)
    assert samples(ours) == pytest.approx(samples(theirs))


def test_of_each_bucket_it_shows_the_latest_example() -> None:
    registry = CollectorRegistry()
    child = HistogramFamily(registry, "x", "X.", (1.0, 2.0)).labels("a", "1")
    for value, trace in ((0.5, "one"), (1.0, "two"), (9.0, "three")):
        child.observe(value)
        child.exemplify(value, trace)
    (family,) = registry.collect()
    shown = {s.labels["le"]: s.exemplar for s in family.samples if "le" in s.labels}
    told = {le: (each.labels, each.value) for le, each in shown.items() if each is not None}
    assert told == {"1.0": ({"trace_id": "two"}, 1.0), "+Inf": ({"trace_id": "three"}, 9.0)}
