"""What waits: callers for room, rows and shares for a message, which takes as much as fits."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from tidegate._stream.message import LaneNames, Message, Share
from tidegate._stream.rows import Row, Stage
from tidegate.options import Coalescing

MOST_US = 1 << 62  # longer is for ever
MANY = 48
"""Rows from which on half of them go first, where nothing else is under way: the server runs those
while the others are packed, and while their callers go on it runs the others. Or those who step
again as soon as they are answered would all go in one message for ever, and each side would wait
for the other."""


class Backlog:
    """Counts the steps that callers await: past the bound, `room` holds callers back, first come,
    first served."""

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

    async def room(self, steps: int) -> int:
        """Wait until `steps` more fit, or all there may be; returns how many were counted, which
        is what to `free`."""
        steps = min(steps, self.limit)
        if not (self._waiting or self._entering) and self.fits(steps):
            self.steps += steps
            return steps
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((steps, turn))
        try:
            await turn
        except asyncio.CancelledError:
            self._leave(steps, turn)
            raise
        self._entering -= 1
        return steps

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


class Outbox:
    """Rows that may go, each its course's first, and shares of blocks."""

    def __init__(self, lanes: LaneNames, message_steps: int, message_bytes: int) -> None:
        self.message_bytes = message_bytes
        self._lanes, self.message_steps = lanes, message_steps
        self.rows: deque[Row] = deque()
        self.shares: deque[Share] = deque()

    def __bool__(self) -> bool:
        return bool(self.rows or self.shares)

    def put_back(self, rows: Sequence[Row], shares: Sequence[Share]) -> None:
        """What was taken has to be sent again, before everything else."""
        for row in rows:
            row.resent |= row.stage is Stage.SENT
        self.rows.extendleft(reversed(rows))
        self.shares.extendleft(reversed(shares))

    def shrink_steps(self, message: Message) -> None:
        """Make messages of half as many steps as that one, from now on."""
        self.message_steps = min(self.message_steps, message.steps // 2)

    def clear(self) -> tuple[list[Row], list[Share]]:
        """Take everything out."""
        taken = list(self.rows), list(self.shares)
        self.rows.clear()
        self.shares.clear()
        return taken

    def fill(self, message: Message, halve: bool = False) -> bool:
        """Take into `message` what fits, or to `halve` them half of many rows; False where nothing
        is left that anybody waits for.

        What is taken leaves here last, so that an exception midway loses nothing.
        """
        many = halve and len(self.rows) >= MANY
        self._take_rows(message, len(self.rows) // 2 if many else len(self.rows))
        self._take_shares(message)
        return bool(message.rows or message.shares or message.probes)

    def _take_rows(self, message: Message, most: int) -> None:
        queue, names, crowded = self.rows, self._lanes.names, self._lanes.crowded
        while queue and len(message.rows) < most:
            row = queue[0]
            if message.steps and not self._fits(message, row.steps, len(row.packed)):
                return
            if row.done.done():
                row.course.dropped(row)
            else:
                course = row.course
                if crowded or course.lane < 0 or names[course.lane] != course.session_id:
                    course.lane = self._lanes.lane(course.session_id)
                if course.uncertain is None and row.steps:
                    if not row.counted:
                        row.number = course.number
                    row.stage = Stage.SENT
                    message.add(row)
                elif len(message.probes) < self.message_steps:
                    message.probes.append(row)
                else:
                    return
            queue.popleft()

    def _take_shares(self, message: Message) -> None:
        while self.shares:
            share = self.shares[0]
            if share.owner.done.done():
                self.shares.popleft()
            elif self._fits(message, share.steps, share.size) or self._alone(message, share):
                message.add_share(share)
                self.shares.popleft()
            elif message.steps:
                return
            else:
                halves = share.split()
                self.shares.popleft()
                self.shares.extendleft(reversed(halves))

    def _alone(self, message: Message, share: Share) -> bool:
        """One row that is too large for any message goes alone."""
        return len(share) == 1 and not message.steps

    def _fits(self, message: Message, steps: int, size: int) -> bool:
        return (
            message.steps + steps <= self.message_steps
            and message.size + size <= self.message_bytes
        )


def timeout_us(expiry: float) -> int:
    """For the server: how long the last caller of a message waits yet; 0 for ever."""
    left = (expiry - asyncio.get_running_loop().time()) * 1e6
    return max(1, round(left)) if left < MOST_US else 0
