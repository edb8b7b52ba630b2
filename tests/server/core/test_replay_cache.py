"""Remembered steps that move from one cache to another of another depth."""

from __future__ import annotations

import numpy as np
import pytest

from server.sessions.replay_cache import ReplayCache


@pytest.mark.parametrize("depth", [4, 8, 64])
def test_a_move_to_a_deeper_cache_brings_what_there_was_and_no_more(depth: int) -> None:
    rng = np.random.default_rng(depth)
    ours, theirs = ReplayCache(2, 8, 5, 3), ReplayCache(2, depth, 5, 3)
    one, length = np.array([1]), np.array([1], np.int32)
    for step in range(100):  # a former holder of the slot there
        x, y = rng.normal(size=(2, 1, 1, 5)).astype(np.float32)
        theirs.keep(one, np.array([step]), length, x, y[..., :3])
    features, outputs = rng.normal(size=(2, 20, 5)).astype(np.float32)
    for step in range(20):
        x, y = features[None, step : step + 1], outputs[None, step : step + 1, :3]
        ours.keep(one, np.array([step]), length, x, y)
    theirs.restore(1, 20, *ours.tail(1, 20))
    known = min(depth, 8)
    moved, prints = theirs.tail(1, 20)
    np.testing.assert_array_equal(moved, outputs[20 - known :, :3])
    assert len(prints) == known
    recalled = theirs.recall(1, 20 - known, features[20 - known :])
    assert isinstance(recalled, np.ndarray)
    np.testing.assert_array_equal(recalled, moved)
