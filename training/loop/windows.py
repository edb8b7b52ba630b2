"""Lays sessions side by side in lanes, cut into windows: what one optimiser step sees.

A lane holds one session behind the other, each padded to whole windows. The state is carried from
window to window within a session and begins anew with the next, as it does in serving.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from training.network import Floats
from training.table.session import Session

Window = dict[str, Tensor]
FEWEST, MOST, UPDATES = 4, 64, 64


@dataclass(frozen=True)
class Lanes:
    """x [B, N·W, F], y [B, N·W, K], weight [B, N·W] (0 where there is no target or no session) and
    fresh bool [B, N]: whether a session begins with the window."""

    x: Floats
    y: Floats
    weight: Floats
    fresh: NDArray[np.bool_]
    window: int


class Windows(Dataset[Window]):
    """The windows of lanes, in order: x [B, W, F], y [B, W, K], weight [B, W], fresh [B]."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes

    def __len__(self) -> int:
        return int(self._lanes.fresh.shape[1])

    def __getitem__(self, k: int) -> Window:
        if not 0 <= k < len(self):
            raise IndexError(k)
        lanes = self._lanes
        part = slice(k * lanes.window, (k + 1) * lanes.window)
        arrays = {"x": lanes.x[:, part], "y": lanes.y[:, part], "weight": lanes.weight[:, part]}
        fresh = torch.from_numpy(lanes.fresh[:, k])
        return {name: torch.from_numpy(each) for name, each in arrays.items()} | {"fresh": fresh}


def lanes_of(batch: int | str, sessions: Sequence[Session], window: int) -> int:
    """How many lanes a recipe's `batch` means for these sessions.

    By "auto" an epoch has about 64 updates where the data allows it: in many lanes a small table
    would have so few that it is learned in hundreds of epochs or not at all.
    """
    if isinstance(batch, int):
        return min(batch, len(sessions))
    windows = sum(_windows(session, window) for session in sessions)
    return min(max(FEWEST, min(MOST, windows // UPDATES)), len(sessions))


def updates_of(sessions: Sequence[Session], lanes: int, window: int) -> int:
    """How many updates an epoch has."""
    return _assigned(sessions, lanes, window)[1]


def lay(sessions: Sequence[Session], batch: int, window: int, warm_in: int = 0) -> Lanes:
    """Lay out sessions in at most `batch` lanes of equal length; each goes where room is first.

    A session's first `warm_in` steps weigh less: little can be known yet.
    """
    count = min(batch, len(sessions))
    lanes, length = _assigned(sessions, count, window)
    laid = _empty(sessions[0], count, length, window)
    for row, members in enumerate(lanes):
        start = 0
        for k in members:
            _place(laid, row, start, sessions[k], warm_in)
            start += _windows(sessions[k], window)
    return laid


def _assigned(sessions: Sequence[Session], lanes: int, window: int) -> tuple[list[list[int]], int]:
    """Which sessions each lane holds, and the windows of the longest."""
    members: list[list[int]] = [[] for _ in range(lanes)]
    ends = [(0, k) for k in range(lanes)]
    for k, session in enumerate(sessions):
        end, lane = heapq.heappop(ends)
        members[lane].append(k)
        heapq.heappush(ends, (end + _windows(session, window), lane))
    return members, max(end for end, _ in ends)


def share(lanes: Lanes, rank: int, world: int) -> Lanes:
    """One process's lanes; all get as many windows, and as many lanes, some perhaps of weight 0."""
    if world == 1:
        return lanes
    count = -(-len(lanes.x) // world)
    mine = np.arange(rank, count * world, world)
    spare = mine >= len(lanes.x)
    mine = np.where(spare, 0, mine)
    weight = np.where(spare[:, None], np.float32(0), lanes.weight[mine])
    return Lanes(lanes.x[mine], lanes.y[mine], weight, lanes.fresh[mine], lanes.window)


def _windows(session: Session, window: int) -> int:
    return -(-len(session) // window)


def _empty(like: Session, lanes: int, windows: int, window: int) -> Lanes:
    steps = windows * window
    return Lanes(
        x=np.zeros((lanes, steps, like.x.shape[1]), np.float32),
        y=np.zeros((lanes, steps, like.y.shape[1]), np.float32),
        weight=np.zeros((lanes, steps), np.float32),
        fresh=np.zeros((lanes, windows), np.bool_),
        window=window,
    )


def _place(lanes: Lanes, row: int, start: int, session: Session, warm_in: int) -> None:
    at = slice(start * lanes.window, start * lanes.window + len(session))
    known = np.isfinite(session.y).all(axis=1)
    weight = known.astype(np.float32)
    if warm_in:
        weight *= np.minimum(np.arange(1, len(session) + 1) / warm_in, 1.0)
    lanes.x[row, at] = session.x
    lanes.y[row, at] = np.nan_to_num(session.y)
    lanes.weight[row, at] = weight
    lanes.fresh[row, start] = True
