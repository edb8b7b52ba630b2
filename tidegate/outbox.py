"""What waits to be sent, and the messages made of it: as much as fits, oldest first."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Sequence

from tidegate.block import Part
from tidegate.lanes import Lanes
from tidegate.message import Message
from tidegate.row import Row, Stage


class Outbox:
    """Rows that may go, each its track's first, and parts of blocks."""

    def __init__(self, lanes: Lanes, message_steps: int, message_bytes: int) -> None:
        self.message_bytes = message_bytes
        self._lanes, self.message_steps = lanes, message_steps
        self.rows: deque[Row] = deque()
        self.parts: deque[Part] = deque()

    def __bool__(self) -> bool:
        return bool(self.rows or self.parts)

    def put_back(self, rows: Sequence[Row], parts: Sequence[Part]) -> None:
        """What was taken has to be sent again, before everything else."""
        for row in rows:
            row.resent |= row.stage is Stage.SENT
        self.rows.extendleft(reversed(rows))
        self.parts.extendleft(reversed(parts))

    def shrink_steps(self, message: Message) -> None:
        """Make messages of half as many steps as that one, from now on."""
        self.message_steps = min(self.message_steps, message.steps // 2)

    def clear(self) -> tuple[list[Row], list[Part]]:
        """Take everything out."""
        taken = list(self.rows), list(self.parts)
        self.rows.clear()
        self.parts.clear()
        return taken

    def gather(self) -> Message | None:
        """The next message, or None where nothing is left that anybody waits for."""
        message = Message()
        self._gather_rows(message)
        self._gather_parts(message)
        return message if message.rows or message.parts or message.probes else None

    def _gather_rows(self, message: Message) -> None:
        queue, names, crowded = self.rows, self._lanes.names, self._lanes.crowded
        while queue and self._fits(message, queue[0].steps, len(queue[0].packed)):
            row = queue.popleft()
            if row.done.done():
                _drop(row)
                continue
            track = row.track
            if crowded or track.lane < 0 or names[track.lane] != track.session_id:
                track.lane = self._lanes.lane(track.session_id)
            if track.uncertain is not None:
                message.probes.append(row)
                continue
            row.number, row.stage = track.number, Stage.SENT
            message.add(row)

    def _gather_parts(self, message: Message) -> None:
        while self.parts:
            part = self.parts[0]
            if part.owner.done.done():
                self.parts.popleft()
            elif self._fits(message, part.steps, part.size):
                message.add_part(self.parts.popleft())
            elif message.steps or len(part) == 1:
                return
            else:
                self.parts.popleft()
                self.parts.extendleft(reversed(part.split()))

    def _fits(self, message: Message, steps: int, size: int) -> bool:
        """What is too large for any message goes alone."""
        return message.steps == 0 or (
            message.steps + steps <= self.message_steps
            and message.size + size <= self.message_bytes
        )


def _drop(row: Row) -> None:
    """Nobody waits for the row. One that was sent before leaves its outcome open; one that never
    was is withdrawn by its caller."""
    if row.stage is Stage.SENT:
        row.track.cut_off(row)


def timeout_us(expiry: float) -> int:
    """For the server: how long the last caller of a message waits yet; 0 for ever."""
    if math.isinf(expiry):
        return 0
    left = expiry - asyncio.get_running_loop().time()
    return max(1, round(left * 1e6))
