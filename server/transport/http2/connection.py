"""One connection: bytes to frames to calls (RFC 9113); `Outgoing` is the way back."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final

import grpc

from server.errors import Internal, TooManyBytes, TooManyCalls
from server.transport.http2 import frames, headers
from server.transport.http2.budget import OWN_CALLS
from server.transport.http2.call import EXPIRED, Call
from server.transport.http2.frames import ConnectionFault, Packed, StreamFault
from server.transport.http2.framing import Framing
from server.transport.http2.incoming import AGAIN, WINDOW
from server.transport.http2.sockets import Socket

if TYPE_CHECKING:
    from server.transport.http2.loop import Loop

log = logging.getLogger(__name__)

CONNECTION_WINDOW: Final = 16 * 2**20
"""Bytes of all calls together that the peer may send ahead; what bounds them is each call's."""
TINY: Final = 32  # bytes of a message's piece that costs as much as it brings
HEADERS_BYTES: Final = 2 * headers.LIST_BYTES  # of one block, packed
LARGE_HEAD: Final = 512  # bytes of headers that count by themselves
HEAD_WEIGHT: Final = 8  # bytes that a byte of headers costs
TRICKLE: Final = 256  # bytes of a window that costs more than it brings
LAST_PING: Final = b"the last"
IDLE_PING: Final = b"is there"
UNIMPLEMENTED: Final[int] = grpc.StatusCode.UNIMPLEMENTED.value[0]


class Connection(Framing):
    """A peer. Used by the loop's thread alone."""

    def __init__(self, loop: Loop, wire: Socket, peer: tuple[Any, ...] = ("", 0)) -> None:
        super().__init__(loop, wire)
        self.peer = peer
        """Its host and port, and what else an address has."""
        self.shaken = False
        """Whether its handshake is over, if there is one."""
        self._heads = headers.Heads(headers.request)
        self._begun = 0.0  # when the headers did that go on
        self._credit = CONNECTION_WINDOW  # what the peer may still send
        self._kinds = {
            frames.DATA: self._on_data,
            frames.HEADERS: self._on_headers,
            frames.PRIORITY: self._on_priority,
            frames.RST_STREAM: self._on_reset,
            frames.SETTINGS: self._on_settings,
            frames.PUSH_PROMISE: self._on_push,
            frames.PING: self._on_ping,
            frames.GOAWAY: self._on_goaway,
            frames.WINDOW_UPDATE: self._on_window,
            frames.CONTINUATION: self._on_continuation,
        }

    def shake(self) -> None:
        """Go on with the handshake, if there is one; after it, greet."""
        try:
            self.shaken = self.wire.shake()
        except OSError as error:
            log.debug("a connection's handshake failed: %s", error)
            self.why = "handshake"
            self.close()
        if self.shaken:
            self._greet()

    def _greet(self) -> None:
        """Send the settings."""
        told = (
            (frames.MAX_CONCURRENT_STREAMS, self.loop.most_calls),
            (frames.INITIAL_WINDOW_SIZE, WINDOW),
            (frames.MAX_HEADER_LIST_SIZE, headers.LIST_BYTES),
        )
        self.write(frames.settings(told))
        self.write(frames.window_update(0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW))

    def _on_data(self, stream: int, flags: int, payload: Packed) -> None:
        size = len(payload)
        self._credit -= size
        if self._credit < CONNECTION_WINDOW // 2:
            if self._credit < 0:
                raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "more than the window")
            self.write(frames.window_update(0, CONNECTION_WINDOW - self._credit))
            self._credit = CONNECTION_WINDOW
        call = self.calls.get(stream)
        if call is None:
            self._stray(stream, "DATA")
            return
        if flags & frames.PADDED:
            payload = frames.unpadded(payload, flags)
        last = bool(flags & frames.END_STREAM)
        if len(payload) < TINY and not last:
            self._tokens -= 0.2 if payload else 1
        try:
            call.data(payload, size, last)
        except StreamFault as fault:
            self._fail(call, fault)

    def _on_headers(self, stream: int, flags: int, payload: bytes) -> None:
        if flags & (frames.PADDED | frames.PRIORITISED):
            payload = bytes(frames.unpadded(payload, flags))
            if flags & frames.PRIORITISED:
                if len(payload) < 5:
                    raise ConnectionFault(frames.FRAME_SIZE_ERROR, "HEADERS cut short")
                payload = payload[5:]
        if flags & frames.END_HEADERS:
            self._begin(stream, flags, payload)
        else:
            self._block, self._begun = (stream, flags, bytearray(payload)), self.heard

    def _on_continuation(self, stream: int, flags: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != stream:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a continuation of nothing")
        _, first, block = self._block
        block += payload
        self._tokens -= 1
        if len(block) > HEADERS_BYTES:
            raise ConnectionFault(frames.ENHANCE_YOUR_CALM, "headers without end")
        if flags & frames.END_HEADERS:
            self._block = None
            self._begin(stream, first, bytes(block))

    def _begin(self, stream: int, flags: int, block: bytes) -> None:
        """A request's headers have come whole; or its trailers."""
        if (call := self.calls.get(stream)) is not None:
            self._heads.skip(block)
            if not flags & frames.END_STREAM:
                self._fail(call, StreamFault(frames.PROTOCOL_ERROR, "headers amid a call"))
            else:
                call.no_more()
            return
        if stream <= self._last or not stream % 2:
            self._heads.skip(block)
            self._stray(stream, "HEADERS")
            return
        self._last = stream
        try:
            head = self._heads.read(block)
        except StreamFault as fault:
            self.tire()
            self.write(frames.reset(stream, fault.code))
            return
        if len(self.calls) >= self.loop.most_calls or self._leaving:
            self.write(frames.reset(stream, frames.REFUSED_STREAM))
        elif head.http_status != 200:
            ending = headers.block((":status", str(head.http_status)))
            self.write(frames.headers(stream, ending, frames.END_STREAM, self.largest_frame))
        else:
            self._call(Call(self, stream, head), head, flags, len(block))

    def _call(self, call: Call, head: headers.Head, flags: int, size: int) -> None:
        self.calls[call.stream] = call
        budget = self.budget
        budget.calls += 1
        if call.deadline is not None:
            self.loop.timers.expires(call)
        if budget.calls > budget.most_calls and len(self.calls) > OWN_CALLS:
            self.tire()
            call.reject(TooManyCalls(budget.most_calls, AGAIN))
        elif size > LARGE_HEAD and not call.weigh_head(HEAD_WEIGHT * size):
            call.reject(TooManyBytes(AGAIN))
        elif head.refusal is not None:
            call.end(UNIMPLEMENTED, head.refusal)
        else:
            try:
                self.loop.on_call(call)
            except Exception:  # one call must not cost the others theirs
                log.exception("a call failed unexpectedly")
                call.refuse(Internal())
        if flags & frames.END_STREAM and not call.over:
            call.no_more()

    def _on_priority(self, stream: int, flags: int, payload: bytes) -> None:
        self._tokens -= 1
        if len(payload) != 5:
            raise ConnectionFault(frames.FRAME_SIZE_ERROR, "PRIORITY of an odd size")

    def _on_reset(self, stream: int, flags: int, payload: bytes) -> None:
        self._tokens -= 1
        if len(payload) != 4:
            raise ConnectionFault(frames.FRAME_SIZE_ERROR, "RST_STREAM of an odd size")
        if (call := self.calls.get(stream)) is None:
            self._stray(stream, "RST_STREAM")
        else:
            call.cancelled()

    def _on_settings(self, stream: int, flags: int, payload: bytes) -> None:
        self._tokens -= 1
        if stream or (flags & frames.ACK and payload):
            raise ConnectionFault(frames.PROTOCOL_ERROR, "SETTINGS of a stream")
        if flags & frames.ACK:
            return
        self._tokens -= len(payload) / 100
        said = dict(frames.read_settings(payload))  # the last of a name counts
        if (first := said.get(frames.INITIAL_WINDOW_SIZE)) is not None:
            self._tokens -= len(self.calls) / 100
            self._widen(first - self.first_window)
            self.first_window = first
        if (largest := said.get(frames.MAX_FRAME_SIZE)) is not None:
            self.largest_frame = min(largest, WINDOW)
        self.write(frames.frame(frames.SETTINGS, frames.ACK, 0))

    def _widen(self, more: int) -> None:
        for call in self.calls.values():
            call.window += more
            if call.window > frames.LARGEST_WINDOW:
                raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "a window above 2^31-1")
        self._resume()

    def _on_push(self, stream: int, flags: int, payload: bytes) -> None:
        raise ConnectionFault(frames.PROTOCOL_ERROR, "a client cannot push")

    def _on_ping(self, stream: int, flags: int, payload: bytes) -> None:
        self._tokens -= 1
        if stream:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "PING of a stream")
        if len(payload) != 8:
            raise ConnectionFault(frames.FRAME_SIZE_ERROR, "PING of an odd size")
        if not flags & frames.ACK:
            self.write(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif payload == LAST_PING and not self._leaving:
            self._leaving = True
            self.write(frames.goaway(self._last, frames.NO_ERROR))

    def _on_goaway(self, stream: int, flags: int, payload: bytes) -> None:
        self._tokens -= 1
        if stream:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "GOAWAY of a stream")

    def _on_window(self, stream: int, flags: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(frames.FRAME_SIZE_ERROR, "WINDOW_UPDATE of an odd size")
        more = frames.NUMBER.unpack(payload)[0] & frames.LARGEST_WINDOW
        self._tokens -= 0.01  # they come with what we send
        if more < TRICKLE and (self._stalled or (stream and stream not in self.calls)):
            self._tokens -= 0.2
        if stream:
            self._grant(stream, more)
            return
        if not more:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
        self.window += more
        if self.window > frames.LARGEST_WINDOW:
            raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "a window above 2^31-1")
        self._resume()

    def _grant(self, stream: int, more: int) -> None:
        call = self.calls.get(stream)
        if call is None:
            self._stray(stream, "WINDOW_UPDATE")
        elif not more:
            self._fail(call, StreamFault(frames.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing"))
        elif call.window + more > frames.LARGEST_WINDOW:
            self._fail(call, StreamFault(frames.FLOW_CONTROL_ERROR, "a window above 2^31-1"))
        else:
            call.window += more
            if call in self._stalled:
                self._go_on_with(call)

    def _stray(self, stream: int, what: str) -> None:
        """A frame of no call: one that is over, whose end the peer had not heard of; or none."""
        if not stream or stream > self._last or not stream % 2:
            raise ConnectionFault(frames.PROTOCOL_ERROR, f"{what} of no stream")

    def _fail(self, call: Call, fault: StreamFault) -> None:
        log.debug("a call breaks the protocol: %s", fault.words)
        self.tire()
        self.write(frames.reset(call.stream, fault.code))
        call.cancelled()

    def drop_late(self, horizon: float) -> None:
        """End calls whose message was to come whole since before then."""
        if self._block is not None and self._begun < horizon:
            self.fault(ConnectionFault(frames.ENHANCE_YOUR_CALM, "headers without end"))
        for call in list(self.calls.values()):
            if call.is_late(horizon):
                call.give_up(EXPIRED, "the message did not come whole in time")

    def leave(self) -> None:
        """Tell the peer that no new calls are served; once it knows, that none will be."""
        self.write(frames.goaway(frames.LAST_STREAM, frames.NO_ERROR))
        self.write(frames.frame(frames.PING, 0, 0, LAST_PING))

    def make_room(self) -> None:
        """It has no calls, and others come."""
        with contextlib.suppress(OSError):
            self.wire.send([frames.goaway(self._last, frames.NO_ERROR, "others need the room")])
        self.why = "room"
        self.close()

    def ask(self, now: float) -> None:
        """Ask whether it is there."""
        self.pinged = now
        self.write(frames.frame(frames.PING, 0, 0, IDLE_PING))
