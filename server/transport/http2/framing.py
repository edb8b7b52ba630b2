"""What comes in of a connection: bytes to frames (RFC 9113), and no more of them than a peer may
ask for; `Connection` says what becomes of each."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from server.transport.http2 import frames
from server.transport.http2.frames import ConnectionFault
from server.transport.http2.incoming import Incoming
from server.transport.http2.outgoing import Outgoing
from server.transport.http2.sockets import Socket

if TYPE_CHECKING:
    from server.transport.http2.loop import Loop

log = logging.getLogger(__name__)

READ: Final = 262_144  # bytes taken from a socket in a turn
SMALL: Final = 4_096  # bytes up to which a copy costs less than a view
BURST, PER_SECOND = 2_000, 1_000
"""Frames that ask for work and bring none (pings, resets, settings; tiny pieces count in part): so
many at once, then so many a second. A connection that sends more is not read meanwhile."""
PAUSE: Final = 0.05  # seconds
TURN: Final = 0.002  # seconds of the processor's time after which others have their turn
TURN_FRAMES: Final = 16  # between two looks at the clock


class Framing(Outgoing):
    """A peer, as far as its frames are told apart. Used by the loop's thread alone."""

    _kinds: dict[int, Callable[[int, int, Any], None]]
    """What takes frames in, by their kind: their stream, flags and payload."""

    def __init__(self, loop: Loop, wire: Socket) -> None:
        super().__init__(loop, wire)
        self.greeted = False
        """Whether the peer speaks HTTP/2."""
        self.pinged = 0.0
        """When it was asked whether it is there, if it has not answered."""
        self._rest = b""  # a frame that has not come whole
        self._last = 0  # the latest stream that the peer has begun
        self._unheard = READ  # bytes that are still taken once it is closing
        self._block: tuple[int, int, bytearray] | None = None  # headers that go on
        self._viewing: dict[Incoming, int] = {}  # of the bytes at hand, what calls keep views of
        self._put_by = 0  # bytes of `_rest` and headers that are held
        self._tokens, self._filled = float(BURST), self.heard

    def take(self, come: bytes) -> None:
        """Bytes have come; none is their end."""
        if not come or (self._closing and self._has_heard(len(come))):
            self.close()
            return
        if self._closing:
            return
        self.heard, self.pinged = time.monotonic(), 0.0
        self.take_in(self._rest + come if self._rest else come)

    def _has_heard(self, size: int) -> bool:
        """It is told why it is let go, but not for as long as it talks on."""
        self._unheard -= size
        return self._unheard < 0

    def take_in(self, come: bytes) -> None:
        """Take in all whole frames."""
        self._rest = b""
        try:
            if not self.greeted:
                come = self._preface(come)
            self._rest = self._frames(come)
            if self._viewing:
                self._part_from(come)
        except ConnectionFault as fault:
            self.fault(fault)

    def go_on(self) -> None:
        """Read again, after a pause."""
        self.paused = False
        if not self.over:
            self._put_aside(0)
            self.take_in(self._rest)
            self.loop.watch(self)

    def _preface(self, come: bytes) -> bytes:
        whole = len(frames.PREFACE)
        if come[:whole] != frames.PREFACE[: len(come)]:
            self.why = "greeting"
            raise ConnectionFault(frames.PROTOCOL_ERROR, "not HTTP/2")
        if len(come) < whole:
            self._rest = come
            return b""
        self.greeted = True
        return come[whole:]

    def _frames(self, come: bytes) -> bytes:
        """What is left: the beginning of a frame."""
        if not self.greeted:
            return self._rest
        at, end, kinds = 0, len(come), self._kinds
        look_in, until = TURN_FRAMES, 0.0
        while end - at >= frames.HEAD_SIZE and not (self.over or self._closing):
            high, low, kind, flags, stream = frames.HEAD.unpack_from(come, at)
            size = high << 8 | low
            if size > frames.DEFAULT_FRAME_SIZE:
                raise ConnectionFault(frames.FRAME_SIZE_ERROR, f"a frame of {size} bytes")
            start = at + frames.HEAD_SIZE
            if start + size > end or (self._tokens < 0 and self._throttled()):
                break
            look_in -= 1
            if not look_in:
                look_in, used = TURN_FRAMES, time.thread_time()
                until = until or used + TURN
                if used > until:
                    self._pause()
                    self.loop.behind(self.go_on)
                    break
            at = start + size
            take = kinds.get(kind, self._on_other)
            if self._block is not None and kind != frames.CONTINUATION:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "headers that do not go on")
            # A large piece of a message is not copied before the message is whole.
            large = size > SMALL and kind == frames.DATA
            payload = memoryview(come)[start:at] if large else come[start:at]
            take(stream & frames.LAST_STREAM, flags, payload)
        left = come[at:] if at else come
        if self.paused:
            self._put_aside(len(left))
        return left

    def _put_aside(self, size: int) -> None:
        """So much of what has come waits. Raises ConnectionFault: it is a flood, without room."""
        more = size - self._put_by
        if more < 0:
            self.budget.give(self, -more)
        elif more:
            if self._tokens < 0 and self.budget.full(self, more):
                raise ConnectionFault(frames.ENHANCE_YOUR_CALM, "too much while others wait")
            self.budget.charge(self, more)
        self._put_by = size

    def is_viewed_by(self, call: Incoming, size: int) -> None:
        """A call keeps a view of the bytes at hand."""
        self._viewing[call] = self._viewing.get(call, 0) + size

    def _part_from(self, come: bytes) -> None:
        """Bytes of which only a small part is kept are not kept for that."""
        if 2 * sum(self._viewing.values()) < len(come):
            for call in self._viewing:
                call.own_parts(come)
        self._viewing.clear()

    def _throttled(self) -> bool:
        """Whether the peer has to wait."""
        now = time.monotonic()
        self._tokens = min(float(BURST), self._tokens + (now - self._filled) * PER_SECOND)
        self._filled = now
        if self._tokens < 0:
            self.loop.throttled += 1
            self._pause()
            self.loop.timers.at(now + PAUSE, self.go_on)
        return self.paused

    def _pause(self) -> None:
        self.paused = True
        self.loop.watch(self)

    def _on_other(self, stream: int, flags: int, payload: bytes) -> None:
        """Frames of other kinds are to be ignored."""
        self._tokens -= 1

    def tire(self, weight: float = 1.0) -> None:
        """It asks for what there is none of, or not in HTTP's ways: so many at once, and so many a
        second."""
        self._tokens -= weight

    def fault(self, fault: ConnectionFault) -> None:
        """Close the connection, saying why."""
        log.info("a connection is closed: %s", fault.words)
        if self.why == "peer":
            self.why = "flood" if fault.code == frames.ENHANCE_YOUR_CALM else "protocol"
        self.write(frames.goaway(self._last, fault.code, fault.words))
        self._closing, self.pinged, self._rest = True, time.monotonic(), b""
        self._put_aside(0)
        self._cancel_all()

    def close(self) -> None:
        """As `Outgoing`."""
        self._put_aside(0)
        super().close()
