"""The engine on ragged batches: every row equals the reference, whatever its neighbours hold."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from server.engine.engine import Engine, EngineRows
from tests.server.core.parts import CPU, WEIGHTS, make_bundle
from training.reference import NumpyNetwork

CAPACITY = 8


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine(make_bundle(tmp_path_factory.mktemp("models")), CPU, CAPACITY)


RUNS = st.lists(
    st.dictionaries(st.integers(1, CAPACITY), st.integers(1, 9), min_size=1), min_size=1, max_size=5
)


@settings(max_examples=30, deadline=None)
@given(runs=RUNS, seed=st.integers(0, 2**32 - 1))
def test_rows_of_any_lengths_equal_the_reference_over_successive_runs(
    engine: Engine, runs: list[dict[int, int]], seed: int
) -> None:
    """Rows of one step take the fast graph when all are, so both graphs share the state."""
    rng, reference = np.random.default_rng(seed), NumpyNetwork(WEIGHTS)
    states = {slot: reference.initial() for slot in range(1, CAPACITY + 1)}
    seen: set[int] = set()
    for lengths in runs:
        slots = list(lengths)
        features = rng.normal(size=(len(slots), max(lengths.values()), 5)).astype(np.float32)
        outputs = engine.run(
            EngineRows(
                np.array(slots, np.int64),
                np.array([slot not in seen for slot in slots]),
                np.array([lengths[slot] for slot in slots], np.int32),
                features,
            )
        )
        seen.update(slots)
        for row, (slot, length) in enumerate(lengths.items()):
            expected, states[slot] = reference.run(features[row, :length], states[slot])
            np.testing.assert_allclose(outputs[row, :length], expected, atol=1e-5)
