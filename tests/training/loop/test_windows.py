"""Windows: every step of every session once, in order, its state carried on and never mixed."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.loop.windows import Lanes, Windows, lanes_of, lay, share, updates_of
from training.table.session import Session

LENGTHS = st.lists(st.integers(1, 23), min_size=1, max_size=12)


def session(k: int, steps: int) -> Session:
    """Its x says which session and step it is; every third step has no target."""
    x = np.stack([np.full(steps, k), np.arange(steps)], axis=1).astype(np.float32)
    y = np.where(np.arange(steps) % 3 == 2, np.nan, 1.0).astype(np.float32)[:, None]
    return Session(f"s{k}", "g", x, y, np.arange(steps, dtype=np.float64))


def seen_by(lanes: Lanes) -> dict[int, list[int]]:
    """Steps with a weight, by session, in the order in which the network sees them."""
    seen: dict[int, list[int]] = {}
    windows = Windows(lanes)
    for k in range(len(windows)):
        window = windows[k]
        for lane in range(len(window["x"])):
            for x, weight in zip(window["x"][lane], window["weight"][lane], strict=True):
                if weight > 0:
                    seen.setdefault(int(x[0]), []).append(int(x[1]))
    return seen


@given(LENGTHS, st.integers(1, 5), st.integers(1, 9))
def test_every_step_with_a_target_is_seen_once_and_in_order(
    lengths: list[int], batch: int, window: int
) -> None:
    sessions = [session(k, steps) for k, steps in enumerate(lengths)]
    seen = seen_by(lay(sessions, batch, window))
    assert seen == {k: [t for t in range(steps) if t % 3 != 2] for k, steps in enumerate(lengths)}


@given(LENGTHS, st.integers(1, 5), st.integers(1, 9))
def test_a_session_begins_fresh_and_goes_on_carried(
    lengths: list[int], batch: int, window: int
) -> None:
    sessions = [session(k, steps) for k, steps in enumerate(lengths)]
    windows = Windows(lay(sessions, batch, window))
    starts = 0
    for k in range(len(windows)):
        first = windows[k]["x"][:, 0]
        for (_, step), weight, fresh in zip(
            first, windows[k]["weight"][:, 0], windows[k]["fresh"], strict=True
        ):
            if weight > 0:
                assert bool(fresh) == (int(step) == 0)
            starts += int(fresh)
    assert starts == len(sessions)


@given(LENGTHS, st.integers(1, 6), st.integers(1, 4))
def test_processes_share_all_lanes_and_get_windows_of_one_shape(
    lengths: list[int], batch: int, world: int
) -> None:
    lanes = lay([session(k, steps) for k, steps in enumerate(lengths)], batch, 4)
    parts = [share(lanes, rank, world) for rank in range(world)]
    assert len({part.x.shape for part in parts}) == 1
    both: dict[int, list[int]] = {}
    for part in parts:
        for k, steps in seen_by(part).items():
            assert k not in both
            both[k] = steps
    assert both == seen_by(lanes)


def test_the_first_steps_weigh_less() -> None:
    lanes = lay([session(0, 8)], 1, 8, warm_in=4)
    expected = torch.tensor([0.25, 0.5, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    torch.testing.assert_close(Windows(lanes)[0]["weight"][0], expected)


def test_a_small_table_gets_few_lanes_and_a_large_one_sixty_four() -> None:
    def lanes(sessions: int, steps: int) -> int:
        return lanes_of("auto", [session(k, steps) for k in range(sessions)], window=10)

    assert lanes(300, 20) == 9  # 600 windows in 64 updates
    assert lanes(5000, 20) == 64
    assert lanes(20, 25) == 4
    assert lanes(3, 10_000) == 3, "there are no more sessions"
    assert lanes_of(16, [session(k, 5) for k in range(20)], window=10) == 16


@given(LENGTHS, st.integers(1, 5), st.integers(1, 9))
def test_as_many_updates_are_told_as_there_are(lengths: list[int], batch: int, window: int) -> None:
    sessions = [session(k, steps) for k, steps in enumerate(lengths)]
    lanes = lanes_of(batch, sessions, window)
    assert updates_of(sessions, lanes, window) == len(Windows(lay(sessions, batch, window)))
