"""Graphs that take one session at a time are served so, and the import says why."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from tests.training.importer.graphs import LEAKY, bundle_of, model_of, steps

OPTIONS = "--state h=hn --input x --output y"
NORM = "mean = ReduceMean<axes = [0], keepdims = 1>(x)\n    less = Sub(x, mean)\n    "
NORM += "sum = Add(less, x)\n    hn = Add(kept, sum)"
HARD = "one = Constant<value = int64[2] {1, 3}>()\n    flat = Reshape(x, one)\n    "
HARD += "hn = Add(kept, flat)"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LEAKY.replace("batch", "1"), "'x' declares a batch of 1"),
        (LEAKY.replace("hn = Add(kept, x)", HARD), "in a run of 5 sessions the graph does not run"),
        (LEAKY.replace("hn = Add(kept, x)", NORM), "the outputs of 5 sessions in one run are"),
        (
            LEAKY.replace("(float[batch, 3] y,", "(float[three] y,").replace(
                "y = Tanh(hn)",
                "first = Constant<value = int64[1] {0}>()\n"
                "    all = Tanh(hn)\n    sum = ReduceMax<axes = [0], keepdims = 1>(all)\n"
                "    y = Squeeze(sum, first)",
            ),
            "output 'y' is [3] for one session, with no batch on axis 0",
        ),
    ],
)
def test_a_graph_of_one_row_steps_sessions_one_at_a_time(
    tmp_path: Path, text: str, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        bundle = bundle_of(model_of(text), tmp_path, OPTIONS)
    assert bundle.manifest.max_batch == 1
    assert "sessions are stepped one at a time (max_batch 1): " in caplog.text
    assert says in caplog.text
    told = json.loads((tmp_path / "models/taken/1/model.json").read_text())["import"]
    assert says in told["one_at_a_time"]
    signals = np.random.default_rng(1).normal(size=(3, 4, 3)).astype(np.float32)
    h, (found, _) = np.zeros((3, 3), np.float32), steps(bundle, signals)
    for t in range(4):
        h = h * np.float32(0.5) + signals[:, t]
        np.testing.assert_allclose(found[:, t], np.tanh(h), rtol=1e-5)
