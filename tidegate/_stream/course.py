"""A course: one session's rows in their order, its count, and what became of rows given up.

Only one row of a session is on its way at a time, so that a refused one never leaves a gap behind
it. Pure bookkeeping between `Session`, which callers hold, and `Stream`, which carries the rows.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from itertools import takewhile
from typing import Protocol

import numpy as np

from tidegate import errors
from tidegate._stream.kept import Kept
from tidegate._stream.packing import same
from tidegate._stream.rows import CERTAIN, Row, Stage
from tidegate.errors import TidegateError
from tidegate.model import FloatArray

NOTHING = np.empty((0, 0), np.float32)


class Carrier(Protocol):
    """Takes the rows that may go: each course's first."""

    def offer(self, row: Row) -> None:
        """Send `row` as soon as there is room on the wire, unless its `done` is over by then."""


class Course:
    """Where one session stands, as far as this client knows.

    `number` is the next step's. `rows` have no answer yet, the first of them being with the
    carrier. `unread` were sent and given up by their caller; whoever asks for the same steps again
    gets their outputs.
    """

    __slots__ = (
        "carrier",
        "durable",
        "kept",
        "lane",
        "life",
        "number",
        "rows",
        "seen",
        "session_id",
        "uncertain",
        "unread",
    )

    def __init__(
        self,
        session_id: str,
        number: int,
        carrier: Carrier,
        kept: Kept | None = None,
        life: int = 0,
        durable: int = 0,
    ) -> None:
        self.session_id, self.number, self.carrier = session_id, number, carrier
        self.kept, self.life, self.durable = kept or Kept(), life, durable
        self.lane = -1
        self.rows: deque[Row] = deque()
        self.unread: list[Row] = []
        self.seen = 0
        """How many of the stream's breaks it has made good for certain."""
        self.uncertain: Row | None = None
        """The row that was cut off, until the server's count tells whether it was applied."""

    def put(self, row: Row) -> None:
        """Queue a row behind those before it."""
        self.rows.append(row)
        if len(self.rows) == 1:
            self.carrier.offer(row)

    def applied(self, row: Row, outputs: FloatArray) -> None:
        """The server has applied the row, now or before."""
        if row.before is not None:
            self._again(row, row.before, row.number + row.steps)
            return
        row.stage, row.outputs = Stage.APPLIED, outputs
        end = row.number + row.steps
        if end > self.number:  # not past where a row that is only read again once was
            self.number = end
        self._next()
        if not row.done.done():
            row.done.set_result(outputs)

    def refused(self, row: Row, error: TidegateError) -> None:
        """The server has not applied the row now; whether it had before, not every error tells.
        What follows the row in the same chunk must not go."""
        row = row.before or row
        if row.resent and not isinstance(error, CERTAIN):
            self._unsure(row)
        else:
            self._withdraw(row)
        self._end_call(row)
        self._next()
        if not row.done.done():
            row.done.set_exception(error)

    def dropped(self, row: Row) -> None:
        """Nobody waits for the row any more, and it is not to go (again). One that was sent over a
        connection that broke leaves its outcome open; one that the server has not applied does not
        count, and must not stand in the way of those behind it."""
        if not self.rows or self.rows[0] is not row:
            return
        if row.stage is Stage.SENT:
            self._unsure(row)
        else:
            self._withdraw(row)
            self._end_call(row)
        self._next()

    def failed(self, error: TidegateError) -> None:
        """The server cannot be reached: every row ends, unknown where it was sent."""
        self.expire(math.inf, error)
        for row in self.rows:
            if row.stage is Stage.SENT:
                self._unsure(row)
            else:
                row.stage = Stage.REFUSED
        self.rows.clear()

    def expire(self, now: float, error: TidegateError) -> None:
        """End the waiting of callers whose time is over. A chunk waits for its first open row."""
        told: list[Row] | None = None
        for row in self.rows:
            if row.expiry <= now and not row.done.done():
                if row.call is None or row.call is not told:
                    row.done.set_exception(error)
                else:
                    row.done.cancel()
                told = row.call

    def told(self, count: int, life: int, durable: int) -> None:
        """What naming the session's lane told. The count tells whether the uncertain row was
        applied. One that it does not explain is a crash's or somebody else's doing; the next row's
        number will meet it."""
        same_life = life == self.life
        if same_life:
            self.durable = durable
            self.kept.stored(durable)
        row, self.uncertain = self.uncertain, None
        if row is None or row.counted:
            return
        if same_life and count == row.number + row.steps:
            self.number, row.counted = count, True
            if life:  # else there is no store
                self.kept.add(row.number, row.packed, row.steps, durable, self.kept.turn)
        else:
            self._withdraw(row)

    def give_up(self, row: Row) -> None:
        """The row's caller waits no more: it is withdrawn, or unread where it was sent."""
        if row.stage is Stage.WAITING:
            first = self.rows[0] is row
            self.rows.remove(row)
            row.stage = Stage.REFUSED
            if first:
                self._offer()
        elif row.stage is not Stage.REFUSED and row.steps:
            self.unread.append(row)

    def caught_up(self, row: Row, count: int, life: int) -> None:
        """The server has so many steps: what is missing of those applied is applied again, and the
        row of no steps is over then."""
        row.number = self.number
        if life == self.life and count < self.number:
            self.go_back(row, count, self.number)
            return
        row.stage = Stage.APPLIED
        self._next()
        row.done.set_result(NOTHING)

    def restart(self, life: int, durable: int) -> None:
        """The session is back at step 0, for another life."""
        self.number, self.uncertain = 0, None
        self.life, self.durable = life, durable
        self.unread.clear()
        self.kept.clear()

    def repeats(self, packed: bytes) -> bool:
        """Whether `packed` asks again for what is unread, from its start; if not, that is
        forgotten: the caller has gone on."""
        unread = b"".join(row.packed for row in self.unread)
        length = min(len(unread), len(packed))
        if same(unread[:length], packed[:length]) and not (self._stranded() and self.rows):
            return True
        self.unread.clear()
        return False

    def claim(self) -> list[Row]:
        """What is unread, for one caller alone, who either reads or returns it."""
        claimed, self.unread = self.unread, []
        return claimed

    def unclaim(self, claimed: list[Row]) -> None:
        """The caller gave up as well: what was not refused is unread again."""
        self.unread[:0] = [row for row in claimed if row.stage is not Stage.REFUSED]

    def send_again(self, row: Row) -> None:
        """Ask the server once more about the row that was cut off."""
        row.stage, row.resent = Stage.SENT, True
        if self.uncertain is row:  # else what was cut off behind it is still to be told of
            self.uncertain = None
        self.rows.appendleft(row)
        self.carrier.offer(row)

    def settled(self, row: Row) -> asyncio.Future[FloatArray]:
        """For whoever waits for a row again that its first caller gave up."""
        if row.done.done():
            row.done = row.done.get_loop().create_future()
            row.done.add_done_callback(_heard)
        return asyncio.shield(row.done)

    def read(self, claimed: list[Row], packed: bytes, width: int) -> FloatArray:
        """Outputs [steps, O] of as much of `packed` as was claimed and has been applied."""
        claimed = list(takewhile(lambda row: row.outputs is not None, claimed))
        outputs = np.concatenate([np.empty((0, width), np.float32), *map(_table, claimed)])
        features = b"".join(row.packed for row in claimed)
        if len(packed) < len(features):
            taken = len(outputs) * len(packed) // len(features)
            self.unread_again(features[len(packed) :], outputs[taken:])
            outputs = outputs[:taken]
        return outputs

    def unread_again(self, packed: bytes, outputs: FloatArray) -> None:
        """What was read for a chunk that failed later: its caller never saw these outputs."""
        if len(outputs):
            self.unread.insert(0, self._answered(packed, outputs))

    def go_back(self, row: Row, start: int, stop: int) -> None:
        """A crash has taken back steps that were applied: apply again those from `start`, at most
        to before `stop`, and so on, until `row` may go. It fails where they are not kept."""
        row.stage, row.resent = Stage.SENT, True  # so whoever gives it up may ask for it again
        if start >= row.number:
            self.carrier.offer(row)
        elif (packed := self.kept.piece(start, min(stop, row.number))) is None:
            self.refused(row, errors.steps_lost(self.session_id, row.number, start))
        else:
            done = row.done.get_loop().create_future()
            again = Row(self, packed, len(packed) // self.kept.step_bytes, done, row.expiry)
            again.number, again.counted, again.before = start, True, row
            self.carrier.offer(again)

    def _again(self, row: Row, before: Row, stop: int) -> None:
        """Steps that were lost are applied again, up to `stop`."""
        row.stage = Stage.APPLIED
        if self.rows and self.rows[0] is before:
            self.go_back(before, stop, before.number)

    def _unsure(self, row: Row) -> None:
        row.stage = Stage.CUT_OFF
        if not row.counted:
            self.uncertain = row

    def _withdraw(self, row: Row) -> None:
        row.stage = Stage.REFUSED
        if row in self.unread:
            self.unread.remove(row)

    def _end_call(self, row: Row) -> None:
        """What follows the row in its chunk must not go."""
        for other in row.call or ():
            if other is not row and other.stage is Stage.WAITING:
                other.stage = Stage.REFUSED
                other.done.cancel()
                self.rows.remove(other)

    def _answered(self, packed: bytes, outputs: FloatArray) -> Row:
        row = Row(self, packed, len(outputs), asyncio.Future(), 0.0)
        row.stage, row.outputs = Stage.APPLIED, outputs
        return row

    def _stranded(self) -> bool:
        return any(row.stage is Stage.CUT_OFF for row in self.unread)

    def _next(self) -> None:
        self.rows.popleft()
        self._offer()

    def _offer(self) -> None:
        if self.rows:
            self.carrier.offer(self.rows[0])


def _heard(done: asyncio.Future[FloatArray]) -> None:
    """An error that nobody waits for any more is no news."""
    if not done.cancelled():
        done.exception()


def _table(row: Row) -> FloatArray:
    assert row.outputs is not None
    return row.outputs.reshape(row.steps, -1)
