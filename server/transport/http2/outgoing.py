"""What goes out of a connection: calls' frames, within their windows, to bytes on its socket."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from server.transport.http2 import frames
from server.transport.http2.call import Call, held_by
from server.transport.http2.frames import Packed
from server.transport.http2.incoming import EXHAUSTED, Then
from server.transport.http2.sockets import Socket

if TYPE_CHECKING:
    from server.transport.http2.loop import Loop

log = logging.getLogger(__name__)

PIECES: Final = 512  # buffers handed to a socket in one write
BACKLOG: Final = 4 * 2**20  # unsent bytes above which nothing more is read of the peer
SHORT: Final = 65_536  # likewise, while there is little room for anybody


class Outgoing(ABC):
    """A peer, as far as it is spoken to. Used by the loop's thread alone."""

    def __init__(self, loop: Loop, wire: Socket) -> None:
        self.loop, self.wire, self.socket = loop, wire, wire.socket
        self.budget = loop.budget
        self.window = self.first_window = frames.DEFAULT_WINDOW
        self.largest_frame = frames.DEFAULT_FRAME_SIZE
        self.calls: dict[int, Call] = {}
        self.held = 0
        """Bytes that are held for it (see `Budget`)."""
        self.heard = self.moved = time.monotonic()
        """When bytes last came; when its socket last took some."""
        self.over = self.paused = self.blocked = False
        self.why = "peer"
        """Why it ends, in a word."""
        self._leaving = self._closing = False
        self._stalled: dict[Call, None] = {}
        self._out: deque[bytes | memoryview] = deque()
        self._out_bytes = self._out_held = 0
        self._afters: list[Then] = []

    @abstractmethod
    def take(self, come: bytes) -> None:
        """Bytes have come; none is their end."""

    @property
    def reads(self) -> bool:
        """Whether bytes of it are wanted: not while it has to wait, or does not read ours."""
        if self.paused or not self._out_bytes:
            return not self.paused
        return self._out_bytes <= (SHORT if self.budget.pressed else BACKLOG)

    @property
    def has_unsent(self) -> bool:
        """Whether the peer has not taken all that it was to be told; any thread may ask."""
        return bool(self._out_bytes or self._stalled)

    def drop_stuck(self, horizon: float) -> None:
        """Others wait for room: give up what the peer has not taken since before then."""
        if self.blocked and self.moved < horizon:
            log.info("a connection is closed: it does not take what it asked for")
            self.why = "unread"
            self.close()
        for call in list(self._stalled):
            if call.moved < horizon:
                call.give_up(EXHAUSTED, "the reply was not read while others waited for room")

    def has_room(self, call: Call, size: int) -> bool:
        """Whether so much of a call may be sent now, in one frame."""
        return size <= call.window and size <= self.window and size <= self.largest_frame

    def room(self, call: Call) -> int:
        """Bytes of a call that may be sent now."""
        return min(call.window, self.window)

    def stalled(self, call: Call) -> None:
        """It has more to send than there is room for."""
        self._stalled[call] = None

    def _resume(self) -> None:
        """There is more room: each goes on as far as it can."""
        for call in list(self._stalled):
            if self.window <= 0:
                return
            self._go_on_with(call)

    def _go_on_with(self, call: Call) -> None:
        del self._stalled[call]
        call.resume()
        if call.unsent and not call.over:
            self.stalled(call)  # after the others

    def forget(self, call: Call, ended: bool) -> None:
        """A call is over; a caller that had not `ended` is told that no more is read of it."""
        if self.calls.pop(call.stream, None) is None:
            return
        self._stalled.pop(call, None)
        if not ended:
            self.write(frames.reset(call.stream, frames.NO_ERROR))
        self.budget.calls -= 1
        if call.deadline is not None:
            self.loop.timers.does_not_expire()

    def write(self, data: bytes | memoryview, then: Then | None = None) -> None:
        """Have bytes sent, at the end of the turn; `then` once they have left."""
        if self.over:
            return
        if not self._out and not self._afters:
            self.loop.has_words(self)
        self._out.append(data)
        self._out_bytes += len(data)
        if then is not None:
            self._afters.append(then)

    def write_all(self, pieces: Sequence[Packed], then: Then | None) -> None:
        """As `write`, of several pieces."""
        if not self.over:
            first, *others = pieces
            self.write(first, then)
            self._out += others
            self._out_bytes += sum(map(len, others))

    def flush(self) -> None:
        """Send what is to be sent; what the socket does not take, when it does."""
        try:
            while self._out:
                self._sent(self.wire.send(_first(self._out)))
        except BlockingIOError:
            self._block_on()
            return
        except OSError as error:
            log.debug("a connection broke: %s", error)
            self.why = "broken"
            self.close()
            return
        self._unblock()
        afters, self._afters = self._afters, []
        for then in afters:
            try:
                then()
            except Exception:  # one call must not cost the others theirs
                log.exception("what follows a message failed")
        if self._closing:  # the peer closes once it has heard why; or it might not hear it
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)
        elif self._leaving and not self.calls:
            self.why = "drain"
            self.close()

    @property
    def unsent(self) -> int:
        """Bytes that its socket has not taken yet."""
        return self._out_bytes

    def _sent(self, count: int) -> None:
        self._out_bytes -= count
        self.loop.bytes_out += count
        if self.blocked:
            self.moved = time.monotonic()
        if not self._out_bytes:
            self._out.clear()
            return
        while count:
            piece = self._out.popleft()
            if len(piece) > count:
                self._out.appendleft(memoryview(piece)[count:])
                return
            count -= len(piece)

    def _block_on(self) -> None:
        if not self.blocked:
            self.blocked, self.moved = True, time.monotonic()
            self.loop.watch(self)
        self._hold(self._out_bytes + held_by(self._out[0]))

    def _unblock(self) -> None:
        if self.blocked:
            self.blocked = False
            self.loop.watch(self)
            self._hold(0)

    def _hold(self, size: int) -> None:
        """So much waits for the socket."""
        more = size - self._out_held
        self._out_held = size
        if more > 0:
            self.budget.charge(self, more)
        elif more:
            self.budget.give(self, -more)

    def close(self) -> None:
        """The connection is over, and every call of it."""
        if not self.over:
            self.over = True
            self._out.clear()
            self._out_bytes = 0
            self._afters.clear()
            self._hold(0)
            self.loop.closed(self)
            self.socket.close()
            self._cancel_all()

    def _cancel_all(self) -> None:
        for call in list(self.calls.values()):
            call.cancelled()


def _first(pieces: deque[bytes | memoryview]) -> list[bytes | memoryview]:
    """As many as go in one write."""
    if len(pieces) <= PIECES:
        return list(pieces)
    return [pieces[at] for at in range(PIECES)]
