"""What a call's caller sends: bytes to messages, which are asked for one after the other."""

from __future__ import annotations

import logging
import struct
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import grpc

from server.errors import Internal, ServingError, TooManyBytes
from server.transport.http2 import frames
from server.transport.http2.frames import Packed
from server.transport.http2.headers import Head, Metadata
from server.transport.http2.holding import SMALL, Holding
from server.transport.http2.unpacking import Unpacking

if TYPE_CHECKING:
    from server.transport.http2.connection import Connection

log = logging.getLogger(__name__)

Take = Callable[["bytes | None"], object]
Then = Callable[[], object]

PREFIX: Final = struct.Struct(">BL")
"""Before a message: whether it is compressed, and its bytes."""
PREFIX_SIZE: Final = PREFIX.size
WINDOW: Final = 262_144
"""Bytes of a call that its caller may send before any is asked for."""
MEASURE: Final = 4
"""A message up to so many times the largest is let come before it is refused."""
STEP: Final = 65_536  # bytes of a message by which it is weighed while it comes
BOMB: Final = 4_096  # bytes unpacked in vain that are as bad as a frame that brings nothing
MOST_TIRED: Final = 200.0
USUAL: Final = 65_536
"""Bytes of a message that any method takes, if the largest of all is not smaller."""
ENTRY: Final = 64  # bytes that a message costs, besides its own, while it waits
AGAIN: Final = 0.5
"""Seconds after which a caller may try again that found no room."""
EXHAUSTED: Final[int] = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
INTERNAL: Final[int] = grpc.StatusCode.INTERNAL.value[0]


class Compressed(bytes):
    """A message that is to be unpacked."""


class Incoming(ABC):
    """A call, as far as its caller speaks."""

    __slots__ = (
        "_compressed", "_compression", "_dropped", "_due", "_ended", "_have", "_holding", "_inbox",
        "_on_cancel", "_parts", "_pumping", "_read_all", "_take", "_window", "arrived",
        "connection", "most", "over", "since", "stream", "streams",
    )  # fmt: skip

    def __init__(self, connection: Connection, stream: int, head: Head) -> None:
        self.connection, self.stream = connection, stream
        self.over = self.streams = self._dropped = self._read_all = self._pumping = False
        """Over: nothing more will be read of it, nor sent. Streams: it has any number of messages,
        and may wait for any as long as it likes."""
        self.since = connection.heard
        """When it began, or its present message did."""
        self.arrived = connection.loop.since
        """When its headers arrived, or the message that was handed over last."""
        self.most: Callable[[], int | None] | None = None
        """What tells the bytes of its largest message, `USUAL` or more, where they are fewer than
        those of the largest of all."""
        self._compression = head.compression
        self._take: Take | None = None
        self._on_cancel: Then | None = None
        self._inbox: deque[tuple[bytes, float]] = deque()
        self._parts: list[Packed] = []  # of the message that is coming
        self._have, self._due, self._compressed = 0, -1, 0  # bytes come; due, -1 before its prefix
        self._window = WINDOW
        self._ended = False  # whether the caller has said that no more comes
        self._holding: Holding | None = None

    @abstractmethod
    def end(self, code: int = 0, words: str = "", trailing: Metadata = ()) -> None:
        """End the call, once what was sent before has left."""

    @abstractmethod
    def refuse(self, error: ServingError) -> None:
        """End the call with an error, in words and in typed form."""

    @abstractmethod
    def reject(self, error: ServingError) -> None:
        """As `refuse`, at once, and tell who watches the call."""

    def receive(self, take: Take) -> None:
        """Have the next message; None where the caller has no more to say."""
        if not self.over:
            self._take = take
            if self._have:  # until now it was held back
                self.since = time.monotonic()
            if not self._pumping:
                self._pump()

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
        if self._is_whole(payload):
            self._inbox.append((bytes(payload[PREFIX_SIZE:]), self.connection.loop.since))
            self._pump()
            if self._holding is not None and not self.over:
                self._weigh()
            return
        had, due = self._have, self._due
        self._have = had + len(payload)
        if not self._dropped:  # or it is refused once it has come
            self._parts.append(payload)
        if self._have >= (PREFIX_SIZE if self._due < 0 else self._due):
            self._split()
        self._pump_or_end()
        if self._have or self._inbox or self._holding is not None:
            self._has_come(payload, had, due)

    def _is_whole(self, payload: Packed) -> bool:
        """Whether this is a message, all of it, and awaited, as nearly all small ones are."""
        if self._take is None or self._inbox or self._have or self._due >= 0 or self._dropped:
            return False
        size = len(payload) - PREFIX_SIZE
        if not 0 <= size <= self.connection.loop.usual_message:
            return False
        return PREFIX.unpack_from(payload) == (0, size)

    def _has_come(self, payload: Packed, had: int, due: int) -> None:
        """Something of it stays here for now."""
        if self.over:
            return
        if self._have and not had:
            self.since = self.connection.heard
        goes_on = due == self._due and had and had // STEP == self._have // STEP
        if not goes_on or self._inbox:
            self._weigh()
        if type(payload) is memoryview and self._parts:
            self.connection.is_viewed_by(self, len(payload))

    def no_more(self) -> None:
        """The caller has said all."""
        self._ended = True
        self._pump_or_end()

    def is_late(self, horizon: float) -> bool:
        """Whether a message has been awaited in whole since before then: any, of a unary call;
        one that has begun, of a stream."""
        if self.since >= horizon or self._take is None or not (self._have or not self.streams):
            return False
        return not self.connection.budget.waits(self)

    def go_on(self) -> bool:
        """There may be room for a message; whether there was, or nobody asks for one any more."""
        return self.over or self._take is None or self._ask()

    def own_parts(self, come: bytes) -> None:
        """Keep what is its own of bytes that came, and not all of them."""
        self._parts = [
            bytes(each) if isinstance(each, memoryview) and each.obj is come else each
            for each in self._parts
        ]

    def lend(self) -> None:
        """What it holds is held until `take_back`, though the call should end before."""
        self._held().lent = True

    def take_back(self) -> None:
        """As `lend`."""
        holding = self._held()
        holding.lent = False
        if holding.over:
            holding.end()

    def weigh_head(self, size: int) -> bool:
        """Its headers are not small; returns whether there was room for them."""
        return self._held().head(size)

    def _held(self) -> Holding:
        if self._holding is None:
            self._holding = Holding(self.connection.budget, self.connection)
        return self._holding

    def _pump_or_end(self) -> None:
        if self._ended and (self._have or self._due >= 0):
            self.end(INTERNAL, "the call ends within a message")
        else:
            self._pump()

    def _split(self) -> None:
        """Take whole messages out of what has come."""
        if self._dropped:
            self._refuse_dropped()
            return
        come = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        loop = self.connection.loop
        at, end, since = 0, len(come), loop.since
        while True:
            if self._due < 0:
                if end - at < PREFIX_SIZE:
                    break
                self._compressed, self._due = PREFIX.unpack_from(come, at)
                at += PREFIX_SIZE
            if end - at < self._due or self._too_large():
                break
            message = bytes(come[at : at + self._due])  # no copy of what is whole, and bytes
            at, self._due = at + self._due, -1
            self._inbox.append((Compressed(message) if self._compressed else message, since))
            if self._holding is not None:
                self._holding.admitted = 0
        self._have, self._parts = end - at, []
        if self._have:
            self._keep(come, at)
        if self._too_large():
            self._refuse_large()

    def _keep(self, come: Packed, at: int) -> None:
        """A message begins here, of which there is more to come."""
        left = memoryview(come)[at:]
        self._parts.append(left if 2 * at < len(come) else bytes(left))
        self.since = self.connection.heard

    def _too_large(self) -> bool:
        """Whether no message of its kind can be as large as the one that is coming."""
        return self._due > self.connection.loop.usual_message and self._due > self._largest()

    def _largest(self) -> int:
        largest = self.connection.loop.largest_message
        most = None if self.most is None else self.most()
        return largest if most is None else min(most, largest)

    def _refuse_large(self) -> None:
        """The message that is coming is too large. It is not kept, but the call is not ended before
        it has come, if it is not beyond all measure: a caller that writes would not learn why."""
        size, limit = self._due, self._largest()
        self._drop()
        if not self._have < size <= MEASURE * limit:
            self._refuse_dropped()

    def _drop(self) -> None:
        """Do not keep the message that is coming."""
        self._dropped = True
        self._parts.clear()

    def _refuse_dropped(self) -> None:
        size, limit = self._due, self._largest()
        if size > limit:
            self.end(EXHAUSTED, f"SERVER: Received message larger than max ({size} vs. {limit})")
        else:
            self.reject(TooManyBytes(AGAIN))
        self._stop_reading()

    def _pump(self) -> None:
        """Hand over messages as long as they are asked for."""
        self._pumping = True
        try:
            while self._take is not None and not self.over:
                if self._inbox:
                    message, self.arrived = self._inbox.popleft()
                    if type(message) is bytes:
                        self._hand_over(message)
                    else:
                        self._unpack(message)
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
        if message is not None and (self._holding is not None or len(message) > SMALL):
            self._held().serve(len(message), self.streams)
        try:
            take(message)
        except Exception:  # one call must not cost the others theirs
            log.exception("a call failed unexpectedly")
            self.refuse(Internal())

    def _unpack(self, message: bytes) -> None:
        """Hand over a compressed message, once it is unpacked."""
        take, self._take = self._take, None
        limit = self._largest()
        try:
            unpacking = Unpacking(message, self._compression, limit)
        except ValueError as error:
            self.end(INTERNAL, str(error))
            return
        assert take is not None
        self._unpack_on(unpacking, take)

    def _unpack_on(self, unpacking: Unpacking, take: Take) -> None:
        if self.over:
            return
        try:
            message = unpacking.go_on()
        except ValueError as error:
            self.end(INTERNAL, str(error))
        except OverflowError as error:
            self.connection.tire(min(unpacking.size / BOMB, MOST_TIRED))
            self.end(EXHAUSTED, str(error))
        else:
            if not self._weigh(unpacking.size):
                return
            if message is None:
                self.connection.loop.later(partial(self._unpack_on, unpacking, take))
                return
            self._take = take
            self._hand_over(message)
            if not self.over:
                self._weigh()

    def _ask(self) -> bool:
        """Let the caller send more, for somebody waits: the message that is coming, at least.
        Returns whether it may."""
        allowed = max(WINDOW, self._due) - self._have
        if self._window < max(allowed // 2, self._due - self._have):
            freely = self._due <= WINDOW and not self.connection.budget.pressed
            if not (freely or self._dropped or self._admit()):
                return False
            self.connection.write(frames.window_update(self.stream, allowed - self._window))
            self._window = allowed
        return True

    def _admit(self) -> bool:
        """Whether there is room for more than the caller may send unasked. A stream waits for it; a
        unary call is refused once its message has come."""
        budget, holding = self.connection.budget, self._held()
        if holding.admitted:
            return True
        if self._due > WINDOW:
            if holding.admit(self._due):
                self.since = time.monotonic()
                return True
            if not self.streams:
                self._drop()
                return True
        elif not self.streams or self.connection.held < budget.own:
            return True
        budget.wait(self)
        return False

    def _weigh(self, unpacked: int = 0) -> bool:
        """Take what it holds from the budget; False where there is no room for what comes, which is
        refused."""
        coming = 0 if self._dropped else min(-(-self._have // STEP) * STEP, max(self._due, STEP))
        if self._inbox:  # all that was sent ahead may be there yet
            coming = max(coming, WINDOW - self._window) + ENTRY * len(self._inbox)
        if self._held().weigh(coming + unpacked):
            return True
        if self._have and not (self._inbox or unpacked or self.streams):
            self._drop()
            self._weigh()
        else:
            self.reject(TooManyBytes(AGAIN))
        return False

    def _stop_reading(self) -> None:
        self._read_all = True
        self._parts.clear()
        self._inbox.clear()
        self._have, self._due = 0, -1
