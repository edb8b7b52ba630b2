"""Whatever finite numbers lie in a session's row, what is kept there is finite: whoever begins in
that row later is touched by none of it."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.device import choose
from server.engine.engine import Engine
from tests.training.graphs.networks import NETWORKS, drawn
from training.graphs.stepping import by_single_steps, rows, serve
from training.graphs.whole import GEMM, JOINED, OPERATOR, SCAN, Form
from training.network import Network

FORMS = (
    *(Form(SCAN, single) for single in (JOINED, GEMM)),
    Form(OPERATOR, OPERATOR),
    *(Form(SCAN, GEMM, precision=precision) for precision in ("float16", "int8")),
)
CASES = [(name, form) for name, network in NETWORKS.items()
         for form in FORMS if form.allows(network)]  # fmt: skip
NAMES = [f"{name}-{form.single}-{form.precision}" for name, form in CASES]
SESSIONS = 8
SLOTS = np.arange(1, SESSIONS + 1)
LARGEST = float(np.finfo(np.float32).max)


@cache
def engines(name: str, form: Form) -> tuple[Engine, Engine]:
    """One whose rows are spoiled, and one that nobody has used before."""
    spoiled, unused = (serve(NETWORKS[name], form, SESSIONS, choose("cpu")) for _ in range(2))
    return spoiled, unused


def extreme(network: Network, rng: np.random.Generator) -> list[np.ndarray]:
    """Rows of all states, of finite numbers."""
    sizes = (LARGEST, LARGEST, 1e36, 1.0, 0.0)
    return [
        (rng.choice(sizes, (SESSIONS, width)) * rng.choice((-1, 1), (SESSIONS, width))).astype("f4")
        for _, width in network.states()
    ]


@pytest.mark.parametrize(("name", "form"), CASES, ids=NAMES)
@settings(deadline=None, max_examples=15)
@given(chunk=st.sampled_from([1, 3]), seed=st.integers(0, 2**32 - 1))
def test_no_row_ever_keeps_what_is_not_finite(name: str, form: Form, chunk: int, seed: int) -> None:
    network, rng = NETWORKS[name], np.random.default_rng(seed)
    spoiled, unused = engines(name, form)
    before = extreme(network, rng)
    spoiled.write(SLOTS, before)
    features = np.stack(drawn(network, [chunk] * SESSIONS, seed))
    outputs = spoiled.run(rows(range(SESSIONS), features, np.zeros(SESSIONS, np.bool_)))
    refused = ~np.isfinite(outputs).all(axis=(1, 2))
    for was, now in zip(before, spoiled.read(SLOTS), strict=True):
        assert np.isfinite(now).all()
        np.testing.assert_array_equal(now[refused], was[refused])
    signals = drawn(network, [3] * SESSIONS, seed)
    for ours, theirs in zip(*(by_single_steps(each, signals) for each in (spoiled, unused)),
                            strict=True):  # fmt: skip
        np.testing.assert_array_equal(ours, theirs)
