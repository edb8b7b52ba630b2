"""What travels together: rows of sessions, shares of blocks, and the short names of their sessions.

Encoded in columns, never a step at a time; `docs/protocol.md` describes the bytes, and `replies`
reads what comes back.
"""

from __future__ import annotations

import struct
from asyncio import Future
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tidegate import wire
from tidegate._stream import packing
from tidegate._stream.packing import WIRE
from tidegate._stream.rows import Row
from tidegate.errors import TidegateError
from tidegate.model import FloatArray, ManySteps
from tidegate.v1 import tidegate_pb2 as pb


class LaneNames:
    """Which small number names which session of one model version, on the client's side.

    When all lanes are taken, the longest unused is named anew. A lane keeps its session over
    reconnections; what is forgotten is that the server knows it.
    """

    def __init__(self, limit: int = wire.MAX_LANES) -> None:
        self._limit = limit
        self.names: list[str] = []
        self.known = bytearray(64)
        """Which lanes the server knows on the present connection: 1 or 0."""
        self._by_name: dict[str, int] = {}
        self._free: list[int] = []

    @property
    def crowded(self) -> bool:
        """Whether lanes may be named anew soon, so that each use must be told to `lane`."""
        return len(self.names) > self._limit // 2

    def lane(self, session_id: str) -> int:
        """The session's lane, a new one if it has none."""
        lane = self._by_name.get(session_id)
        if lane is not None and self.crowded:
            self._by_name[session_id] = self._by_name.pop(session_id)  # the latest used comes last
        if lane is None:
            lane = self._place()
            self.names[lane] = session_id
            self._by_name[session_id] = lane
        return lane

    def release(self, session_id: str) -> None:
        """The session is over: its lane may name another."""
        lane = self._by_name.pop(session_id, None)
        if lane is not None:
            self.names[lane], self.known[lane] = "", 0
            self._free.append(lane)

    def forget(self) -> None:
        """A new connection: the server knows no lane."""
        self.known = bytearray(len(self.known))

    def ask(self, lane: int) -> None:
        """Name the lane again with its next use: its session's count stands in the answer."""
        self.known[lane] = 0

    def name(self, lanes: Sequence[int]) -> list[int]:
        """Those of `lanes` that the server must be told of, and from now on knows."""
        known = self.known
        unknown = list(dict.fromkeys([lane for lane in lanes if not known[lane]]))
        for lane in unknown:
            known[lane] = 1
        return unknown

    def _place(self) -> int:
        if self._free:
            return self._free.pop()
        if len(self.names) == self._limit:
            self.release(next(iter(self._by_name)))
            return self._free.pop()
        lane = len(self.names)
        self.names.append("")
        if lane == len(self.known):
            self.known.extend(bytes(lane))
        return lane


class Block:
    """The steps of `session_ids`: features [N, T, I], numbered from `first_steps`.

    Raises:
        BadInput: numbers that are none. An id that is none is its row's error.
    """

    def __init__(
        self,
        session_ids: Sequence[str],
        first_steps: ArrayLike,
        features: FloatArray,
        width: int,
        create: bool,
        done: Future[ManySteps],
        expiry: float,
    ) -> None:
        self.session_ids, self.features = session_ids, features.copy()
        self.create, self.done, self.expiry = create, done, expiry
        self.flat = False
        """Whether the caller gave single steps, [N, I], and is answered likewise."""
        self.first_steps = packing.step_numbers(first_steps, len(self.session_ids))
        count = len(self.session_ids)
        self.steps, self.inputs = int(features.shape[1]), int(features.shape[2])
        self.outputs = np.full((count, self.steps, width), np.nan, dtype=np.float32)
        self.remembered = np.zeros(count, dtype=np.bool_)
        self.durable = np.zeros(count, dtype=np.int64)
        self.errors = packing.bad_ids(self.session_ids)
        self._left = count - len(self.errors)

    def shares(self) -> Iterator[Share]:
        """The rows that may travel, as they stand next to each other."""
        start = 0
        for stop in [*sorted(self.errors), len(self.session_ids)]:
            if start < stop:
                yield Share(self, start, stop)
            start = stop + 1

    def part(self, rows: Sequence[int]) -> Block:
        """Some of the rows, as a block of their own."""
        at = np.array(rows, dtype=np.intp)
        ids, width = [self.session_ids[row] for row in rows], self.outputs.shape[-1]
        done = self.done.get_loop().create_future()
        return Block(
            ids, self.first_steps[at], self.features[at], width, self.create, done, self.expiry
        )

    def take(self, rows: Sequence[int], outcome: ManySteps | TidegateError) -> None:
        """What became of the rows that went as a block of their own."""
        if isinstance(outcome, TidegateError):
            self.errors |= dict.fromkeys(rows, outcome)
            return
        at = np.array(rows, dtype=np.intp)
        self.outputs[at], self.remembered[at] = outcome.outputs, outcome.remembered
        self.durable[at] = outcome.durable
        self.errors |= {rows[row]: error for row, error in outcome.errors.items()}

    def expire(self, now: float, error: TidegateError) -> None:
        """End the caller's waiting, if its time is over."""
        if self.expiry <= now and not self.done.done():
            self.done.set_exception(error)

    def finish(self, rows: int) -> None:
        """So many more rows have their outcome; the last one answers the caller."""
        self._left -= rows
        if self._left == 0 and not self.done.done():
            self.done.set_result(self.answer())

    def answer(self) -> ManySteps:
        """What is known of every row."""
        outputs = self.outputs[:, 0] if self.flat else self.outputs
        return ManySteps(outputs, self.remembered, self.errors, self.durable)


@dataclass
class Share:
    """Rows `start` to before `stop` of a block, which travel together."""

    owner: Block
    start: int
    stop: int
    attempts: int = 1
    over: bool = False
    """Whether every row has its outcome, or goes on in another share."""

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def steps(self) -> int:
        """Steps in all rows."""
        return len(self) * self.owner.steps

    @property
    def size(self) -> int:
        """Bytes of features."""
        return self.steps * self.owner.inputs * WIRE.itemsize

    @property
    def packed(self) -> bytes:
        """The features as they travel."""
        return self.owner.features[self.start : self.stop].tobytes()

    @property
    def first_steps(self) -> bytes:
        """The rows' numbers as they travel."""
        return self.owner.first_steps[self.start : self.stop].tobytes()

    @property
    def lengths(self) -> NDArray[np.uint32]:
        """Steps in each row."""
        return np.full(len(self), self.owner.steps, dtype="<u4")

    def lanes(self, lanes: LaneNames) -> list[int]:
        """The rows' lanes."""
        return [lanes.lane(name) for name in self.owner.session_ids[self.start : self.stop]]

    def opens(self, row: int) -> bool:
        """Whether a session is to be opened for the row, now that the one its lane named has
        ended: it begins at step 0."""
        first = self.owner.first_steps[self.start + row] == 0
        return self.owner.create and self.attempts == 1 and bool(first)

    def split(self) -> tuple[Share, Share]:
        """Two halves."""
        middle = (self.start + self.stop) // 2
        return (
            Share(self.owner, self.start, middle, self.attempts),
            Share(self.owner, middle, self.stop, self.attempts),
        )

    def answered(
        self,
        outputs: FloatArray,
        status: NDArray[np.uint8],
        failed: dict[int, TidegateError],
        again: Sequence[Share],
    ) -> None:
        """Outputs [steps of the good rows, O], a status a row, and errors by row of this share;
        rows in `again` have no outcome yet."""
        block, good = self.owner, status != wire.FAILED
        at = np.flatnonzero(good) + self.start
        block.outputs[at] = outputs.reshape(len(at), block.steps, outputs.shape[-1])
        block.remembered[self.start : self.stop] = status == wire.REMEMBERED
        block.errors |= {self.start + row: error for row, error in failed.items()}
        self.over = True
        block.finish(len(self) - sum(map(len, again)))

    def failed(self, error: TidegateError) -> None:
        """None of the rows has an answer, and none will come."""
        if self.over:
            return
        self.over = True
        self.owner.errors |= dict.fromkeys(range(self.start, self.stop), error)
        self.owner.finish(len(self))


@dataclass
class Message:
    """One `StepBatch` under way: first the rows, then the shares of blocks, row after row.

    `probes` are rows that wait for their session's count, which naming their lane tells.
    """

    rows: list[Row] = field(default_factory=list)
    shares: list[Share] = field(default_factory=list)
    probes: list[Row] = field(default_factory=list)
    steps: int = 0
    size: int = 0
    """Bytes of features."""
    expiry: float = 0.0
    """When the last caller stops to wait."""
    opens: dict[int, str] = field(default_factory=dict)
    """The lanes named in it, and the session that each named then."""
    first_steps: bytes = b""
    lengths: NDArray[np.uint32] | None = None

    def add(self, row: Row) -> None:
        """Take a row along."""
        self.rows.append(row)
        self.steps += row.steps
        self.size += len(row.packed)
        if row.expiry > self.expiry:
            self.expiry = row.expiry

    def add_share(self, share: Share) -> None:
        """Take a share along."""
        self.shares.append(share)
        self.steps += share.steps
        self.size += share.size
        self.expiry = max(self.expiry, share.owner.expiry)

    def encode(self, number: int, lanes: LaneNames) -> pb.StepBatch:
        """The message as it travels; lanes that the server does not know are named in it."""
        named = [row.course.lane for row in self.rows]
        created: set[int] = set()
        for share in self.shares:
            named += (shared := share.lanes(lanes))
            if share.owner.create:
                created.update(shared)
        for row in self.probes:
            lanes.ask(row.course.lane)
        unknown = lanes.name(named + [row.course.lane for row in self.probes])
        self.opens = {lane: lanes.names[lane] for lane in unknown}
        self.first_steps = self._first_steps()
        self.lengths = self._lengths(len(named))
        return pb.StepBatch(
            id=number,
            opens=[
                pb.LaneOpen(lane=lane, session_id=session_id, create=lane in created)
                for lane, session_id in self.opens.items()
            ],
            lanes=struct.pack(f"<{len(named)}I", *named),
            first_steps=self.first_steps,
            lengths=b"" if self.lengths is None else self.lengths.tobytes(),
            features=b"".join([row.packed for row in self.rows] + [p.packed for p in self.shares]),
        )

    def _first_steps(self) -> bytes:
        numbers = struct.pack(f"<{len(self.rows)}Q", *[row.number for row in self.rows])
        return b"".join([numbers, *(share.first_steps for share in self.shares)])

    def _lengths(self, rows: int) -> NDArray[np.uint32] | None:
        if self.steps == rows:
            return None
        lengths = [np.array([row.steps for row in self.rows], dtype="<u4")]
        return np.concatenate(lengths + [share.lengths for share in self.shares])
