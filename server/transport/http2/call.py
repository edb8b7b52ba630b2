"""One call: a request's messages as they come, its reply's as they may go (gRPC over HTTP/2).

All of it belongs to the loop's thread; `post` and `address` are for the others.
"""

from __future__ import annotations

import logging
import struct
import time
import zlib
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

import grpc

from server.api.errors import CODES, trailing, words
from server.errors import Internal, ServingError
from server.transport.http2 import frames, headers
from server.transport.http2.headers import Head, Metadata

if TYPE_CHECKING:
    from server.access.caller import Caller
    from server.scheduler.submission import Submission
    from server.transport.http2.connection import Connection
    from server.transport.http2.tally import Tally

log = logging.getLogger(__name__)

T = TypeVar("T")
Take = Callable[["bytes | None"], object]
Then = Callable[[], object]
Packed = bytes | memoryview

PREFIX: Final = struct.Struct(">BL")
"""Before a message: whether it is compressed, and its bytes."""
PREFIX_SIZE: Final = PREFIX.size
WINDOW: Final = 262_144
"""Bytes of a call that its caller may send before any is asked for."""
MEASURE: Final = 4
"""A message up to so many times the largest is let come before it is refused."""
CANCELLED: Final[int] = grpc.StatusCode.CANCELLED.value[0]
EXHAUSTED: Final[int] = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
EXPIRED: Final[int] = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
INTERNAL: Final[int] = grpc.StatusCode.INTERNAL.value[0]

_LAST = frames.END_HEADERS | frames.END_STREAM
# All of a head but the stream, which stands last in it.
_BEGINS = frames.head(frames.HEADERS, frames.END_HEADERS, 0, len(headers.BEGINNING))[:5]
_ENDS = frames.head(frames.HEADERS, _LAST, 0, len(headers.OK_ENDING))[:5]


class Call:
    """One call. What is asked of a call that is over is not done, and its `then` never called."""

    __slots__ = (
        "_compressed",
        "_compression",
        "_due",
        "_ended",
        "_have",
        "_headed",
        "_inbox",
        "_on_cancel",
        "_parts",
        "_pumping",
        "_read_all",
        "_tail",
        "_take",
        "_window",
        "arrived",
        "began",
        "caller",
        "code",
        "connection",
        "deadline",
        "metadata",
        "method",
        "over",
        "stream",
        "tally",
        "unsent",
        "window",
    )  # fmt: skip

    def __init__(self, connection: Connection, stream: int, head: Head) -> None:
        self.connection, self.stream = connection, stream
        self.method, self.metadata = head.method, head.metadata
        self.deadline = None if head.timeout is None else time.monotonic() + head.timeout
        self.caller: Caller | None = None
        """Whose it is, where callers have to say."""
        self.over = False
        """Nothing more will be read of it, nor sent."""
        self.began = self.arrived = connection.loop.since
        """When its headers arrived, and the message that was handed over last."""
        self.code = 0
        """How it ends, as gRPC's status codes have it."""
        self.tally: Tally | None = None
        """Where its end is counted."""
        self.window = connection.first_window
        """Bytes that may be sent of it; the connection has a window of its own."""
        self._compression = head.compression
        self._headed = self._read_all = self._pumping = False
        self._take: Take | None = None
        self._on_cancel: Then | None = None
        self._inbox: deque[tuple[bytes, float]] = deque()
        self._parts: list[Packed] = []  # of the message that is coming
        self._have, self._due, self._compressed = 0, -1, 0  # bytes come; due, -1 before its prefix
        self._window = WINDOW
        self.unsent: deque[tuple[memoryview, Then | None]] = deque()
        """What waits for room."""
        self._tail: bytes | None = None  # the end, which waits for what is unsent
        self._ended = False  # whether the caller has said that no more comes

    @property
    def remaining(self) -> float | None:
        """Seconds until its deadline, if it has one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def receive(self, take: Take) -> None:
        """Have the next message; None where the caller has no more to say."""
        if not self.over:
            self._take = take
            if not self._pumping:
                self._pump()

    def watch(self, then: Then) -> None:
        """Have `then` called should the caller give the call up, or its deadline pass."""
        self._on_cancel = then

    def post(self, work: Then) -> None:
        """Have `work` done by the loop's thread."""
        self.connection.loop.post(work)

    def address(self, deliver: Callable[[T], None]) -> Callable[[T], None]:
        """A function for any thread, which has `deliver` called in the loop's."""
        loop = self.connection.loop

        def post(what: T) -> None:
            if loop.is_here():
                deliver(what)
            else:
                loop.post(lambda: deliver(what))

        return post

    def send(self, *packed: Packed, then: Then | None = None) -> None:
        """Send a message of a stream, in pieces that stay as they are meanwhile; `then` once it has
        left."""
        if self.over or self._tail is not None:
            return
        self._begin()
        first, *others = packed
        prefix = PREFIX.pack(0, sum(map(len, packed)))
        self._put(prefix + first, None if others else then)
        for piece in others:
            self._put(piece, then if piece is others[-1] else None)

    def answer(self, packed: bytes, submission: Submission | None = None) -> None:
        """Send a unary call's message and end it, in one write. `submission` is what stepped it."""
        if self.over:
            return
        size, connection = len(packed) + PREFIX_SIZE, self.connection
        if self._headed or not connection.has_room(self, size):
            self.send(packed)
            self.end()
            return
        stream = frames.NUMBER.pack(self.stream)
        connection.window -= size
        connection.write(
            b"".join(
                (
                    _BEGINS,
                    stream,
                    headers.BEGINNING,
                    frames.head(frames.DATA, 0, self.stream, size),
                    PREFIX.pack(0, len(packed)),
                    packed,
                    _ENDS,
                    stream,
                    headers.OK_ENDING,
                )
            )
        )
        self._finish(submission)

    def end(self, code: int = 0, words: str = "", trailing: Metadata = ()) -> None:
        """End the call, once what was sent before has left."""
        if self.over or self._tail is not None:
            return
        block = headers.ending(code, words, trailing) if code else headers.OK_ENDING
        if not self._headed:
            block = headers.BEGINNING + block
        largest = self.connection.largest_frame
        tail = frames.headers(self.stream, block, frames.END_STREAM, largest)
        self._headed, self.code = True, code
        if self.unsent:
            self._tail = tail
        else:
            self.connection.write(tail)
            self._finish()

    def refuse(self, error: ServingError) -> None:
        """End the call with an error, in words and in typed form."""
        self.end(CODES[error.code], words(error), trailing(error))

    def data(self, payload: Packed, size: int, last: bool) -> None:
        """Bytes have come, in a frame of `size` bytes with its padding.

        Raises:
            StreamFault: more than were asked for, or after the last.
        """
        self._window -= size
        if self._window < 0:
            raise frames.StreamFault(frames.FLOW_CONTROL_ERROR, "more than the window")
        if self._ended:
            raise frames.StreamFault(frames.STREAM_CLOSED, "data after the end")
        self._ended = last
        if self._read_all:  # the end waits for what is unsent
            return
        self._have += len(payload)
        if self._due <= self.connection.loop.largest_message:  # others are refused once they came
            self._parts.append(payload)
        if self._have >= (PREFIX_SIZE if self._due < 0 else self._due):
            self._split()
        self._pump_or_end()

    def no_more(self) -> None:
        """The caller has said all."""
        self._ended = True
        self._pump_or_end()

    def _pump_or_end(self) -> None:
        if self._ended and (self._have or self._due >= 0):
            self.end(INTERNAL, "the call ends within a message")
        else:
            self._pump()

    def resume(self) -> None:
        """There may be room to send more."""
        while self.unsent and not self.over:
            piece, then = self.unsent[0]
            room = self.connection.room(self)
            if room <= 0:
                return
            self.unsent.popleft()
            if len(piece) > room:
                self.unsent.appendleft((piece[room:], then))
                piece, then = piece[:room], None
            self._frame(piece, then)
        if self._tail is not None and not self.over:
            self.connection.write(self._tail)
            self._finish()

    def expire(self) -> None:
        """Its deadline has passed."""
        if not self.over:
            self.unsent.clear()
            self._tail, then = None, self._on_cancel
            self.end(EXPIRED, "Deadline Exceeded")
            _tell(then)

    def cancelled(self) -> None:
        """The caller has given it up, or is gone."""
        if not self.over:
            self._ended, then, self.code = True, self._on_cancel, CANCELLED
            self._finish()
            _tell(then)

    def _split(self) -> None:
        """Take whole messages out of what has come."""
        if not self._parts:
            self._too_large()
            return
        come = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        loop = self.connection.loop
        at, end, largest, since = 0, len(come), loop.largest_message, loop.since
        while True:
            if self._due < 0:
                if end - at < PREFIX_SIZE:
                    break
                self._compressed, self._due = PREFIX.unpack_from(come, at)
                at += PREFIX_SIZE
            if end - at < self._due or self._due > largest:
                break
            message = bytes(come[at : at + self._due])  # no copy of what is whole, and bytes
            at, self._due = at + self._due, -1
            if self._compressed:
                self._unpack(message)
            else:
                self._inbox.append((message, since))
        self._parts = [memoryview(come)[at:]] if at < end else []
        self._have = end - at
        if self._due > largest:
            self._refuse_large()

    def _refuse_large(self) -> None:
        """The message that is coming is too large. It is not kept, but the call is not ended before
        it has come, if it is not beyond all measure: a caller that writes would not learn why."""
        size, limit = self._due, self.connection.loop.largest_message
        if self._have < size <= MEASURE * limit:
            self._parts.clear()
        else:
            self._too_large()

    def _too_large(self) -> None:
        size, limit = self._due, self.connection.loop.largest_message
        self.end(EXHAUSTED, f"SERVER: Received message larger than max ({size} vs. {limit})")
        self._stop_reading()

    def _unpack(self, message: bytes) -> None:
        limit = self.connection.loop.largest_message
        try:
            unpacked = _unpacked(message, self._compression, limit)
            self._inbox.append((unpacked, self.connection.loop.since))
        except ValueError as error:
            self.end(INTERNAL, str(error))
        except OverflowError as error:
            self.end(EXHAUSTED, str(error))

    def _pump(self) -> None:
        """Hand over messages as long as they are asked for."""
        self._pumping = True
        try:
            while self._take is not None and not self.over:
                if self._inbox:
                    message, self.arrived = self._inbox.popleft()
                    self._hand_over(message)
                elif self._ended:
                    self._hand_over(None)
                else:
                    self._ask()
                    return
        finally:
            self._pumping = False

    def _hand_over(self, message: bytes | None) -> None:
        take, self._take = self._take, None
        assert take is not None
        try:
            take(message)
        except Exception:  # one call must not cost the others theirs
            log.exception("a call failed unexpectedly")
            self.refuse(Internal())

    def _ask(self) -> None:
        """Let the caller send more, for somebody waits: the message that is coming, at least."""
        allowed = max(WINDOW, self._due) - self._have
        if self._window < max(allowed // 2, self._due - self._have):
            self.connection.write(frames.window_update(self.stream, allowed - self._window))
            self._window = allowed

    def _stop_reading(self) -> None:
        self._read_all = True
        self._parts.clear()
        self._inbox.clear()
        self._have, self._due = 0, -1

    def _begin(self) -> None:
        if not self._headed:
            self._headed = True
            stream = frames.NUMBER.pack(self.stream)
            self.connection.write(_BEGINS + stream + headers.BEGINNING)

    def _put(self, data: Packed, then: Then | None) -> None:
        size = len(data)
        if not self.unsent and self.connection.has_room(self, size):
            self.window -= size
            self.connection.window -= size
            head = frames.head(frames.DATA, 0, self.stream, size)
            self.connection.write(head + data, then)
            return
        self.unsent.append((memoryview(data), then))
        self.resume()
        if self.unsent:
            self.connection.stalled(self)

    def _frame(self, piece: memoryview, then: Then | None) -> None:
        """Send as much as is known to have room."""
        self.window -= len(piece)
        self.connection.window -= len(piece)
        largest = self.connection.largest_frame
        for at in range(0, len(piece), largest):
            part = piece[at : at + largest]
            size = len(part)
            head = frames.head(frames.DATA, 0, self.stream, size)
            self.connection.write(head)
            self.connection.write(part, then if at + size == len(piece) else None)

    def _finish(self, submission: Submission | None = None) -> None:
        """The call is over; a caller that was not through is told to stop."""
        self.over = True
        if (tally := self.tally) is not None:
            since = self.began if tally.streams else self.arrived
            tally.add(self, since, self.code, submission, 1)
        self._take = self._on_cancel = None  # or it would go round in circles, for the collector
        self._stop_reading()
        self.unsent.clear()
        self.connection.forget(self, self._ended)


def _tell(then: Then | None) -> None:
    if then is not None:
        try:
            then()
        except Exception:
            log.exception("a cancelled call could not be cleared away")


def _unpacked(message: bytes, compression: str, limit: int) -> bytes:
    """A compressed message.

    Raises:
        ValueError: it is not compressed as the call's headers say.
        OverflowError: it would be larger than the limit.
    """
    if compression not in ("gzip", "deflate"):
        raise ValueError("a compressed message in a call whose headers name no compression")
    unpacker = zlib.decompressobj(31 if compression == "gzip" else 15)
    try:
        unpacked = unpacker.decompress(message, limit + 1)
    except zlib.error as error:
        raise ValueError(f"a message cannot be unpacked: {error}") from error
    if len(unpacked) > limit:
        raise OverflowError(f"a message unfolds to more than {limit} bytes")
    if not unpacker.eof:
        raise ValueError("a compressed message is cut off")
    return unpacked
