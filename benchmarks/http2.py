"""gRPC calls as fast as one core can make them, so that the server's core is the one that is full:
HTTP/2 by hand, without a coroutine, a thread or a channel a call."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Final

from hpack import Encoder

from server.transport.http2 import frames
from server.transport.http2.headers import Heads

READ: Final = 1 << 18
WINDOW: Final = 1 << 30
LARGEST: Final = frames.DEFAULT_FRAME_SIZE

OnMessage = Callable[[bytes], object]


class Refused(AssertionError):
    """A call ended otherwise than it should."""


class Stream:
    """One call: what it says, and who hears its replies."""

    def __init__(self, connection: Connection, number: int, on_message: OnMessage) -> None:
        self._connection, self.number, self._on_message = connection, number, on_message
        self.window = connection.first_window
        self.over = False
        self._credit = WINDOW
        self._said: list[tuple[bytes | memoryview, bool]] = []  # what waits for room
        self._come: list[bytes] = []

    def send(self, message: bytes, last: bool = False) -> None:
        """Say a message, the last one if so."""
        packed = b"\0" + frames.NUMBER.pack(len(message)) + message
        for at in range(0, len(packed), LARGEST):
            end = at + LARGEST >= len(packed)
            self._said.append((packed[at : at + LARGEST], last and end))
        self.resume()

    def close(self) -> None:
        """Say that there is no more to say."""
        self._said.append((b"", True))
        self.resume()

    def resume(self) -> None:
        """Say as much as there is room for."""
        connection = self._connection
        while self._said:
            piece, last = self._said[0]
            size = len(piece)
            if size > min(self.window, connection.window):
                return
            self.window, connection.window = self.window - size, connection.window - size
            flags = frames.END_STREAM if last else 0
            head = frames.head(frames.DATA, flags, self.number, size)
            connection.write(head, piece)
            del self._said[0]

    def take(self, payload: bytes) -> None:
        """Bytes have come: hand over the messages that are whole."""
        self._credit -= len(payload)
        if self._credit < WINDOW // 2:
            self._connection.write(frames.window_update(self.number, WINDOW - self._credit))
            self._credit = WINDOW
        self._come.append(payload)
        come = payload if len(self._come) == 1 else b"".join(self._come)
        while len(come) >= 5 and len(come) >= (end := 5 + frames.NUMBER.unpack_from(come, 1)[0]):
            self._on_message(come[5:end])
            come = come[end:]
        self._come = [come] if come else []


class Connection:
    """Calls to one server, any number under way."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._address = address
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.window = self.first_window = frames.DEFAULT_WINDOW
        self._out: list[bytes | memoryview] = [
            frames.PREFACE,
            frames.settings([(frames.INITIAL_WINDOW_SIZE, WINDOW)]),
        ]
        self._out.append(frames.window_update(0, WINDOW))
        self._credit, self._rest, self._next = WINDOW, b"", 1
        self._heads, self._encoder = Heads(dict), Encoder()
        self._headers: dict[str, bytes] = {}
        self._streams: dict[int, Stream] = {}

    def begin(self, method: str, on_message: OnMessage) -> Stream:
        """Begin a call; `on_message` hears each reply."""
        stream, self._next = Stream(self, self._next, on_message), self._next + 2
        self._streams[stream.number] = stream
        block = self._head(method)
        self.write(frames.frame(frames.HEADERS, frames.END_HEADERS, stream.number, block))
        return stream

    def _head(self, method: str) -> bytes:
        """A method's headers; after the first time, from the tables."""
        if (known := self._headers.get(method)) is not None:
            return known
        fields = [
            (":method", "POST"), (":scheme", "http"), (":path", method),
            (":authority", self._address), ("te", "trailers"),
            ("content-type", "application/grpc"), ("user-agent", "benchmark"),
        ]  # fmt: skip
        first, self._headers = self._encoder.encode(fields), {}  # others' may mean another now
        self._headers[method] = self._encoder.encode(fields)
        return first

    def write(self, *pieces: bytes | memoryview) -> None:
        """Have bytes sent with the next turn."""
        self._out += pieces

    def turn(self, patience: float | None = None) -> None:
        """Send what was said, wait for something to come, and take it.

        Args:
            patience: seconds after which nothing need have come.

        Raises:
            Refused: a call ended badly.
        """
        self.flush()
        if patience is not None and not select.select([self._socket], [], [], patience)[0]:
            return
        come = self._socket.recv(READ)
        if not come:
            raise Refused("the server has gone")
        come, at = self._rest + come, 0
        while len(come) - at >= frames.HEAD_SIZE:
            high, low, kind, flags, stream = frames.HEAD.unpack_from(come, at)
            start = at + frames.HEAD_SIZE
            end = start + (high << 8 | low)
            if end > len(come):
                break
            self._take(kind, flags, stream, come[start:end])
            at = end
        self._rest = come[at:]

    def flush(self) -> None:
        """Send what was said."""
        out, self._out = b"".join(self._out), []
        if out:
            self._socket.sendall(out)

    def fileno(self) -> int:
        """The socket's, for those who wait for several connections."""
        return self._socket.fileno()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == frames.DATA:
            self._streams[stream].take(payload)
            self._credit -= len(payload)
            if self._credit < WINDOW // 2:
                self.write(frames.window_update(0, WINDOW - self._credit))
                self._credit = WINDOW
        elif kind == frames.HEADERS:
            said = self._heads.read(payload)
            if flags & frames.END_STREAM:
                self._end(stream, said)
        elif kind == frames.WINDOW_UPDATE:
            self._widen(stream, *frames.NUMBER.unpack(payload))
        elif kind == frames.SETTINGS and not flags & frames.ACK:
            self._set(payload)
        elif kind == frames.PING and not flags & frames.ACK:
            self.write(frames.frame(kind, frames.ACK, 0, payload))
        elif kind in (frames.RST_STREAM, frames.GOAWAY):
            raise Refused(f"the server gave up: {payload!r}")

    def _end(self, number: int, trailers: dict[bytes, bytes]) -> None:
        if trailers[b"grpc-status"] != b"0":
            raise Refused(f"a call ended with {trailers}")
        self._streams.pop(number).over = True

    def _widen(self, number: int, more: int) -> None:
        if number in self._streams:
            self._streams[number].window += more
            self._streams[number].resume()
        elif not number:
            self.window += more
            for stream in list(self._streams.values()):
                stream.resume()

    def _set(self, payload: bytes) -> None:
        said = dict(frames.read_settings(payload))
        first = said.get(frames.INITIAL_WINDOW_SIZE, self.first_window)
        for stream in self._streams.values():
            stream.window += first - self.first_window
            stream.resume()
        self.first_window = first
        self.write(frames.frame(frames.SETTINGS, frames.ACK, 0))

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()
