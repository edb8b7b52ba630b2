"""Whatever a network is made of, and however it is written, its graphs compute the reference."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.device import choose
from server.engine.engine import Engine
from tests.training.graphs.networks import NETWORKS, drawn
from training.graphs.builder import FLOAT, Builder, value
from training.graphs.layers import ROW_STEPS, ROW_ZERO, WEIGHT_STEPS, product
from training.graphs.stepping import by_chunks, by_single_steps, serve, with_cuda_single
from training.graphs.whole import GEMM, JOINED, OPERATOR, OPSETS, SCAN, Form, graphs
from training.network import Network
from training.reference import NumpyNetwork

FORMS = [Form(step, single) for step in (OPERATOR, SCAN) for single in (JOINED, GEMM, OPERATOR)]
CASES = [(name, form) for name, network in NETWORKS.items()
         for form in FORMS if form.allows(network)]  # fmt: skip
NAMES = [f"{name}-{form.step}-{form.single}" for name, form in CASES]
CPU = choose("cpu")


@cache
def engine(name: str, form: Form, sessions: int = 6) -> Engine:
    return serve(NETWORKS[name], form, sessions, choose("cpu"))


def expected(network: Network, signals: list[np.ndarray]) -> list[np.ndarray]:
    reference = NumpyNetwork(network, np.float64)
    return [reference.run(each, reference.initial())[0] for each in signals]


def close(found: list[np.ndarray], wanted: list[np.ndarray], atol: float) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=atol)


@pytest.mark.parametrize(("name", "form"), CASES, ids=NAMES)
@settings(deadline=None, max_examples=12)
@given(lengths=st.lists(st.integers(1, 70), min_size=1, max_size=4), seed=st.integers(0, 2**32 - 1))
def test_single_steps_and_ragged_chunks_are_the_reference(
    name: str, form: Form, lengths: list[int], seed: int
) -> None:
    network = NETWORKS[name]
    signals = drawn(network, lengths, seed)
    wanted = expected(network, signals)
    served = engine(name, form)
    close(by_single_steps(served, signals), wanted, atol=1e-5)
    close(by_chunks(served, signals, np.random.default_rng(seed)), wanted, atol=1e-5)


FOR_CUDA = [(name, form) for name, network in NETWORKS.items()
            for form in (Form(SCAN, GEMM, cuda=how, packed=packed)
                         for how in (JOINED, GEMM, OPERATOR) for packed in (True, False))
            if form.allows(network)]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "form"),
    FOR_CUDA,
    ids=[f"{name}-{form.cuda}-{'packed' if form.packed else 'apart'}" for name, form in FOR_CUDA],
)
def test_the_graph_for_cuda_is_the_reference_wherever_it_runs(name: str, form: Form) -> None:
    network, signals = NETWORKS[name], drawn(NETWORKS[name], [60, 1, 33], 3)
    files = with_cuda_single(graphs(network, form), network.states(), CPU)
    served = serve(network, form, 6, CPU, files)
    close(by_single_steps(served, signals), expected(network, signals), atol=1e-5)
    untouched = served.read(np.arange(4, 7))
    assert not any(state.any() for state in untouched)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("name", ["lstm", "gru", "projected", "gappy lstm"])
def test_every_opset_says_the_same(name: str, opset: int) -> None:
    network = NETWORKS[name]
    form = Form(SCAN, GEMM, opset) if name == "projected" else Form(OPERATOR, GEMM, opset)
    for content in graphs(network, form).values():
        assert onnx.load_from_string(content).opset_import[0].version == opset
    signals = drawn(network, [40, 7], 0)
    close(by_single_steps(engine(name, form), signals), expected(network, signals), atol=1e-5)


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn", "projected", "gappy lstm"])
@pytest.mark.parametrize(("precision", "limit"), [("float16", 5e-3), ("int8", 6e-2)])
def test_fewer_bits_stay_near_the_reference_and_are_not_it(
    name: str, precision: str, limit: float
) -> None:
    network = NETWORKS[name]
    form = Form(SCAN, GEMM, precision=precision)
    signals = drawn(network, [60, 33, 5], 1)
    wanted = expected(network, signals)
    for found in (by_single_steps(engine(name, form), signals),
                  by_chunks(engine(name, form), signals, np.random.default_rng(2))):  # fmt: skip
        apart = max(float(np.abs(a - b).max()) for a, b in zip(found, wanted, strict=True))
        assert 1e-6 < apart < limit


def in_int8(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """x [rows, in] @ weights.T as the graphs compute it."""
    b, (count, width) = Builder(), weights.shape
    b.add("Identity", product(b, "w", "x", weights.astype(np.float32), "int8"), outputs=["y"])
    edges = [value("x", FLOAT, "B", width)], [value("y", FLOAT, "B", count)]
    model = b.model("product", *edges, OPSETS[0])
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return np.asarray(session.run(["y"], {"x": x.astype(np.float32)})[0])


def test_in_int8_a_row_s_neighbours_still_do_not_matter() -> None:
    """A neighbour a thousand times as large would ruin a scale that the batch shared."""
    rng = np.random.default_rng(3)
    x, weights = rng.normal(size=(6, 40)), rng.normal(size=(24, 40))
    x[2] *= 1000
    alone = np.concatenate([in_int8(row[None], weights) for row in x])
    np.testing.assert_array_equal(in_int8(x, weights), alone)


@pytest.mark.parametrize("width", [1, 2, 7, 64, 301])
def test_products_in_int8_are_exact_at_their_largest_on_any_processor(width: int) -> None:
    """x86 without VNNI adds pairs of products in 16 bits, where 8 bits of both would saturate."""
    rng = np.random.default_rng(width)
    x = np.concatenate([rng.choice([-5.0, 5.0], (5, width)), np.full((2, width), [[5.0], [-5.0]])])
    weights = np.concatenate([rng.choice([-0.3, 0.3], (9, width)), np.full((1, width), 0.3)])
    np.testing.assert_allclose(in_int8(x, weights), x @ weights.T, rtol=1e-5, atol=1e-4)
    assert 2 * (ROW_ZERO + ROW_STEPS) * WEIGHT_STEPS < 2**15  # where this runs on VNNI


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_network_is_the_same_bytes(name: str) -> None:
    form = Form(SCAN, GEMM)
    assert graphs(NETWORKS[name], form) == graphs(NETWORKS[name], form)
