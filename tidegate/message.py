"""A message: what travels together, encoded and decoded in columns, never a step at a time.

`docs/protocol.md` describes the bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tidegate import errors
from tidegate.block import Part
from tidegate.errors import TidegateError
from tidegate.lanes import Lanes
from tidegate.packing import WIRE, FloatArray
from tidegate.row import Row
from tidegate.v1 import tidegate_pb2 as pb

FAILED = 2


@dataclass
class Message:
    """One `StepBatch` under way: first the rows, then the parts of blocks, row after row.

    `probes` are rows that wait for their session's count, which naming their lane tells.
    """

    rows: list[Row] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    probes: list[Row] = field(default_factory=list)
    steps: int = 0
    size: int = 0
    """Bytes of features."""
    expiry: float = 0.0
    """When the last caller stops to wait."""
    opens: list[int] = field(default_factory=list)
    first_steps: bytes = b""
    lengths: NDArray[np.uint32] | None = None

    def add(self, row: Row) -> None:
        """Take a row along."""
        self.rows.append(row)
        self.steps += row.steps
        self.size += len(row.packed)
        if row.expiry > self.expiry:
            self.expiry = row.expiry

    def add_part(self, part: Part) -> None:
        """Take a part along."""
        self.parts.append(part)
        self.steps += part.steps
        self.size += part.size
        self.expiry = max(self.expiry, part.owner.expiry)

    def encode(self, number: int, lanes: Lanes) -> pb.StepBatch:
        """The message as it travels; lanes that the server does not know are named in it."""
        named = [row.track.lane for row in self.rows]
        for part in self.parts:
            named += part.lanes(lanes)
        self.opens = lanes.name(named + [row.track.lane for row in self.probes])
        self.first_steps = self._first_steps()
        self.lengths = self._lengths(len(named))
        return pb.StepBatch(
            id=number,
            opens=[
                pb.LaneOpen(lane=lane, session_id=lanes.names[lane], create=lanes.creates[lane])
                for lane in self.opens
            ],
            lanes=struct.pack(f"<{len(named)}I", *named),
            first_steps=self.first_steps,
            lengths=b"" if self.lengths is None else self.lengths.tobytes(),
            features=b"".join([row.packed for row in self.rows] + [p.packed for p in self.parts]),
        )

    def _first_steps(self) -> bytes:
        numbers = struct.pack(f"<{len(self.rows)}Q", *[row.number for row in self.rows])
        return b"".join([numbers, *(part.first_steps for part in self.parts)])

    def _lengths(self, rows: int) -> NDArray[np.uint32] | None:
        if self.steps == rows:
            return None
        lengths = [np.array([row.steps for row in self.rows], dtype="<u4")]
        return np.concatenate(lengths + [part.lengths for part in self.parts])


def plain(message: Message, reply: pb.StepBatchReply, width: int) -> FloatArray | None:
    """Outputs [rows, O] of the usual reply: single steps of sessions known, all applied."""
    if reply.errors or reply.opened or message.parts or message.lengths is not None:
        return None
    values = np.frombuffer(reply.outputs, WIRE)
    if reply.first_steps != message.first_steps or values.size != len(message.rows) * width:
        return None
    # A copy, since what protobuf gives cannot be written to.
    return values.astype(np.float32).reshape(-1, width)


class Answers:
    """What became of a message's rows.

    Raises:
        Internal: the reply does not fit the message.
    """

    def __init__(self, message: Message, reply: pb.StepBatchReply, width: int) -> None:
        self.status = np.frombuffer(reply.status, np.uint8)
        self.errors = {each.row: errors.from_detail(each.error) for each in reply.errors}
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
        self._values = values.astype(np.float32).reshape(-1, width)

    def __iter__(self) -> Iterator[FloatArray | TidegateError]:
        """Row after row, its outputs ([O] of a single step, else [steps, O]) or its error."""
        at = 0
        for row, length in enumerate(self._each_length()):
            if self.status[row] == FAILED:
                yield self.errors.get(row) or errors.Internal("the server gave no reason")
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
