"""A track: one session's rows in their order, its count, and what became of rows given up.

Only one row of a session is on its way at a time, so that a refused one never leaves a gap behind
it. Pure bookkeeping between `Session`, which callers hold, and `Stream`, which carries the rows.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import Protocol

import numpy as np

from tidegate import errors
from tidegate.errors import TidegateError
from tidegate.packing import FloatArray, same
from tidegate.row import Row, Stage

# With these the server says that the row was not applied, by an earlier attempt neither.
CERTAIN = (errors.BadInput, errors.MessageTooLarge, errors.SessionGone, errors.WrongStep)


class Carrier(Protocol):
    """Takes the rows that may go: each track's first."""

    def offer(self, row: Row) -> None:
        """Send `row` as soon as there is room on the wire, unless its `done` is over by then."""


class Track:
    """Where one session stands, as far as this client knows.

    `number` is the next step's. `rows` have no answer yet, the first of them being with the
    carrier. `unread` were sent and given up by their caller; whoever asks for the same steps again
    gets their outputs.
    """

    __slots__ = ("carrier", "lane", "number", "rows", "session_id", "uncertain", "unread")

    def __init__(self, session_id: str, number: int, carrier: Carrier) -> None:
        self.session_id, self.number, self.carrier = session_id, number, carrier
        self.lane = -1
        self.rows: deque[Row] = deque()
        self.unread: list[Row] = []
        self.uncertain: Row | None = None
        """The row that was cut off, until the server's count tells whether it was applied."""

    def put(self, row: Row) -> None:
        """Queue a row behind those before it."""
        self.rows.append(row)
        if len(self.rows) == 1:
            self.carrier.offer(row)

    def applied(self, row: Row, outputs: FloatArray) -> None:
        """The server has applied the row, now or before."""
        row.stage, row.outputs = Stage.APPLIED, outputs
        self.number = row.number + row.steps
        self._next()
        if not row.done.done():
            row.done.set_result(outputs)

    def refused(self, row: Row, error: TidegateError) -> None:
        """The server has not applied the row now; whether it had before, not every error tells.
        What follows the row in the same chunk must not go."""
        if row.resent and not isinstance(error, CERTAIN):
            row.stage, self.uncertain = Stage.CUT_OFF, row
        else:
            row.stage = Stage.REFUSED
            if row in self.unread:
                self.unread.remove(row)
        for other in row.call or ():
            if other.stage is Stage.WAITING:
                other.stage = Stage.REFUSED
                other.done.cancel()
                self.rows.remove(other)
        self._next()
        if not row.done.done():
            row.done.set_exception(error)

    def cut_off(self, row: Row) -> None:
        """The connection broke under a row that nobody waits for any more."""
        row.stage = Stage.CUT_OFF
        self.uncertain = row
        self._next()

    def failed(self, error: TidegateError) -> None:
        """The server cannot be reached: every row ends, unknown where it was sent."""
        self.expire(math.inf, error)
        for row in self.rows:
            if row.stage is Stage.SENT:
                row.stage, self.uncertain = Stage.CUT_OFF, row
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

    def settle(self, count: int) -> None:
        """The server's count tells whether the uncertain row was applied. A count that it does not
        explain is somebody else's doing; the next row's number will meet it."""
        row, self.uncertain = self.uncertain, None
        if row is not None and count == row.number + row.steps:
            self.number = count

    def give_up(self, row: Row) -> None:
        """The row's caller waits no more: it is withdrawn, or unread where it was sent."""
        if row.stage is Stage.WAITING:
            first = self.rows[0] is row
            self.rows.remove(row)
            row.stage = Stage.REFUSED
            if first:
                self._offer()
        elif row.stage is not Stage.REFUSED:
            self.unread.append(row)

    def restart(self) -> None:
        """The session is back at step 0."""
        self.number, self.uncertain = 0, None
        self.unread.clear()

    def repeats(self, packed: bytes) -> bool:
        """Whether `packed` asks again for what is unread, from its start; if not, that is
        forgotten: the caller has gone on."""
        unread = b"".join(row.packed for row in self.unread)
        length = min(len(unread), len(packed))
        if same(unread[:length], packed[:length]) and not (self._stranded() and self.rows):
            return True
        self.unread.clear()
        return False

    def send_again(self, row: Row) -> None:
        """Ask the server once more about the row that was cut off."""
        row.stage, row.resent, self.uncertain = Stage.SENT, True, None
        self.rows.appendleft(row)
        self.carrier.offer(row)

    def settled(self, row: Row) -> asyncio.Future[FloatArray]:
        """For whoever waits for a row again that its first caller gave up."""
        if row.done.done():
            row.done = row.done.get_loop().create_future()
            row.done.add_done_callback(_heard)
        return asyncio.shield(row.done)

    def read(self, packed: bytes) -> FloatArray:
        """Outputs [steps, O] of as much of `packed` as is unread, all of it answered by now."""
        unread, self.unread = self.unread, []
        outputs = np.concatenate([_table(row) for row in unread])
        features = b"".join(row.packed for row in unread)
        if len(packed) < len(features):
            rest = Row(self, features[len(packed) :], 0, unread[-1].done, 0.0)
            rest.stage = Stage.APPLIED
            taken = len(outputs) * len(packed) // len(features)
            outputs, rest.outputs = outputs[:taken], outputs[taken:]
            rest.steps = len(rest.outputs)
            self.unread = [rest]
        return outputs

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
