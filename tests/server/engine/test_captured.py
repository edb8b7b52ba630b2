"""Captured steps in buckets, over a GPU's double that has all the traps: whatever the batches are,
each session's state and answers are those that an engine on the CPU gives, and nobody else's move.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.bundle.manifest import SINGLE
from server.bundle.repository import Bundle
from server.engine.buckets import UNDER_WAY, sizes
from server.engine.device import Device
from server.engine.engine import Asked, Engine, EngineRows
from server.errors import BadModel
from tests.server.core.parts import CPU, WEIGHTS, make_bundle
from tests.server.engine.double import CUDA, double_engine
from tests.server.engine.wrong import WRONG
from training.graphs.stepping import with_single
from training.graphs.whole import Form, graphs

CAPACITY = 11  # buckets of 1, 2, 4, 8 and 11 rows
ALL = np.arange(CAPACITY + 1)
SCRATCH = 0
NEAR = 1e-5  # CUDA's graph sums in another order


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("models"))


@dataclass(frozen=True)
class Run:
    """Rows of a run: which slots, how many steps at most, whether fresh; and whether it is asked
    for behind the run before, while that is under way."""

    slots: tuple[int, ...]
    width: int
    fresh: int
    behind: bool = False

    def rows(self, rng: np.random.Generator) -> EngineRows:
        count = len(self.slots)
        return EngineRows(
            np.array(self.slots),
            np.array([self.fresh >> k & 1 for k in range(count)], np.bool_),
            rng.integers(1, self.width + 1, count).astype(np.int32),
            rng.normal(size=(count, self.width, 5)).astype(np.float32),
        )


BATCH = st.lists(st.integers(1, CAPACITY), min_size=1, max_size=CAPACITY, unique=True).map(tuple)
WIDTH, FRESH = st.sampled_from([1, 1, 1, 1, 3]), st.integers(0, 2**CAPACITY - 1)
RUNS = st.builds(Run, BATCH, WIDTH, FRESH, st.booleans())
FORECASTS = st.builds(Run, st.just((SCRATCH,)), st.sampled_from([1, 4]), st.integers(0, 1))
WALKS = st.lists(st.one_of(RUNS, RUNS, RUNS, FORECASTS), min_size=1, max_size=12)


@dataclass(frozen=True, repr=False)
class Pair:
    """The engine that is looked at, begun, and one on the CPU that does without all of this."""

    ours: Engine
    theirs: Engine

    @classmethod
    def of(cls, bundle: Bundle, device: Device = CUDA) -> Pair:
        ours = double_engine(bundle, CAPACITY, device=device)
        ours.begin()
        return cls(ours, Engine(bundle, CPU, CAPACITY))

    def walk(self, runs: list[Run], seed: int) -> None:
        """Run the same in both; answers, and all states whenever nothing is under way, must be
        alike."""
        rng, kept = np.random.default_rng(seed), list[tuple[Any, Any]]()
        lain = [rng.normal(size=each.shape).astype("f4") for each in self.theirs.read(ALL)]
        self.ours.write(ALL, lain)
        self.theirs.write(ALL, lain)
        under_way: list[tuple[EngineRows, Asked]] = []
        for run in runs:
            rows = run.rows(rng)
            behind = run.behind and self.ours.overlaps(rows)
            if len(under_way) == (UNDER_WAY if behind else 1):
                kept.append(self._end(*under_way.pop(0)))
            if not behind:
                kept += [self._end(*each) for each in under_way]
                under_way.clear()
                self._compare()
            under_way.append((rows, self.ours.ask(rows)))
        kept += [self._end(*each) for each in under_way]
        self._compare()
        for answer, copy in kept:
            np.testing.assert_array_equal(answer, copy)  # nobody writes into what was answered

    def _end(self, rows: EngineRows, asked: Asked) -> tuple[Any, Any]:
        ours, theirs = asked.outputs(), self.theirs.run(rows)
        steps = np.arange(rows.features.shape[1]) < rows.lengths[:, None]
        np.testing.assert_allclose(ours[steps], theirs[steps], rtol=0, atol=NEAR)
        return ours, ours.copy()

    def _compare(self) -> None:
        for found, wanted in zip(self.ours.read(ALL), self.theirs.read(ALL), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=NEAR)


@pytest.fixture(scope="module")
def pair(bundle: Bundle) -> Pair:
    return Pair.of(bundle)


@settings(max_examples=60, deadline=None)
@given(runs=WALKS, seed=st.integers(0, 99))
def test_neither_padding_nor_warming_up_nor_a_buckets_size_is_anybodys_state(
    pair: Pair, runs: list[Run], seed: int
) -> None:
    pair.walk(runs, seed)


def test_at_every_number_of_rows_the_rest_of_the_bucket_is_nobody(pair: Pair) -> None:
    """From the largest down, so that rows of the run before lie where padding is due."""
    numbers = [*range(CAPACITY, 0, -1), *range(1, CAPACITY + 1)]
    runs = [Run(tuple(range(1, n + 1)), 1, 0) for n in numbers]
    pair.walk(runs, 0)


@pytest.mark.parametrize("captures", [True, False], ids=["captured", "eager"])
@pytest.mark.parametrize("lying", ["side by side", "apart", "apart, by single.onnx"])
def test_wherever_states_lie_they_are_the_same(bundle: Bundle, lying: str, captures: bool) -> None:
    files = graphs(WEIGHTS, Form(packed=lying == "side by side"))
    if lying.endswith(SINGLE):
        files = with_single(files, SINGLE)
    batches = [(1, 5, 2), (11, 3), tuple(range(1, 12)), (SCRATCH,), (7,), (10, 4, 1, 2, 9)]
    runs = [Run(batch, width, 6) for batch in batches for width in (1, 3)]
    Pair.of(replace(bundle, graphs=files), Device("cuda", captures=captures)).walk(runs, 1)


def test_sizes_double_up_to_the_most() -> None:
    assert sizes(1) == (1,) and sizes(8) == (1, 2, 4, 8) and sizes(11) == (1, 2, 4, 8, 11)
    for most in range(1, 300):
        for count in range(1, most + 1):
            assert (
                min(s for s in sizes(most) if s >= count) == sizes(most)[(count - 1).bit_length()]
            )


@pytest.mark.parametrize("wrong", WRONG, ids=lambda each: each.__name__)
def test_a_wrong_way_is_found(bundle: Bundle, wrong: Any) -> None:
    numbers = (5, 3, 1, 8, 11, 6, 5, 7, 8)
    runs = [Run(tuple(range(1, n + 1)), 1, 0, at > 4) for at, n in enumerate(numbers)]
    with wrong(), pytest.raises((AssertionError, BadModel)):
        Pair.of(bundle).walk(runs, 0)
