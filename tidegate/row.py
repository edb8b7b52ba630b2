"""A row: steps of one session that travel together, and the future that answers them."""

from __future__ import annotations

from asyncio import Future
from enum import IntEnum
from typing import TYPE_CHECKING

from tidegate.packing import FloatArray

if TYPE_CHECKING:
    from tidegate.track import Track


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
        "done",
        "expiry",
        "number",
        "outputs",
        "packed",
        "resent",
        "stage",
        "steps",
        "track",
    )

    def __init__(
        self, track: Track, packed: bytes, steps: int, done: Future[FloatArray], expiry: float
    ) -> None:
        self.track, self.packed, self.steps = track, packed, steps
        self.done, self.expiry = done, expiry
        self.number = 0
        self.attempts = 1
        self.stage = Stage.WAITING
        self.resent = False
        """Whether it went out before over a connection that broke, and may be applied already."""
        self.outputs: FloatArray | None = None
        self.call: list[Row] | None = None
        """The rows of the same chunk, itself included, where it has several."""
