"""A reply, read in columns: what became of each row of its message."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tidegate import errors
from tidegate._stream.message import Message
from tidegate._stream.packing import WIRE
from tidegate.errors import TidegateError
from tidegate.model import FloatArray
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.wire import FAILED


def plain(message: Message, reply: pb.StepBatchReply, width: int) -> FloatArray | None:
    """Outputs [rows, O] of the usual reply: single steps of sessions known, all applied."""
    if reply.errors or reply.opened or message.shares or message.lengths is not None:
        return None
    values = np.frombuffer(reply.outputs, WIRE)
    if reply.first_steps != message.first_steps or values.size != len(message.rows) * width:
        return None
    if reply.durable_steps and len(reply.durable_steps) != len(message.first_steps):
        return None
    # A copy, since what protobuf gives cannot be written to.
    return values.astype(np.float32).reshape(-1, width)


def durable_steps(reply: pb.StepBatchReply) -> NDArray[np.int64] | None:
    """The first step of each row's session that is not stored yet; None without a store.

    Raises:
        Internal: the column is no column.
    """
    if not reply.durable_steps:
        return None
    if len(reply.durable_steps) % 8:
        raise errors.Internal("the server told half a durable step")
    return np.frombuffer(reply.durable_steps, "<i8")


def row_errors(reply: pb.StepBatchReply) -> dict[int, TidegateError]:
    """Why rows failed, by row: an error of its own for each, also where they share an entry.

    Raises:
        Internal: the entries name rows that the reply has not.
    """
    found: dict[int, TidegateError] = {}
    numbers = np.frombuffer(reply.first_steps, "<u8")
    for each in reply.errors:
        found[each.row] = errors.from_detail(each.error)
        also = np.frombuffer(each.also, "<u4")
        if len(also) and also.max() >= len(numbers):
            raise errors.Internal(f"the server gave a reason to row {also.max()}, which is none")
        for row in also.tolist():
            found[row] = errors.from_detail(_alike(each.error, int(numbers[row])))
    return found


def _alike(detail: pb.ErrorDetail, number: int) -> pb.ErrorDetail:
    """The same failure of another row, which expects `number` if it failed on its number."""
    if not detail.HasField("expected_step") or detail.expected_step == number:
        return detail
    other = pb.ErrorDetail()
    other.CopyFrom(detail)
    other.expected_step = number
    return other


class Answers:
    """What became of a message's rows.

    Raises:
        Internal: the reply does not fit the message.
    """

    def __init__(self, message: Message, reply: pb.StepBatchReply, width: int) -> None:
        self.status = np.frombuffer(reply.status, np.uint8)
        self.errors = row_errors(reply)
        self._lengths = message.lengths
        values = np.frombuffer(reply.outputs, WIRE)
        expected = self._good_steps() * width
        if 8 * len(self.status) != len(message.first_steps) or values.size != expected:
            raise errors.Internal(
                f"the server answered {len(self.status)} rows with {values.size} values to "
                f"{len(message.first_steps) // 8} rows that have {expected}"
            )
        if not self.errors and reply.first_steps != message.first_steps:
            raise errors.Internal("the server answered other steps than were asked for")
        self.durable = durable_steps(reply)
        if self.durable is not None and len(self.durable) != len(self.status):
            raise errors.Internal(
                f"the server told {len(self.durable)} durable steps of {len(self.status)} rows"
            )
        for row in np.flatnonzero(self.status == FAILED).tolist():
            if row not in self.errors:
                self.errors[row] = errors.Internal("the server gave no reason")
        self._values = values.astype(np.float32).reshape(-1, width)

    def __iter__(self) -> Iterator[FloatArray | TidegateError]:
        """Row after row, its outputs ([O] of a single step, else [steps, O]) or its error."""
        at = 0
        for row, length in enumerate(self._each_length()):
            if self.status[row] == FAILED:
                yield self.errors[row]
            else:
                yield self._values[at] if length == 1 else self._values[at : at + length]
                at += length

    def block(self, start: int, stop: int) -> tuple[FloatArray, NDArray[np.uint8]]:
        """Outputs of the good rows from `start` to before `stop`, and each one's status."""
        ends = np.concatenate(([0], np.cumsum(self._good_lengths())))
        return self._values[ends[start] : ends[stop]], self.status[start:stop]

    def _each_length(self) -> Sequence[int]:
        if self._lengths is None:
            return [1] * len(self.status)
        lengths: list[int] = self._lengths.tolist()
        return lengths

    def _good_lengths(self) -> NDArray[np.int64]:
        lengths = 1 if self._lengths is None else self._lengths[: len(self.status)]
        good: NDArray[np.int64] = (self.status != FAILED).astype(np.int64) * lengths
        return good

    def _good_steps(self) -> int:
        if self._lengths is not None and len(self._lengths) != len(self.status):
            return 0
        return int(self._good_lengths().sum())
