"""The weighted histogram: an observation of weight n counts as n observations do."""

from __future__ import annotations

from collections import defaultdict

import hypothesis.strategies as st
import pytest
from hypothesis import given
from prometheus_client import CollectorRegistry, Histogram

from server.metrics import SECONDS, HistogramFamily

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
