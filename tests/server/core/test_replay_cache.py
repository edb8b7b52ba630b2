"""What is remembered of each slot's latest steps, and moves to other slots and caches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import StepConflict
from server.sessions.replay_cache import ReplayCache, rows


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


CAPACITIES = [1, 2, 7, 8, 100, 255, 256, 300]


@given(
    capacity=st.sampled_from(CAPACITIES),
    depth=st.integers(1, 5),
    rounds=st.lists(st.lists(st.integers(0, 299), min_size=1, max_size=6), max_size=12),
)
def test_each_slot_is_remembered_for_its_own_latest_steps(
    capacity: int, depth: int, rounds: list[list[int]]
) -> None:
    cache, drawn = ReplayCache(capacity, depth, 2, 3), np.random.default_rng(depth)
    applied: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    for each in rounds:
        slots = np.unique(capacity - np.array(each) % capacity)  # the last one, too
        counts = np.array([len(applied.get(slot, ())) for slot in slots.tolist()])
        features = drawn.normal(size=(len(slots), 1, 2)).astype(np.float32)
        outputs = drawn.normal(size=(len(slots), 1, 3)).astype(np.float32)
        if len(slots) == 1:
            cache.keep_one(int(slots[0]), int(counts[0]), features, outputs)
        else:
            cache.keep(slots, counts, np.ones(len(slots), np.int32), features, outputs)
        for row, slot in enumerate(slots.tolist()):
            applied.setdefault(slot, []).append((features[row], outputs[row]))
    slots = np.array(sorted(applied), dtype=np.int64)
    moved = ReplayCache(capacity, depth, 2, 3)
    moved.put_rings(capacity + 1 - slots, *cache.rings(slots))
    for slot, steps in applied.items():
        latest = steps[-depth:]
        tail, _ = cache.tail(slot, len(steps))
        np.testing.assert_array_equal(tail, np.concatenate([output for _, output in latest]))
        for at, (features, outputs) in enumerate(latest, len(steps) - len(latest)):
            for there, place in ((cache, slot), (moved, capacity + 1 - slot)):
                np.testing.assert_array_equal(there.recall(place, at, features), outputs)
            assert cache.recall(slot, at, features + 1) is StepConflict


def test_room_is_for_every_slot_and_not_for_many_more() -> None:
    room = [rows(capacity) for capacity in range(1, 5000)]
    assert room == sorted(room)
    assert all(each + 1 <= found <= 1.25 * (each + 1) for each, found in enumerate(room, 1))
