"""The exported graphs compute the LSTM of the NumPy reference, which computes torch's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training import graph
from training.model import StreamingLstm
from training.network import Mirror, Network, random_network
from training.reference import NumpyNetwork

WEIGHTS = replace(
    random_network(5, 12, 2, 3, seed=3), mirror=Mirror(by=4, flip=(1.0, 0.0, 1.0, 0.0, 0.0))
)


def open_graph(weights: Network, single: bool) -> onnxruntime.InferenceSession:
    model = graph.single_graph(weights) if single else graph.step_graph(weights)
    content = model.SerializeToString()
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


STEP, SINGLE = open_graph(WEIGHTS, single=False), open_graph(WEIGHTS, single=True)


def arenas(slots: int) -> dict[str, np.ndarray]:
    shapes = WEIGHTS.states()
    return {f"state.{name}": np.zeros((slots, width), np.float32) for name, width in shapes}


@settings(deadline=None, max_examples=40)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), seed=st.integers(0, 2**32 - 1))
def test_ragged_chunks_equal_single_steps_and_the_reference(lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, longest = len(lengths), max(lengths)
    x = rng.normal(size=(rows, longest, 5)).astype(np.float32)
    slots = rng.permutation(rows + 3)[:rows].astype(np.int64)
    feeds = {"slots": slots, "fresh": np.ones(rows, np.bool_)}
    ragged, *_ = STEP.run(
        None, {**feeds, "input": x, "lengths": np.array(lengths, np.int32), **arenas(rows + 3)}
    )
    reference = NumpyNetwork(WEIGHTS)
    single, state = [], arenas(rows + 3)
    for t in range(longest):
        feeds["fresh"] = np.full(rows, t == 0)
        output, *after = SINGLE.run(None, {**feeds, "input": x[:, t], **state})
        state = dict(zip(state, after, strict=True))
        single.append(output)
    for row, length in enumerate(lengths):
        expected, _ = reference.run(x[row, :length], reference.initial())
        np.testing.assert_allclose(ragged[row, :length], expected, atol=1e-5)
        np.testing.assert_allclose(np.stack(single)[:length, row], expected, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_reference_equals_torch(layers: int) -> None:
    torch.manual_seed(0)
    mirror = Mirror(by=2, flip=(1.0, 0.0, 0.0))
    mean, std = torch.tensor([0.5, -1.0, 0.5]), torch.tensor([2.0, 0.5, 1.0])
    model = StreamingLstm(mean, std, mirror, hidden=16, layers=layers, outputs=4).eval()
    x = np.random.default_rng(1).normal(size=(200, 3)).astype(np.float32)
    x[:, 2] = 1.0
    with torch.no_grad():
        logits, _ = model(torch.from_numpy(x)[None])
    for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 2e-6)):
        reference = NumpyNetwork(model.weights(), dtype)
        outputs, _ = reference.run(x, reference.initial())
        np.testing.assert_allclose(outputs, torch.softmax(logits[0], -1).numpy(), atol=tolerance)


def test_windows_with_the_state_carried_on_equal_the_whole() -> None:
    torch.manual_seed(0)
    mirror = Mirror(by=2, flip=(0.0, 1.0, 0.0))
    model = StreamingLstm(torch.zeros(3), torch.ones(3), mirror, hidden=8, layers=1, outputs=2)
    x = torch.randn(4, 90, 3)
    with torch.no_grad():
        whole, _ = model.eval()(x)
        state, parts = None, []
        for start in range(0, 90, 25):
            part, state = model(x[:, start : start + 25], state)
            parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
