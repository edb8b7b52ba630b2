"""A row: some steps of one session, from the caller who awaits them to the wire and back.

`Course` puts rows in order, `Outbox` takes them into messages, `Settler` gives them their outcome.
"""

from __future__ import annotations

from asyncio import Future
from enum import IntEnum
from typing import TYPE_CHECKING

from tidegate import errors
from tidegate.model import FloatArray

if TYPE_CHECKING:
    from tidegate._stream.course import Course

# With these the server says that the row was not applied, by an earlier attempt neither.
CERTAIN = (
    errors.BadInput,
    errors.BadRecord,
    errors.MessageTooLarge,
    errors.SessionGone,
    errors.WrongStep,
)


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
    """`steps` steps of one session, whose features are `packed` (f32, little-endian). One of no
    steps only makes sure that the server has all that was applied.

    `number` is the number of the first one, given when the row is sent. `done` is what its caller
    awaits; it is over before the row is when the caller gives up.
    """

    __slots__ = (
        "attempts",
        "before",
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
        """Whether the number stands: the server's count told that the row was applied, while its
        outputs are not known, or the row goes again before another."""
        self.before: Row | None = None
        """For steps that were applied, and lost in a crash: the row that waits until they are
        applied again. Nobody waits for their outputs."""
        self.outputs: FloatArray | None = None
        self.call: list[Row] | None = None
        """The rows of the same chunk, itself included, where it has several."""
