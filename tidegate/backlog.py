"""The bound on steps without an answer: past it, callers wait before they hand in more."""

from __future__ import annotations

import asyncio
from collections import deque

from tidegate.options import Coalescing


class Backlog:
    """Counts the steps that callers await; `room` holds them back, first come, first served."""

    def __init__(self, limits: Coalescing, step_bytes: int) -> None:
        self.limit = max(1, min(limits.waiting_steps, limits.waiting_bytes // step_bytes))
        self.steps = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._entering = 0  # have room and have not gone on yet: nobody may overtake them

    @property
    def crowded(self) -> bool:
        """Whether a caller must ask for `room` first."""
        return self.steps >= self.limit or bool(self._waiting) or self._entering > 0

    def fits(self, steps: int) -> bool:
        """Whether so many more steps may be handed in. Any number may where there is none."""
        return self.steps == 0 or self.steps + steps <= self.limit

    async def room(self, steps: int) -> None:
        """Wait until `steps` more fit, and count them."""
        if not (self._waiting or self._entering) and self.fits(steps):
            self.steps += steps
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((steps, turn))
        try:
            await turn
        except asyncio.CancelledError:
            self._leave(steps, turn)
            raise
        self._entering -= 1

    def free(self, steps: int) -> None:
        """So many steps are awaited no more."""
        self.steps -= steps
        if self._waiting:
            self._admit()

    def _admit(self) -> None:
        while self._waiting and (self._waiting[0][1].done() or self.fits(self._waiting[0][0])):
            steps, turn = self._waiting.popleft()
            if not turn.done():
                self.steps += steps
                self._entering += 1
                turn.set_result(None)

    def _leave(self, steps: int, turn: asyncio.Future[None]) -> None:
        if turn.done() and not turn.cancelled():  # its turn came while it was being cancelled
            self._entering -= 1
            self.free(steps)
        else:
            turn.cancel()
            self._admit()
