"""Lets many sessions' steps go in the order of their times: each waits for its turn.

Times that occur are numbered. A step may go when all steps of some numbers before it were answered,
so that sessions run side by side as they did, and messages still fill.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.table.session import Session

AHEAD = 64
"""Times that may be under way at once."""


class Pace:
    """The turns of sessions' steps; for one event loop."""

    def __init__(self, turns: Sequence[NDArray[np.int64]], ahead: int = AHEAD) -> None:
        self._left = np.bincount(np.concatenate(turns))
        self._ahead, self._first = ahead, 0
        self._waiting: dict[int, list[asyncio.Future[None]]] = defaultdict(list)

    async def turn(self, number: int) -> None:
        """Return when steps of that number may go."""
        if number >= self._first + self._ahead:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting[number].append(waiter)
            await waiter

    def done(self, number: int) -> None:
        """A step of that number was answered."""
        self._left[number] -= 1
        while self._first < len(self._left) and not self._left[self._first]:
            for waiter in self._waiting.pop(self._first + self._ahead, ()):
                if not waiter.done():
                    waiter.set_result(None)
            self._first += 1


def turns_of(sessions: Sequence[Session]) -> list[NDArray[np.int64]]:
    """For each step of each session the number of its time, [T]."""
    times = np.unique(np.concatenate([session.order for session in sessions]))
    return [np.searchsorted(times, session.order).astype(np.int64) for session in sessions]
