"""A course: one session's rows in their order, its count, and what became of rows given up.

Only one row of a session is on its way at a time, so that a refused one never leaves a gap behind
it. Pure bookkeeping between `Session`, which callers hold, and `Stream`, which carries the rows.
"""

from __future__ import annotations

import asyncio
import math
from asyncio import Future
from collections import deque
from enum import IntEnum
from itertools import takewhile
from typing import Protocol

import numpy as np

from tidegate import errors
from tidegate._stream.packing import same
from tidegate.errors import TidegateError
from tidegate.model import FloatArray

# With these the server says that the row was not applied, by an earlier attempt neither.
CERTAIN = (errors.BadInput, errors.MessageTooLarge, errors.SessionGone, errors.WrongStep)


class Stage(IntEnum):
    """How far a row has come."""

    WAITING = 0
    """Never sent: the server cannot have applied it."""
    SENT = 1
    """On its way, or to be sent again: applied, or not, or about to be."""
    CUT_OFF = 2
    """Sent over a connection that broke, and not to be sent again: nobody knows."""
    APPLIED = 3
    """Answered."""
    REFUSED = 4
    """Answered with an error: certainly not applied."""


class Row:
    """`steps` steps of one session, whose features are `packed` (f32, little-endian).

    `number` is the number of the first one, given when the row is sent. `done` is what its caller
    awaits; it is over before the row is when the caller gives up.
    """

    __slots__ = (
        "attempts",
        "call",
        "counted",
        "course",
        "done",
        "expiry",
        "number",
        "outputs",
        "packed",
        "resent",
        "stage",
        "steps",
    )

    def __init__(
        self, course: Course, packed: bytes, steps: int, done: Future[FloatArray], expiry: float
    ) -> None:
        self.course, self.packed, self.steps = course, packed, steps
        self.done, self.expiry = done, expiry
        self.number = 0
        self.attempts = 1
        self.stage = Stage.WAITING
        self.resent = False
        """Whether it went out before over a connection that broke, and may be applied already."""
        self.counted = False
        """Whether the server's count told that it was applied, while its outputs are not known."""
        self.outputs: FloatArray | None = None
        self.call: list[Row] | None = None
        """The rows of the same chunk, itself included, where it has several."""


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
        end = row.number + row.steps
        if end > self.number:  # not past where a row that is only read again once was
            self.number = end
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
        if row is None or row.counted:
            return
        if count == row.number + row.steps:
            self.number, row.counted = count, True
        else:
            row.stage = Stage.REFUSED
            if row in self.unread:
                self.unread.remove(row)

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

    def claim(self) -> list[Row]:
        """What is unread, for one caller alone, who either reads or returns it."""
        claimed, self.unread = self.unread, []
        return claimed

    def unclaim(self, claimed: list[Row]) -> None:
        """The caller gave up as well: what was not refused is unread again."""
        self.unread[:0] = [row for row in claimed if row.stage is not Stage.REFUSED]

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

    def read(self, claimed: list[Row], packed: bytes, width: int) -> FloatArray:
        """Outputs [steps, O] of as much of `packed` as was claimed and has been applied."""
        claimed = list(takewhile(lambda row: row.outputs is not None, claimed))
        outputs = np.concatenate([np.empty((0, width), np.float32), *map(_table, claimed)])
        features = b"".join(row.packed for row in claimed)
        if len(packed) < len(features):
            rest = Row(self, features[len(packed) :], 0, claimed[-1].done, 0.0)
            rest.stage = Stage.APPLIED
            taken = len(outputs) * len(packed) // len(features)
            outputs, rest.outputs = outputs[:taken], outputs[taken:]
            rest.steps = len(rest.outputs)
            self.unread.insert(0, rest)
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
