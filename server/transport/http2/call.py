"""One call: a request's messages as they come, its reply's as they may go (gRPC over HTTP/2).

All of it belongs to the loop's thread; `post` and `address` are for the others.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

import grpc

from server.api.errors import CODES, trailing, words
from server.errors import ServingError, TooManyBytes
from server.transport.http2 import frames, headers
from server.transport.http2.frames import Packed
from server.transport.http2.headers import Head, Metadata
from server.transport.http2.incoming import AGAIN, PREFIX, PREFIX_SIZE, Incoming, Then

if TYPE_CHECKING:
    from server.access.caller import Caller
    from server.scheduler.submission import Submission
    from server.transport.http2.connection import Connection
    from server.transport.http2.tally import Tally

log = logging.getLogger(__name__)

T = TypeVar("T")

CANCELLED: Final[int] = grpc.StatusCode.CANCELLED.value[0]
EXPIRED: Final[int] = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
BRIEF: Final = 0.005  # seconds to live, in which hardly anything is answered

_LAST = frames.END_HEADERS | frames.END_STREAM
# All of a head but the stream, which stands last in it.
_BEGINS = frames.head(frames.HEADERS, frames.END_HEADERS, 0, len(headers.BEGINNING))[:5]
_ENDS = frames.head(frames.HEADERS, _LAST, 0, len(headers.OK_ENDING))[:5]


class Call(Incoming):
    """One call. What is asked of a call that is over is not done, and its `then` never called."""

    __slots__ = (
        "_headed", "_tail", "began", "caller", "code", "deadline", "metadata", "method", "tally",
        "timeout", "unsent", "window",
    )  # fmt: skip

    def __init__(self, connection: Connection, stream: int, head: Head) -> None:
        Incoming.__init__(self, connection, stream, head)  # in half the time of super()'s
        self.method, self.metadata = head.method, head.metadata
        self.timeout = head.timeout
        """Seconds that its caller gave it, if any."""
        self.deadline = None if head.timeout is None else time.monotonic() + head.timeout
        self.caller: Caller | None = None
        """Whose it is, where callers have to say."""
        self.began = self.arrived
        """When its headers arrived."""
        self.code = 0
        """How it ends, as gRPC's status codes have it."""
        self.tally: Tally | None = None
        """Where its end is counted."""
        self.window = connection.first_window
        """Bytes that may be sent of it; the connection has a window of its own."""
        self._headed = False
        self.unsent: deque[tuple[memoryview, Then | None]] = deque()
        """What waits for room."""
        self._tail: bytes | None = None  # the end, which waits for what is unsent

    @property
    def remaining(self) -> float | None:
        """Seconds until its deadline, if it has one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

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
        if self._holding is not None:
            self._holding.answered()
            self._weigh()
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
            if size > connection.room(self) and connection.budget.full(connection, size):
                self.reject(TooManyBytes(AGAIN))  # which would stay here until it is read
                return
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

    def resume(self) -> None:
        """There may be room to send more."""
        while self.unsent and not self.over and (room := self.connection.room(self)) > 0:
            piece, then = self.unsent.popleft()
            if len(piece) > room:
                self.unsent.appendleft((_apart(piece[room:]), then))
                piece, then = piece[:room], None
            holding = self._held()
            holding.owed -= len(piece)
            holding.moved = self.connection.heard
            self._frame(piece, then)
        if self.over:
            return
        if self._tail is not None and not self.unsent:
            self.connection.write(self._tail)
            self._finish()
        else:
            self._weigh()

    def expire(self) -> None:
        """Its deadline has passed: that of a call that is over, too."""
        if not self.over and self.timeout is not None and self.timeout < BRIEF:
            self.connection.tire()
        self.give_up(EXPIRED, "Deadline Exceeded")

    def give_up(self, code: int, words: str) -> None:
        """End the call whatever it has to send, and tell who watches it."""
        if not self.over:
            self._clear_unsent()
            then = self._on_cancel
            self.end(code, words)
            _tell(then)

    def reject(self, error: ServingError) -> None:
        """As `refuse`, at once, for want of room; and tell who watches the call."""
        if not self.over:
            self._clear_unsent()
            then = self._on_cancel
            self.refuse(error)
            self.connection.loop.turned_down(error)
            _tell(then)

    def _clear_unsent(self) -> None:
        self.unsent.clear()
        self._tail = None

    @property
    def moved(self) -> float:
        """When something of what waits to be sent left last, or the first of it came."""
        return self._held().moved

    def cancelled(self) -> None:
        """The caller has given it up, or is gone."""
        if not self.over:
            self._ended, then, self.code = True, self._on_cancel, CANCELLED
            self._finish()
            _tell(then)

    def _begin(self) -> None:
        if not self._headed:
            self._headed = True
            stream = frames.NUMBER.pack(self.stream)
            self.connection.write(_BEGINS + stream + headers.BEGINNING)

    def _put(self, data: Packed, then: Then | None) -> None:
        size = len(data)
        if not self.unsent and size <= self.connection.room(self):
            self._frame(data, then)
            return
        self._held().owe(size)
        self.unsent.append((memoryview(data), then))
        self.resume()
        if self.unsent:
            self.connection.stalled(self)

    def _frame(self, piece: Packed, then: Then | None) -> None:
        """Send as much as is known to have room."""
        whole, connection = len(piece), self.connection
        self.window -= whole
        connection.window -= whole
        if whole <= frames.DEFAULT_FRAME_SIZE:  # a copy, or it would hold more than it is
            connection.write(frames.head(frames.DATA, 0, self.stream, whole) + piece, then)
            return
        view, largest = memoryview(piece), connection.largest_frame
        parts: list[Packed] = []
        for at in range(0, whole, largest):
            size = min(largest, whole - at)
            parts.append(frames.head(frames.DATA, 0, self.stream, size))
            parts.append(view[at : at + size])
        connection.write_all(parts, then)

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
        if self._holding is not None:
            self._holding.end()


def _apart(left: memoryview) -> memoryview:
    """What is left of a piece, without that of which it is but a small part."""
    return memoryview(bytes(left)) if 4 * len(left) < held_by(left) else left


def held_by(piece: Packed) -> int:
    """Bytes that are there as long as a piece is."""
    return memoryview(piece.obj).nbytes if isinstance(piece, memoryview) else len(piece)


def _tell(then: Then | None) -> None:
    if then is not None:
        try:
            then()
        except Exception:
            log.exception("a cancelled call could not be cleared away")
